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

	watched   chan struct{} // closed when nobody listens to the link any more
	hush      context.CancelFunc
	withdrawn map[fedkv.SessionID]string // sessions whose rows are taken back, and why
}

// maxWithdrawn bounds the withdrawals that are remembered for sessions that nobody asks about.
const maxWithdrawn = 64

// take is the held link, if it works.
func (h *Held) take(ctx context.Context) (link Link, welcome fedkv.Welcome, ok bool) {
	if h == nil {
		return nil, welcome, false
	}
	h.mu.Lock()
	link, welcome = h.link, h.welcome
	old := time.Since(h.since) > reuseFor
	h.link = nil
	hush, watched := h.hush, h.watched
	h.mu.Unlock()
	if link == nil {
		return nil, welcome, false
	}
	hush()
	<-watched
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
	ctx, hush := context.WithCancel(context.Background())
	h.link, h.welcome, h.since, h.hush, h.watched = link, welcome, time.Now(), hush, make(chan struct{})
	go h.listen(ctx, link, h.watched)
	return true
}

// listen takes what comes over the held link until it is used again: withdrawals.
func (h *Held) listen(ctx context.Context, link Link, done chan struct{}) {
	defer close(done)
	for {
		m, err := link.Receive(ctx)
		if err != nil {
			return // whoever uses the link next sees why
		}
		if w, ok := m.(fedkv.Withdraw); ok {
			h.withdraw(w.Session, w.Text)
		}
	}
}

// withdraw notes that the rows of a session are taken back.
func (h *Held) withdraw(session fedkv.SessionID, why string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.withdrawn == nil {
		h.withdrawn = map[fedkv.SessionID]string{}
	}
	if len(h.withdrawn) < maxWithdrawn {
		h.withdrawn[session] = why
	}
}

// takenBack says whether and why the rows of a session were taken back, once.
func (h *Held) takenBack(session fedkv.SessionID) (why string, ok bool) {
	if h == nil {
		return "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	why, ok = h.withdrawn[session]
	delete(h.withdrawn, session)
	return why, ok
}

// Close ends the held link, if there is one. Others may be held after it.
func (h *Held) Close() {
	h.mu.Lock()
	link, hush, watched := h.link, h.hush, h.watched
	h.link = nil
	h.mu.Unlock()
	if link != nil {
		hush()
		<-watched
		_ = link.Close(0, errOver.Error())
	}
}
