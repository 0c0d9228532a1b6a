package nodetest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Through is peers whose links go through wrap, dialled ones and accepted ones.
func Through(p node.Peers, wrap func(node.Link) node.Link) node.Peers { return wrapped{p, wrap} }

type wrapped struct {
	node.Peers
	wrap func(node.Link) node.Link
}

func (w wrapped) Dial(ctx context.Context, to node.Address) (node.Link, error) {
	l, err := w.Peers.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return w.wrap(l), nil
}

func (w wrapped) Accept(ctx context.Context) (node.Link, error) {
	l, err := w.Peers.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return w.wrap(l), nil
}

// Watched is a link whose traffic a test sees, and may change or hold up. Every function may be nil.
type Watched struct {
	node.Link
	BeforeSend    func(fedkv.Message)
	AfterSend     func(fedkv.Message)
	AfterReceive  func(fedkv.Message)
	BeforeBlock   func(fedkv.BlockHeader)                     // of those sent
	AfterBlock    func(fedkv.BlockHeader)                     // of those sent
	Rows          func(fedkv.BlockHeader, []byte) []byte      // what is sent instead
	BetweenBlocks func(fedkv.BlockHeader)                     // of those received: after the header, before the rows
	Held          func(blocks int)                            // 1 when a block is received, -1 when it is released
	Blocks        func(fedkv.BlockHeader) []fedkv.BlockHeader // the headers that are sent instead, with the same rows
}

// Send sends a message.
func (w *Watched) Send(ctx context.Context, m fedkv.Message) error {
	if w.BeforeSend != nil {
		w.BeforeSend(m)
	}
	err := w.Link.Send(ctx, m)
	if w.AfterSend != nil {
		w.AfterSend(m)
	}
	return err
}

// Receive waits for a message.
func (w *Watched) Receive(ctx context.Context) (fedkv.Message, error) {
	m, err := w.Link.Receive(ctx)
	if m != nil && w.AfterReceive != nil {
		w.AfterReceive(m)
	}
	return m, err
}

// SendBlock sends a block, or what Blocks and Rows make of it.
func (w *Watched) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	if w.BeforeBlock != nil {
		w.BeforeBlock(h)
	}
	headers := []fedkv.BlockHeader{h}
	if w.Blocks != nil {
		headers = w.Blocks(h)
	}
	if w.Rows != nil {
		rows = w.Rows(h, rows)
	}
	var err error
	for _, header := range headers {
		err = w.Link.SendBlock(ctx, header, rows[:header.Length])
	}
	if w.AfterBlock != nil {
		w.AfterBlock(h)
	}
	return err
}

// AcceptBlock waits for a block.
func (w *Watched) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, node.Rows, error) {
	h, rows, err := w.Link.AcceptBlock(ctx, func(h fedkv.BlockHeader) error {
		err := check(h)
		if err == nil && w.BetweenBlocks != nil {
			w.BetweenBlocks(h)
		}
		return err
	})
	if err == nil && w.Link.Err() != nil && w.BetweenBlocks != nil {
		return h, node.Rows{}, w.Link.Err() // the rows did not come any more
	}
	if err == nil && w.Held != nil {
		w.Held(1)
		release := rows.Release
		rows.Release = func() {
			w.Held(-1)
			release()
		}
	}
	return h, rows, err
}

// Scattered is a link whose blocks arrive late and in any order, as streams of their own do. Messages keep theirs.
type Scattered struct {
	node.Link
	most time.Duration // how late, at most

	mu     sync.Mutex
	random *rand.Rand
}

// Scatter wraps a host's links. Equal seeds give equal delays, link by link.
func Scatter(seed uint64, most time.Duration) func(node.Link) node.Link {
	var links atomic.Uint64
	return func(l node.Link) node.Link {
		return &Scattered{Link: l, most: most, random: rand.New(rand.NewPCG(seed, links.Add(1)))}
	}
}

// SendBlock hands a block over; it arrives when it does.
func (s *Scattered) SendBlock(_ context.Context, h fedkv.BlockHeader, rows []byte) error {
	s.mu.Lock()
	delay := time.Duration(s.random.Int64N(int64(s.most)))
	s.mu.Unlock()
	rows = append([]byte(nil), rows...)
	rows = bytes.Clone(rows) // the sender may use its memory again
	time.AfterFunc(delay, func() { _ = s.Link.SendBlock(context.Background(), h, rows) })
	return nil
}
