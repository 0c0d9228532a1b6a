package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"fedattn/fedkv"
)

// maxQueue is how many sessions may wait for their turn at a contributor unless its owner says otherwise.
const maxQueue = 16

// tellEvery is how often a session that waits is told its place, at most.
const tellEvery = time.Second

// turns lets sessions use the engine: so many at once, and as many as fit into the memory. Who waits is served in turn by
// publisher, so that one who asks much does not keep the others waiting, and in order of arrival within a publisher.
type turns struct {
	sessions, queue int
	memory          int64 // bytes for caches; 0: no limit

	mu      sync.Mutex
	running map[*ticket]time.Time // since when
	bytes   int64
	served  map[string]int // by publisher, since somebody began to wait
	waiting []*ticket      // in order of arrival
	typical time.Duration  // of a turn, recent ones weigh more; 0 before the first
}

// ticket is a session that waits.
type ticket struct {
	publisher string
	bytes     int64
	ready     chan struct{} // closed when it is its turn
	place     int           // in the queue, when it was looked at last; from 1
	moved     chan struct{} // holds something while the place is news
}

func newTurns(sessions, queue int, memory int64) *turns {
	return &turns{
		sessions: sessions, queue: min(queue, fedkv.MaxQueue), memory: memory,
		running: map[*ticket]time.Time{}, served: map[string]int{},
	}
}

// full is an error while no more sessions may wait.
func (t *turns) full() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fullLocked()
}

func (t *turns) fullLocked() error {
	if n := len(t.waiting); n >= t.queue {
		return fedkv.Errorf(fedkv.CodeBusy, "this device is serving %d questions and %d more wait for their turn, which is as many as may: try again shortly", len(t.running), n)
	}
	return nil
}

// load is how many use the engine, and how many wait.
func (t *turns) load() (serving, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.running), len(t.waiting)
}

// lease is a session's turn. Its methods may be called again.
type lease struct {
	done func() // the engine is free for somebody else
	free func() // so is the memory
}

// take waits for the turn of a publisher's session whose caches need so many bytes. As long as it waits, tell hears its
// place in the queue, from 1, and how long it will take, 0 if nobody knows: at once, and when the place has changed.
func (t *turns) take(ctx context.Context, publisher string, bytes int64, tell func(place int, wait time.Duration)) (*lease, error) {
	if t.memory > 0 && bytes > t.memory {
		return nil, fedkv.Errorf(fedkv.CodeMemory, "a cache for this question takes %d MiB and this device gives %d MiB: ask with a smaller --context, or share less text here", bytes>>20, t.memory>>20)
	}
	t.mu.Lock()
	if len(t.waiting) > 0 || !t.fits(bytes) {
		if err := t.fullLocked(); err != nil {
			t.mu.Unlock()
			return nil, err
		}
	}
	k := &ticket{publisher: publisher, bytes: bytes, ready: make(chan struct{}), moved: make(chan struct{}, 1)}
	t.waiting = append(t.waiting, k)
	t.next()
	t.mu.Unlock()
	moved, pause := k.moved, (<-chan time.Time)(nil)
	for {
		select {
		case <-k.ready:
			return t.lease(k), nil
		default:
		}
		select {
		case <-k.ready:
			return t.lease(k), nil
		case <-ctx.Done():
			t.leave(k)
			return nil, context.Cause(ctx)
		case <-moved:
			if place, wait := t.outlook(k); place > 0 {
				tell(place, wait)
			}
			moved, pause = nil, time.After(tellEvery)
		case <-pause:
			moved, pause = k.moved, nil
		}
	}
}

// leave takes a session out of the queue that will not wait any more.
func (t *turns) leave(k *ticket) {
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
}

func (t *turns) fits(bytes int64) bool {
	return len(t.running) < t.sessions && (t.memory == 0 || t.bytes+bytes <= t.memory)
}

// first is whose turn it is among those who wait, if publishers were served so often.
func first(waiting []*ticket, served map[string]int) int {
	best := 0
	for i, k := range waiting {
		if served[k.publisher] < served[waiting[best].publisher] {
			best = i
		}
	}
	return best
}

// next lets those begin whose turn it is, and looks at the places of the others; the lock is held. The first in turn is
// waited for even if others would fit.
func (t *turns) next() {
	for len(t.waiting) > 0 {
		i := first(t.waiting, t.served)
		k := t.waiting[i]
		if !t.fits(k.bytes) {
			t.look()
			return
		}
		t.waiting = slices.Delete(t.waiting, i, i+1)
		t.running[k] = time.Now()
		t.bytes += k.bytes
		t.served[k.publisher]++
		close(k.ready)
	}
	clear(t.served)
}

// look finds everybody's place, as it is if nobody else comes; the lock is held.
func (t *turns) look() {
	served, rest := maps.Clone(t.served), slices.Clone(t.waiting)
	for place := 1; len(rest) > 0; place++ {
		i := first(rest, served)
		k := rest[i]
		rest = slices.Delete(rest, i, i+1)
		served[k.publisher]++
		if k.place == place {
			continue
		}
		k.place = place
		select {
		case k.moved <- struct{}{}:
		default:
		}
	}
}

// outlook is a place in the queue, or 0 for who is not in it any more, and how long it will take: the rest of the turn that
// ends first, and turns as long as usual for those before it.
func (t *turns) outlook(k *ticket) (place int, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.waiting, k) {
		return 0, 0
	}
	if t.typical == 0 {
		return k.place, 0
	}
	rest := t.typical
	for _, since := range t.running {
		rest = min(rest, max(t.typical-time.Since(since), 0))
	}
	return k.place, max(rest+t.typical*time.Duration(k.place-1)/time.Duration(t.sessions), time.Millisecond)
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
	return &lease{
		done: give(func() {
			took := time.Since(t.running[k])
			if t.typical == 0 {
				t.typical = took
			}
			t.typical += (took - t.typical) / 4
			delete(t.running, k)
		}),
		free: give(func() { t.bytes -= k.bytes }),
	}
}
