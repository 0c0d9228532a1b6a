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

const (
	// sendTimeout bounds one control message; a peer that takes longer is lost.
	sendTimeout = 5 * time.Second

	// flushTimeout bounds how long a session's last messages may take to arrive.
	flushTimeout = time.Second

	// maxRefusals is how many messages, or blocks, in a row a peer may send that are refused, before its link is closed.
	maxRefusals = 64
)

// errOver ends what belongs to a session that is over without a failure.
var errOver = errors.New("the session is over")

// machine is what both session machines of package fedkv have in common.
type machine interface {
	Step(fedkv.Event) error
	Deadline() (time.Duration, bool)
}

// exchange drives one session's machine: links and clock in, messages and staged blocks out. Everything that happens
// goes through step, one event at a time.
//
// It has two contexts, because last messages have to leave after the work is over. Work uses live, which ends when the
// caller's context does, or when the session does; the cause says why. Tasks use ctx, which ends with close only.
type exchange struct {
	machine machine
	shape   fedkv.Shape
	log     zerolog.Logger
	// drain takes over what the machine's Ready says, under the lock.
	drain func()
	// sealed, if set, takes a block that goes through the publisher: its rows are the function's to release.
	sealed func(from int, h fedkv.BlockHeader, rows Rows)
	start  time.Time

	ctx  context.Context
	stop context.CancelFunc
	live context.Context
	end  context.CancelCauseFunc

	tasks tasks

	mu      sync.Mutex
	failed  error         // an *fedkv.Error; nil while the session lives, and if it ended as it should
	changed chan struct{} // closed at every step, then replaced
	links   map[int]*outbox
	staged  staging
	missing map[int]int // by origin: the first layer whose rows will not come
	traffic map[int]*traffic
	silence map[int]time.Duration // by origin: without a sign of life from those who are missing, when they were given up
}

// traffic is what was seen of one participant.
type traffic struct {
	first, last time.Time // arrival of its first and last block
	heard       time.Time // when its last message or block came, or its link
	done        fedkv.Done
	layers      map[int]LayerRows // no more than the plan has, since nothing else is agreed to
}

// arrived counts a block.
func (t *traffic) arrived(h fedkv.BlockHeader, at time.Time) {
	if t.last = at; t.first.IsZero() {
		t.first = at
	}
	t.heard = at
	if t.layers == nil {
		t.layers = map[int]LayerRows{}
	}
	l := t.layers[h.Layer]
	t.layers[h.Layer] = LayerRows{Layer: h.Layer, Rows: l.Rows + h.Kept, Bytes: l.Bytes + int64(h.Length), Last: at}
}

