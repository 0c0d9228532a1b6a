package node

import (
	"sync"

	"fedattn/fedkv"
)

type outgoingBlock struct {
	header fedkv.BlockHeader
	rows   []byte // K rows, then V rows
}

// blockSender sends one recipient its blocks in the background, so that rows of a layer leave while later layers
// compute. The plan bounds what it holds: the machine hands out each row of the segment once. No row leaves after the
// session ended.
type blockSender struct {
	s    *contribution
	to   int
	wake chan struct{}

	mu      sync.Mutex
	link    Link // nil until it is open
	queue   []outgoingBlock
	dropped bool
}

func (s *contribution) newSender(to int, link Link) *blockSender {
	b := &blockSender{s: s, to: to, link: link, wake: make(chan struct{}, 1)}
	s.x.tasks.start(b.run)
	return b
}

func (b *blockSender) put(h fedkv.BlockHeader, rows []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dropped {
		b.queue = append(b.queue, outgoingBlock{h, rows})
		b.poke()
	}
}

// open gives the sender its link.
func (b *blockSender) open(link Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link = link
	b.poke()
}

// drop frees what is queued and takes no more: the recipient is lost.
func (b *blockSender) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
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
		if err := link.SendBlock(x.live, block.header, block.rows); err != nil {
			b.drop()
			if x.live.Err() == nil {
				x.lost(b.to, err)
			}
			return
		}
		_ = x.step(fedkv.BlockSent{To: b.to, Header: block.header})
	}
}
