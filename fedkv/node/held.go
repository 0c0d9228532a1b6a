package node

import (
	"context"
	"sync"
	"time"

	"fedattn/fedkv"
)

const (
	// heldFor bounds how long a contributor waits for the next plan of a publisher whose session is over.
	heldFor = 10 * time.Minute
	// reuseFor bounds how old a held link may be that is used again: less, so that the two sides never disagree.
	reuseFor = 8 * time.Minute
	// probeTimeout bounds the round trip that shows that a held link works.
	probeTimeout = time.Second
)

// Held keeps the link to a contributor from one session to the next, which then neither dials nor greets. The zero value
// holds none. A link that broke, or was held for long, is dialled again, so that nobody need know of it.
type Held struct {
	mu      sync.Mutex
	link    Link
	welcome fedkv.Welcome
	since   time.Time
}

// take is the held link, if it works.
func (h *Held) take(ctx context.Context) (link Link, welcome fedkv.Welcome, ok bool) {
	if h == nil {
		return nil, welcome, false
	}
	h.mu.Lock()
	link, welcome = h.link, h.welcome
	old := time.Since(h.since) > reuseFor
	h.link = nil
	h.mu.Unlock()
	if link == nil {
		return nil, welcome, false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if old || link.Err() != nil || link.Flush(ctx) != nil {
		_ = link.Close(0, errOver.Error())
		return nil, welcome, false
	}
	return link, welcome, true
}

// put holds a link whose session is over; false if it has to be closed.
func (h *Held) put(link Link, welcome fedkv.Welcome) bool {
	if h == nil || link.Err() != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.link != nil {
		return false
	}
	h.link, h.welcome, h.since = link, welcome, time.Now()
	return true
}

// Close ends the held link, if there is one. Others may be held after it.
func (h *Held) Close() {
	h.mu.Lock()
	link := h.link
	h.link = nil
	h.mu.Unlock()
	if link != nil {
		_ = link.Close(0, errOver.Error())
	}
}
