package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
)

// sendTimeout bounds one control message; a peer that takes longer is lost.
const sendTimeout = 5 * time.Second

// maxRefusals is how many blocks in a row a peer may send that are refused, before its link is closed.
const maxRefusals = 64

// machine is what both session machines of package fedkv have in common.
type machine interface {
	Step(fedkv.Event) error
	Deadline() (time.Duration, bool)
}

// exchange drives one session's machine: links and clock in, messages and staged blocks out. Everything that happens
// goes through step, one event at a time.
type exchange struct {
	machine machine
	shape   fedkv.Shape
	log     zerolog.Logger
	// drain takes over what the machine's Ready says, under the lock.
	drain func()

	start time.Time
	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed at every step, then replaced
	links   map[int]*outbox
	staged  staging
	missing map[int]bool // origins whose rows will not come
	traffic map[int]*traffic
}

// traffic is what was seen of one participant.
type traffic struct {
	first, last time.Time // arrival of its first and last block
	done        fedkv.Done
}

func newExchange(ctx context.Context, shape fedkv.Shape, log zerolog.Logger) *exchange {
	ctx, stop := context.WithCancel(ctx)
	return &exchange{
		shape: shape, log: log, start: time.Now(), ctx: ctx, stop: stop, changed: make(chan struct{}),
		links: map[int]*outbox{}, staged: staging{}, missing: map[int]bool{}, traffic: map[int]*traffic{},
	}
}

// step gives the machine an event and takes over what it wants done.
func (x *exchange) step(e fedkv.Event) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stepLocked(e)
}

func (x *exchange) stepLocked(e fedkv.Event) error {
	_ = x.machine.Step(fedkv.Tick{Now: time.Since(x.start)})
	err := x.machine.Step(e)
	x.drain()
	close(x.changed)
	x.changed = make(chan struct{})
	return err
}

// await returns when ready, which is called under the lock, says true, or with the context's error.
func (x *exchange) await(ctx context.Context, ready func() bool) error {
	for {
		x.mu.Lock()
		done, changed := ready(), x.changed
		x.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run keeps the machine's clock until the exchange ends.
func (x *exchange) run() {
	x.goDo(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			x.mu.Lock()
			at, ok := x.machine.Deadline()
			changed := x.changed
			x.mu.Unlock()
			timer.Stop()
			if ok {
				timer.Reset(time.Until(x.start.Add(at)))
			}
			select {
			case <-timer.C:
				_ = x.step(fedkv.Tick{Now: time.Since(x.start)})
			case <-changed:
			case <-x.ctx.Done():
				return
			}
		}
	})
}

func (x *exchange) goDo(f func()) {
	x.tasks.Add(1)
	go func() {
		defer x.tasks.Done()
		f()
	}()
}

// close ends every task of the exchange. Links stay with who opened them.
func (x *exchange) close() {
	x.stop()
	x.tasks.Wait()
	x.mu.Lock()
	x.staged.clear()
	x.mu.Unlock()
}

// attach connects a link to the machine as participant origin: its messages and, if blocks is set, its blocks become
// events, and what the machine sends to origin goes over it.
func (x *exchange) attach(origin int, link Link, blocks bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.attachLocked(origin, link, blocks)
}

func (x *exchange) attachLocked(origin int, link Link, blocks bool) {
	out := x.links[origin]
	if out == nil {
		out = newOutbox()
		x.links[origin] = out
	}
	out.open(link)
	x.goDo(func() { out.run(x.ctx, func(err error) { x.lost(origin, err) }) })
	x.goDo(func() { x.receiveMessages(origin, link) })
	if blocks {
		x.goDo(func() { x.receiveBlocks(origin, link) })
	}
}

func (x *exchange) receiveMessages(origin int, link Link) {
	for {
		m, err := receive(x.ctx, link)
		if err != nil {
			x.lost(origin, err)
			return
		}
		x.observe(origin, m)
		if err := x.step(fedkv.Received{From: origin, Message: m}); err != nil {
			x.log.Warn().Str("peer", link.ID()).Err(err).Msg("message refused")
		}
	}
}

// receiveBlocks stages what the machine agrees to.
func (x *exchange) receiveBlocks(origin int, link Link) {
	refusals := 0
	for {
		agreed := false
		h, rows, err := link.AcceptBlock(x.ctx, func(h fedkv.BlockHeader) error {
			err := x.step(fedkv.BlockOffered{From: origin, Header: h})
			agreed = err == nil
			return err
		})
		switch {
		case x.ctx.Err() != nil:
			return
		case err != nil && (link.Err() != nil || agreed):
			// the link is gone, or rows that were promised will not come
			x.lost(origin, err)
			return
		case err != nil:
			x.log.Warn().Str("peer", link.ID()).Err(err).Msg("block refused")
			if refusals++; refusals == maxRefusals {
				x.lost(origin, fedkv.Errorf(fedkv.CodeProtocol, "%d blocks in a row were refused", refusals))
				_ = link.Close(fedkv.CodeProtocol, "too many refused blocks")
				return
			}
			continue
		}
		refusals = 0
		if err := h.CheckFinite(x.shape.Layers[h.Layer], rows.Bytes); err != nil {
			rows.Release()
			x.lost(origin, err)
			return
		}
		x.mu.Lock()
		x.staged.put(h, rows)
		t := x.trafficOf(origin)
		if t.last = time.Now(); t.first.IsZero() {
			t.first = t.last
		}
		if err := x.stepLocked(fedkv.BlockIn{From: origin, Header: h}); err != nil {
			x.staged.drop(h)
			x.log.Debug().Str("peer", link.ID()).Err(err).Msg("block dropped")
		}
		x.mu.Unlock()
	}
}

func (x *exchange) trafficOf(origin int) *traffic {
	t := x.traffic[origin]
	if t == nil {
		t = &traffic{}
		x.traffic[origin] = t
	}
	return t
}

// observe keeps what a message tells about a participant that the machine has no use for.
func (x *exchange) observe(origin int, m fedkv.Message) {
	if done, ok := m.(fedkv.Done); ok {
		x.mu.Lock()
		x.trafficOf(origin).done = done
		x.mu.Unlock()
	}
}

// lost reports that a participant is out of reach. The end of the session itself is no loss.
func (x *exchange) lost(origin int, err error) {
	if x.ctx.Err() != nil {
		return
	}
	code := fedkv.CodeOf(err)
	if errors.Is(err, context.DeadlineExceeded) {
		code = fedkv.CodeDeadline
	}
	_ = x.step(fedkv.PeerDown{Origin: origin, Code: code, Text: fedkv.CleanText(err.Error())})
}

// send queues messages, under the lock.
func (x *exchange) send(messages []fedkv.Outbound) {
	for _, m := range messages {
		if out := x.links[m.To]; out != nil {
			out.put(m.Message)
		}
	}
}

// outbox sends one link's messages in order, so that no step waits for a network. The protocol bounds it: a machine
// answers what it receives.
type outbox struct {
	mu     sync.Mutex
	queue  []fedkv.Message
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

func (o *outbox) put(m fedkv.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.queue = append(o.queue, m)
		o.poke()
	}
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
		sending, cancel := context.WithTimeout(ctx, sendTimeout)
		err := o.link.Send(sending, m)
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

// flush waits until every queued message has reached its peer, or for the timeout.
func (x *exchange) flush(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), timeout)
	defer cancel()
	x.mu.Lock()
	links := slices.Collect(maps.Values(x.links))
	x.mu.Unlock()
	var flushing sync.WaitGroup
	for _, o := range links {
		flushing.Go(func() { o.flush(ctx) })
	}
	flushing.Wait()
}
