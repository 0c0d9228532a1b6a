package node

import (
	"context"
	"sync"

	"fedattn/fedkv"
)

// maxQueued is how many messages may wait for a peer. The protocol needs a handful; only a peer that asks and does not
// listen gets here.
const maxQueued = 64

// outbox sends one link's messages in order, so that no step waits for a network.
type outbox struct {
	mu     sync.Mutex
	queue  []fedkv.Message // at most maxQueued
	closed bool
	wake   chan struct{}
	ended  chan struct{} // closed when run returns
	link   Link          // nil until it is open
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// put queues a message; false if too many wait already, for the first time.
func (o *outbox) put(m fedkv.Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
	case len(o.queue) == maxQueued:
		o.closed = true
		return false
	default:
		o.queue = append(o.queue, m)
		o.poke()
	}
	return true
}

// open gives the outbox its link, before run.
func (o *outbox) open(link Link) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.link, o.ended = link, make(chan struct{})
}

// next is the message to send, if there is one, and otherwise whether no more will come.
func (o *outbox) next() (m fedkv.Message, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil, o.closed
	}
	m, o.queue = o.queue[0], o.queue[1:]
	return m, false
}

// run sends until the context ends, a message cannot be sent, or flush ends the outbox.
func (o *outbox) run(ctx context.Context, failed func(error)) {
	defer close(o.ended)
	for {
		m, closed := o.next()
		switch {
		case closed:
			return
		case m == nil:
			select {
			case <-o.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		sending, cancel := context.WithTimeoutCause(ctx, sendTimeout,
			fedkv.Errorf(fedkv.CodeDeadline, "it took more than %v to take a message", sendTimeout))
		err := o.link.Send(sending, m)
		if err != nil && sending.Err() != nil {
			err = context.Cause(sending)
		}
		cancel()
		if err != nil {
			failed(err)
			return
		}
	}
}

// flush takes no more messages and waits until the peer has received those that were queued.
func (o *outbox) flush(ctx context.Context) {
	o.mu.Lock()
	link, ended := o.link, o.ended
	o.closed = true
	o.poke()
	o.mu.Unlock()
	if link == nil {
		return
	}
	select {
	case <-ended:
		_ = link.Flush(ctx)
	case <-ctx.Done():
	}
}

// cut closes the link, if there is one, and drops what waits for it.
func (o *outbox) cut(code fedkv.Code, text string) {
	o.mu.Lock()
	link := o.link
	o.closed, o.queue = true, nil
	o.poke()
	o.mu.Unlock()
	if link != nil {
		_ = link.Close(code, text)
	}
}
