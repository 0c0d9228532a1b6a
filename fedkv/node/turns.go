package node

import (
	"context"
	"slices"
	"sync"

	"fedattn/fedkv"
)

// maxQueue is how many sessions may wait for their turn at a contributor unless its owner says otherwise.
const maxQueue = 16

// turns lets sessions use the engine: so many at once, and as many as fit into the memory. Who waits is served in turn by
// publisher, so that one who asks much does not keep the others waiting, and in order of arrival within a publisher.
type turns struct {
	sessions, queue int
	memory          int64 // bytes for caches; 0: no limit

	mu      sync.Mutex
	running int
	bytes   int64
	served  map[string]int // by publisher, since somebody began to wait
	waiting []*ticket      // in order of arrival
}

// ticket is a session that waits.
type ticket struct {
	publisher string
	bytes     int64
	ready     chan struct{} // closed when it is its turn
}

func newTurns(sessions, queue int, memory int64) *turns {
	return &turns{sessions: sessions, queue: queue, memory: memory, served: map[string]int{}}
}

// full is an error while no more sessions may wait.
func (t *turns) full() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fullLocked()
}

func (t *turns) fullLocked() error {
	if n := len(t.waiting); n >= t.queue {
		return fedkv.Errorf(fedkv.CodeBusy, "this device is serving %d questions and %d more wait for their turn, which is as many as may: try again shortly", t.running, n)
	}
	return nil
}

// lease is a session's turn. Its methods may be called again.
type lease struct {
	done func() // the engine is free for somebody else
	free func() // so is the memory
}

// take waits for the turn of a publisher's session whose caches need so many bytes.
func (t *turns) take(ctx context.Context, publisher string, bytes int64) (*lease, error) {
	if t.memory > 0 && bytes > t.memory {
		return nil, fedkv.Errorf(fedkv.CodeMemory, "a cache for this question takes %d MiB and this device gives %d MiB: ask with a smaller --context, or share less text here", bytes>>20, t.memory>>20)
	}
	t.mu.Lock()
	if len(t.waiting) == 0 && !t.fits(bytes) || len(t.waiting) > 0 {
		if err := t.fullLocked(); err != nil {
			t.mu.Unlock()
			return nil, err
		}
	}
	k := &ticket{publisher, bytes, make(chan struct{})}
	t.waiting = append(t.waiting, k)
	t.next()
	t.mu.Unlock()
	select {
	case <-k.ready:
		return t.lease(k), nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, k)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		t.next() // it may have kept smaller ones waiting
	}
	t.mu.Unlock()
	if i < 0 { // its turn came at the same moment
		l := t.lease(k)
		l.done()
		l.free()
	}
	return nil, context.Cause(ctx)
}

func (t *turns) fits(bytes int64) bool {
	return t.running < t.sessions && (t.memory == 0 || t.bytes+bytes <= t.memory)
}

// next lets those begin whose turn it is; the lock is held. The first in turn is waited for even if others would fit.
func (t *turns) next() {
	for len(t.waiting) > 0 {
		first := 0
		for i, k := range t.waiting {
			if t.served[k.publisher] < t.served[t.waiting[first].publisher] {
				first = i
			}
		}
		k := t.waiting[first]
		if !t.fits(k.bytes) {
			return
		}
		t.waiting = slices.Delete(t.waiting, first, first+1)
		t.running++
		t.bytes += k.bytes
		t.served[k.publisher]++
		close(k.ready)
	}
	clear(t.served)
}

func (t *turns) lease(k *ticket) *lease {
	give := func(back func()) func() {
		return sync.OnceFunc(func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			back()
			t.next()
		})
	}
	return &lease{done: give(func() { t.running-- }), free: give(func() { t.bytes -= k.bytes })}
}
