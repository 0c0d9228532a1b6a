package device

import (
	"context"
	"time"
)

// Backoff decides with how many threads a throttled board evaluates. A board that throttles runs all its cores slower;
// fewer cores at a higher clock do nearly as much, and let it cool. It gives up a quarter of its threads at once, again
// after every patience looks that find no improvement, and takes them back one by one, so that it does not swing.
type Backoff struct {
	most, threads int
	hot           bool
	looks         int // since hot changed
}

// patience is how many looks in a row it takes to change the number of threads once more.
const patience = 6

// NewBackoff begins with all threads.
func NewBackoff(threads int) *Backoff { return &Backoff{most: threads, threads: threads} }

// Look takes one reading into account and returns the number of threads to use, at least 1.
func (b *Backoff) Look(h Heat) int {
	b.looks++
	if h.Throttled != b.hot {
		b.hot, b.looks = h.Throttled, 0
	}
	switch due := b.looks%patience == 0; {
	case due && b.hot:
		b.threads = max(1, b.threads-max(1, b.threads/4))
	case due && b.looks > 0:
		b.threads = min(b.most, b.threads+1)
	}
	return b.threads
}

// Every is how often a board is looked at.
const Every = 5 * time.Second

// Watch looks at the board whenever tick fires, until the context ends, and calls change when the number of threads to
// use is another. It returns at once if the board tells nothing.
func (b Board) Watch(ctx context.Context, threads int, tick <-chan time.Time, change func(threads int, h Heat)) {
	if _, ok := b.Heat(); !ok {
		return
	}
	backoff, now := NewBackoff(threads), threads
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		h, _ := b.Heat()
		if next := backoff.Look(h); next != now {
			now = next
			change(now, h)
		}
	}
}