func newExchange(parent context.Context, shape fedkv.Shape, log zerolog.Logger) *exchange {
	x := &exchange{
		shape: shape, log: log, start: time.Now(), changed: make(chan struct{}),
		links: map[int]*outbox{}, staged: staging{}, missing: map[int]int{}, traffic: map[int]*traffic{},
		silence: map[int]time.Duration{},
	}
	x.ctx, x.stop = context.WithCancel(context.WithoutCancel(parent))
	x.live, x.end = context.WithCancelCause(parent)
	return x
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

// await returns when ready, which is called under the lock, says true, or with the reason why the context ended.
func (x *exchange) await(ctx context.Context, ready func() bool) error {
	for {
		x.mu.Lock()
		done, changed := ready(), x.changed
		x.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case done:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// run keeps the machine's clock until the exchange ends.
func (x *exchange) run() {
	x.tasks.start(func() {
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

// fail notes the machine's failure, under the lock, and ends the work.
func (x *exchange) fail(why error) {
	x.failed = why
	x.end(why)
}

// leave closes a link and tells the peer how the session ended.
func (x *exchange) leave(link Link) {
	x.mu.Lock()
	failed := x.failed
	x.mu.Unlock()
	code, text := fedkv.Code(0), errOver.Error()
	if failed != nil {
		code, text = fedkv.CodeOf(failed), fedkv.CleanText(failed.Error())
	}
	_ = link.Close(code, text)
}

// stopped tells the machine why this side, which is named for the others, does not go on. It has no effect on a
// session that is over.
func (x *exchange) stopped(side string, why error) {
	e := fedkv.Stopped{Code: fedkv.CodeOf(why), Text: fedkv.CleanText(why.Error())}
	switch {
	case errors.Is(why, context.Canceled):
		e = fedkv.Stopped{Code: fedkv.CodeCancelled, Text: side + " was stopped"}
	case errors.Is(why, context.DeadlineExceeded):
		e = fedkv.Stopped{Code: fedkv.CodeDeadline, Text: side + " ran out of time"}
	}
	_ = x.step(e)
}

// close ends every task of the exchange. Links stay with who opened them.
func (x *exchange) close() {
	x.end(nil)
	x.stop()
	x.tasks.close()
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
	x.trafficOf(origin).heard = time.Now()
	x.tasks.start(func() { out.run(x.ctx, func(err error) { x.lost(origin, err) }) })
	x.tasks.start(func() { x.receiveMessages(origin, link) })
	if blocks {
		x.tasks.start(func() { x.receiveBlocks(origin, link) })
	}
}

func (x *exchange) receiveMessages(origin int, link Link) {
	refusals := 0
	for {
		m, err := receive(x.ctx, link)
		if err != nil {
			x.lost(origin, err)
			return
		}
		x.observe(origin, m)
		err = x.step(fedkv.Received{From: origin, Message: m})
		if origin == fedkv.PublisherLink && x.live.Err() != nil {
			return // the next message may be of another session
		}
		if refusals = x.refused(origin, link, "message", refusals, err); refusals == maxRefusals {
			return
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
		case err == nil && h.Seal.Sealed:
			x.sealed(origin, h, rows)
		case err == nil:
			if !x.stage(origin, origin, h, rows) {
				return
			}
		case x.ctx.Err() != nil:
			return
		case agreed && origin == fedkv.PublisherLink && link.Err() == nil:
			x.lost(h.Origin, err) // the publisher's link goes on without the rows of somebody else
		case agreed || link.Err() != nil:
			// rows that were promised will not come, or the link is gone
			x.lost(origin, err)
			return
		}
		if refusals = x.refused(origin, link, "block", refusals, err); refusals == maxRefusals {
			return
		}
	}
}

// stage keeps a block of origin, which came over from's link, until it is placed; false if its sender is lost over it.
func (x *exchange) stage(from, origin int, h fedkv.BlockHeader, rows Rows) bool {
	block, err := h.Open(x.shape.Layers[h.Layer], rows.Bytes)
	if err != nil {
		rows.Release()
		x.lost(origin, err)
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.staged.put(block, rows)
	x.trafficOf(origin).arrived(h, time.Now())
	if err := x.stepLocked(fedkv.BlockIn{From: from, Header: h}); err != nil {
		x.staged.drop(h) // its sender went missing meanwhile
	}
	return true
}

// refusal is the log's line for what was refused. What comes too late, or because a person stopped it, is nobody's fault
// and not worth a warning.
func refusal(log zerolog.Logger, why error) *zerolog.Event {
	switch fedkv.CodeOf(why) {
	case 0, fedkv.CodeLost, fedkv.CodeSession, fedkv.CodeCancelled, fedkv.CodeStopping:
		return log.Debug()
	}
	return log.Warn()
}

// refused counts what a peer sent and the machine refused in a row. At maxRefusals the peer is cut off: each one costs
// this side work and a line in its log.
func (x *exchange) refused(origin int, link Link, what string, refusals int, err error) int {
	if err == nil {
		return 0
	}
	refusal(x.log, err).Str("peer", link.ID()).Err(err).Msg(what + " refused")
	if refusals++; refusals == maxRefusals {
		x.lost(origin, fedkv.Errorf(fedkv.CodeProtocol, "it sent %d %ss in a row that were refused", refusals, what))
	}
	return refusals
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
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.trafficOf(origin)
	switch m := m.(type) {
	case fedkv.Abort: // that it gives up is the end of the wait, whoever is first to say so
		return
	case fedkv.Done:
		t.done = m
	}
	t.heard = time.Now()
}

// lost reports that a participant is out of reach, and ends its link, since nothing more is taken from it. The end of
// the exchange itself is no loss.
func (x *exchange) lost(origin int, err error) {
	if x.ctx.Err() != nil {
		return
	}
	code, text := fedkv.CodeOf(err), fedkv.CleanText(err.Error())
	if errors.Is(err, context.DeadlineExceeded) {
		code, text = fedkv.CodeDeadline, fedkv.CodeDeadline.Text()
	}
	if origin == fedkv.PublisherLink {
		// who has sent all its rows has no failure to report, but its owner may want to know what became of them
		refusal(x.log, err).Err(err).Msg("the publisher is gone")
	}
	var silent interface{ Silent() time.Duration }
	x.mu.Lock()
	if _, known := x.missing[origin]; !known && errors.As(err, &silent) {
		x.silence[origin] = silent.Silent()
	}
	_ = x.stepLocked(fedkv.PeerDown{Origin: origin, Code: code, Text: text})
	out := x.links[origin]
	x.mu.Unlock()
	if out != nil {
		out.cut(code, text)
	}
}

// greet says Hello over a link that this side dialled, and waits for Welcome. Without it the link is closed.
func (x *exchange) greet(ctx context.Context, link Link, self fedkv.Hello) (fedkv.Welcome, error) {
	welcome, err := greet(ctx, link, self)
	switch {
	case err == nil:
	case x.ctx.Err() != nil:
		x.leave(link)
	default:
		_ = link.Close(fedkv.CodeOf(err), "no welcome came")
	}
	return welcome, err
}

func greet(ctx context.Context, link Link, self fedkv.Hello) (fedkv.Welcome, error) {
	if err := link.Send(ctx, self); err != nil {
		return fedkv.Welcome{}, err
	}
	m, err := receive(ctx, link)
	if err != nil {
		return fedkv.Welcome{}, err
	}
	switch m := m.(type) {
	case fedkv.Welcome:
		return m, nil
	case fedkv.Refuse:
		return fedkv.Welcome{}, m.Err()
	}
	return fedkv.Welcome{}, fedkv.Errorf(fedkv.CodeOrder, "%T instead of an answer to hello", m)
}

// receive returns the next message of a type that this version knows.
func receive(ctx context.Context, link Link) (fedkv.Message, error) {
	for {
		if m, err := link.Receive(ctx); m != nil || err != nil {
			return m, err
		}
	}
}

// gone notes who went missing, under the lock. Rows from its first missing layer on are of no use, and in gather none.
func (x *exchange) gone(list []fedkv.Missing, regime fedkv.Regime) {
	for _, m := range list {
		x.missing[m.Origin] = m.Layer
		if t := x.traffic[m.Origin]; t != nil && m.Code == fedkv.CodeDeadline && x.silence[m.Origin] == 0 {
			x.silence[m.Origin] = time.Since(t.heard)
		}
		from := m.Layer
		if regime == fedkv.Gather {
			from = 0
		}
		x.staged.dropFrom(m.Origin, from)
		event := x.log.Warn()
		if m.Code == fedkv.CodeCancelled || m.Code == fedkv.CodeStopping { // what a person wanted is no failure
			event = x.log.Info()
		}
		event.Str("peer", m.Name).Str("phase", string(m.Phase)).Int("layer", m.Layer).Msg(m.Text)
	}
}

// send queues messages, under the lock.
func (x *exchange) send(messages []fedkv.Outbound) {
	for _, m := range messages {
		out := x.links[m.To]
		if out != nil && !out.put(m.Message) {
			x.tasks.start(func() {
				x.lost(m.To, fedkv.Errorf(fedkv.CodeProtocol, "it does not take the answers to its messages"))
			})
		}
	}
}

// flush waits until every queued message has reached its peer, or for the timeout. No more are taken.
func (x *exchange) flush(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(x.ctx, timeout)
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

// tasks are goroutines that are waited for. After close none is started.
type tasks struct {
	mu     sync.Mutex
	closed bool
	group  sync.WaitGroup
}

func (t *tasks) start(task func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.group.Go(task)
	}
}

func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.group.Wait()
}
