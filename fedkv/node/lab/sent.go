package lab

import (
	"context"
	"sync"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// sent collects what contributors say of the rows that they sent, to whomever. A session is over for its publisher as
// soon as its own rows are there, so rows from one contributor to another may still be on their way then: to count all
// of them, everybody's word has to be waited for.
type sent struct {
	waiting sync.WaitGroup
	mu      sync.Mutex
	bytes   int64
}

// watch is a link to one contributor. The contributor has spoken when it says Done, or when its link fails.
func (s *sent) watch(l node.Link) node.Link {
	s.waiting.Add(1)
	return &watched{Link: l, sent: s, spoken: sync.OnceFunc(s.waiting.Done)}
}

// wait returns the bytes of rows that all watched contributors sent, headers not counted.
func (s *sent) wait() int64 {
	s.waiting.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

type watched struct {
	node.Link
	sent   *sent
	spoken func()
}

func (w *watched) Receive(ctx context.Context) (fedkv.Message, error) {
	m, err := w.Link.Receive(ctx)
	if done, ok := m.(fedkv.Done); ok {
		w.sent.mu.Lock()
		w.sent.bytes += done.Bytes
		w.sent.mu.Unlock()
	}
	if _, ok := m.(fedkv.Done); ok || err != nil {
		w.spoken()
	}
	return m, err
}
