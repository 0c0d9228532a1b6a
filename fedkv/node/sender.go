package node

import (
	"math"
	"sync"
	"sync/atomic"

	"fedattn/fedkv"
)

// payload is the rows of one block, which several recipients may get. Its memory belongs to another block as soon as
// all of them have let go of it.
type payload struct {
	rows    []byte
	holders atomic.Int32
}

var payloads = sync.Pool{New: func() any { return new(payload) }}

// newPayload is an empty one with room for size bytes, to be released by as many holders.
func newPayload(size, holders int) *payload {
	p := payloads.Get().(*payload)
	if cap(p.rows) < size {
		p.rows = make([]byte, 0, size)
	}
	p.rows = p.rows[:0]
	p.holders.Store(int32(holders))
	return p
}

// keptPayload is rows that belong to a cache: its memory never goes to another block.
func keptPayload(rows []byte) *payload {
	p := &payload{rows: rows}
	p.holders.Store(math.MaxInt32)
	return p
}

func (p *payload) release() {
	if p.holders.Add(-1) == 0 {
		payloads.Put(p)
	}
}

type outgoingBlock struct {
	header fedkv.BlockHeader
	*payload
}

// blockSender sends one recipient its blocks in the background, so that rows of a layer leave while later layers
// compute. The plan bounds what it holds: the machine hands out each row of the segment once. No row leaves after the
// session ended.
type blockSender struct {
	s    *contribution
	to   int
	wake chan struct{}

	mu      sync.Mutex
	link    Link  // nil until it is open
	seal    *seal // of blocks that go through the publisher
	queue   []outgoingBlock
	dropped bool
}

func (s *contribution) newSender(to int, link Link) *blockSender {
	b := &blockSender{s: s, to: to, link: link, wake: make(chan struct{}, 1)}
	s.x.tasks.start(b.run)
	return b
}

// put queues a block and lets go of its payload when it is sent.
func (b *blockSender) put(h fedkv.BlockHeader, p *payload) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped {
		p.release()
		return
	}
	b.queue = append(b.queue, outgoingBlock{h, p})
	b.poke()
}

// open gives the sender its link.
func (b *blockSender) open(link Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link = link
	b.poke()
}

// through gives the sender the publisher's link, over which its blocks go sealed.
func (b *blockSender) through(link Link, s *seal) {
	b.mu.Lock()
	b.seal = s
	b.mu.Unlock()
	b.open(link)
}

// drop frees what is queued and takes no more: the recipient is lost.
func (b *blockSender) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, block := range b.queue {
		block.release()
	}
	b.queue, b.dropped = nil, true
}

func (b *blockSender) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *blockSender) next() (Link, outgoingBlock, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.link == nil || len(b.queue) == 0 {
		return nil, outgoingBlock{}, false
	}
	block := b.queue[0]
	b.queue[0] = outgoingBlock{}
	b.queue = b.queue[1:]
	return b.link, block, true
}

func (b *blockSender) run() {
	x := b.s.x
	for {
		link, block, ok := b.next()
		switch {
		case x.live.Err() != nil:
			return
		case !ok:
			select {
			case <-b.wake:
			case <-x.live.Done():
			}
			continue
		}
		x.mu.Lock()
		b.s.bytes += int64(block.header.Length)
		x.mu.Unlock()
		header, err := b.seal.header(block.header, block.rows)
		if err == nil {
			err = link.SendBlock(x.live, header, block.rows)
		}
		block.release()
		if err != nil {
			b.drop()
			if x.live.Err() == nil {
				x.lost(b.to, err)
			}
			return
		}
		_ = x.step(fedkv.BlockSent{To: b.to, Header: block.header})
	}
}
