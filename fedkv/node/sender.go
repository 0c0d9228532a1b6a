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
// compute. The plan bounds what it holds: each row is queued once.
type blockSender struct {
	s    *contribution
	to   int
	wake chan struct{}

	mu    sync.Mutex
	link  Link // nil until it is open
	queue []outgoingBlock
}

func (s *contribution) newSender(to int, link Link) *blockSender {
	b := &blockSender{s: s, to: to, link: link, wake: make(chan struct{}, 1)}
	s.x.goDo(b.run)
	return b
}

func (b *blockSender) put(h fedkv.BlockHeader, rows []byte) {
	b.mu.Lock()
	b.queue = append(b.queue, outgoingBlock{h, rows})
	b.mu.Unlock()
	b.poke()
}

// open gives the sender its link.
func (b *blockSender) open(link Link) {
	b.mu.Lock()
	b.link = link
	b.mu.Unlock()
	b.poke()
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
	ctx := b.s.x.ctx
	for {
		link, block, ok := b.next()
		if !ok {
			select {
			case <-b.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := link.SendBlock(ctx, block.header, block.rows); err != nil {
			b.s.x.lost(b.to, err)
			return
		}
		_ = b.s.x.step(fedkv.BlockSent{To: b.to, Header: block.header})
	}
}
