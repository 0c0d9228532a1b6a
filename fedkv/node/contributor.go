package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
)

const (
	// helloTimeout bounds how long a new link may take to say who it is and what it wants.
	helloTimeout = 5 * time.Second
	// joinTimeout bounds how long a direct link waits for a session that this device does not know yet: its commit may
	// be on the way.
	joinTimeout = 10 * time.Second
	// busyTimeout is how long a publisher waits for another session to end before it is refused.
	busyTimeout = 2 * time.Second
)

// Source gives a contributor's segment for a session.
type Source interface {
	// Segment returns the tokens of the text, at most plan.MaxTokens; too long a text is an error that says so.
	Segment(ctx context.Context, plan fedkv.Plan) ([]fedkv.Token, error)
}

// ContributorConfig is what a contributor's owner wants.
type ContributorConfig struct {
	Engine Engine
	Peers  Peers
	Self   fedkv.Hello // role contributor
	ID     string
	Source Source

	MaxTokens  int // longest segment that is shared; 0: no limit but MaxContext
	MaxContext int
	MinLayer   int // rows of earlier layers stay here
	MicroBatch int // in gather; 0: 512. In lockstep a segment is one micro-batch.
	Sessions   int // at once; 0: 1

	// OnSession is told what each session gave away. It may be nil.
	OnSession func(Contribution)
	Log       zerolog.Logger
}

// Contribution is what one session took from this device.
type Contribution struct {
	Session   fedkv.SessionID
	Publisher string // identity of who asked
	Tokens    int
	Layers    int // layers whose rows were sent
	Types     fedkv.WireTypes
	Bytes     int64
	Err       error // nil: the session ended as it should
}

// Contributor serves other devices' sessions.
type Contributor struct {
	cfg   ContributorConfig
	slots chan struct{}

	mu       sync.Mutex
	sessions map[fedkv.SessionID]*contribution
	known    chan struct{} // closed when a session becomes known, then replaced
}

// NewContributor returns a contributor that Serve makes available.
func NewContributor(cfg ContributorConfig) *Contributor {
	if cfg.Sessions == 0 {
		cfg.Sessions = 1
	}
	if cfg.MicroBatch == 0 {
		cfg.MicroBatch = microBatch
	}
	return &Contributor{
		cfg: cfg, slots: make(chan struct{}, cfg.Sessions),
		sessions: map[fedkv.SessionID]*contribution{}, known: make(chan struct{}),
	}
}

// Serve answers links until the context ends or Peers fails, and returns when every session is over.
func (c *Contributor) Serve(ctx context.Context) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		link, err := c.cfg.Peers.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		serving.Go(func() { c.welcome(ctx, link) })
	}
}

// welcome finds out what a new link wants.
func (c *Contributor) welcome(ctx context.Context, link Link) {
	waiting, cancel := context.WithTimeout(ctx, helloTimeout)
	m, err := receive(waiting, link)
	cancel()
	hello, ok := m.(fedkv.Hello)
	if err != nil || !ok {
		c.cfg.Log.Debug().Str("peer", link.ID()).Err(err).Msg("a link without hello")
		_ = link.Close(fedkv.CodeOrder, "hello has to come first")
		return
	}
	if hello.Role == fedkv.RoleContributor {
		c.joined(ctx, link, hello)
		return
	}
	select {
	case c.slots <- struct{}{}:
	case <-time.After(busyTimeout):
		refuse(ctx, link, fedkv.Errorf(fedkv.CodeBusy, "%s", fedkv.CodeBusy.Text()))
		return
	case <-ctx.Done():
		_ = link.Close(fedkv.CodeCancelled, "this device is shutting down")
		return
	}
	defer func() { <-c.slots }()
	c.serve(ctx, link, hello)
}

// receive returns the next message of a type that this version knows.
func receive(ctx context.Context, link Link) (fedkv.Message, error) {
	for {
		if m, err := link.Receive(ctx); m != nil || err != nil {
			return m, err
		}
	}
}

// refuse tells a peer why and closes the link.
func refuse(ctx context.Context, link Link, why error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	_ = link.Send(ctx, fedkv.RefuseOf(why))
	_ = link.Close(fedkv.CodeOf(why), fedkv.CleanText(why.Error()))
}

// joined takes a direct link of another contributor to the session that it names.
func (c *Contributor) joined(ctx context.Context, link Link, hello fedkv.Hello) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	answer, err := fedkv.Greet(c.cfg.Self, hello)
	if err != nil {
		refuse(ctx, link, err)
		return
	}
	if err := link.Send(ctx, answer); err != nil {
		return
	}
	m, err := receive(ctx, link)
	join, ok := m.(fedkv.Join)
	if err != nil || !ok {
		refuse(ctx, link, fedkv.Errorf(fedkv.CodeOrder, "join has to follow welcome"))
		return
	}
	for {
		c.mu.Lock()
		session, known := c.sessions[join.Session], c.known
		c.mu.Unlock()
		if session != nil {
			session.joins(link, join)
			return
		}
		select {
		case <-known:
		case <-ctx.Done():
			refuse(context.WithoutCancel(ctx), link, fedkv.Errorf(fedkv.CodeSession, "there is no session %v here", join.Session))
			return
		}
	}
}

// register makes a session known to joined until the returned function is called.
func (c *Contributor) register(id fedkv.SessionID, s *contribution) (forget func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[id] = s
	close(c.known)
	c.known = make(chan struct{})
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.sessions, id)
	}
}

// serve runs one publisher's session.
func (c *Contributor) serve(ctx context.Context, link Link, hello fedkv.Hello) {
	log := c.cfg.Log.With().Str("publisher", link.ID()).Logger()
	s, err := newContribution(ctx, c, link, log)
	if err != nil {
		refuse(ctx, link, err)
		return
	}
	err = s.run(ctx, hello)
	s.close()

	done := s.report(link.ID(), err)
	event := log.Info()
	if err != nil {
		event = log.Warn().Err(err)
	}
	event.Str("name", hello.Name).Stringer("session", done.Session).Int("tokens", done.Tokens).
		Int("layers", done.Layers).Stringer("types", done.Types).Int64("bytes", done.Bytes).Msg("session over")
	if c.cfg.OnSession != nil {
		c.cfg.OnSession(done)
	}
}

// contribution is one session at a contributor.
type contribution struct {
	host    *Contributor
	x       *exchange
	machine *fedkv.Contributor
	link    Link
	cache   Cache
	tokens  []fedkv.Token
	senders map[int]*blockSender

	// under the exchange's lock
	plan    *fedkv.Plan
	dials   []fedkv.Participant
	work    *fedkv.Work
	sent    fedkv.Done
	over    bool
	failed  error
	waiting []waitingJoin
	direct  []Link // opened or admitted
}

type waitingJoin struct {
	link Link
	join fedkv.Join
}

func newContribution(ctx context.Context, host *Contributor, link Link, log zerolog.Logger) (*contribution, error) {
	cfg := &host.cfg
	machine, err := fedkv.NewContributor(fedkv.ContributorConfig{
		Self: cfg.Self, ID: cfg.ID, Shape: cfg.Engine.Shape(), MaxTokens: cfg.MaxTokens, MaxContext: cfg.MaxContext,
		MinLayer: cfg.MinLayer,
	})
	if err != nil {
		return nil, err
	}
	s := &contribution{host: host, machine: machine, link: link, senders: map[int]*blockSender{}}
	s.x = newExchange(ctx, cfg.Engine.Shape(), log)
	s.x.machine, s.x.drain = machine, s.drain
	return s, nil
}

// drain takes over the machine's outputs; the exchange holds its lock.
func (s *contribution) drain() {
	r := s.machine.Ready()
	s.machine.Advance()
	if r.Note != "" {
		s.x.log.Info().Msg(r.Note)
	}
	if r.Tokenise != nil {
		s.plan = r.Tokenise
	}
	s.dials = append(s.dials, r.Dial...)
	for _, p := range r.Dial {
		// messages to it wait in the outbox until it is reached
		s.x.links[p.Origin] = newOutbox()
	}
	for _, m := range r.Messages {
		if done, ok := m.Message.(fedkv.Done); ok {
			s.sent = done
		}
	}
	s.x.send(r.Messages)
	for _, a := range r.Joins {
		s.answer(a)
	}
	if r.Start != nil {
		s.work = r.Start
	}
	for _, m := range r.Missing {
		s.x.missing[m.Origin] = true
		s.x.log.Warn().Str("peer", m.Name).Str("phase", string(m.Phase)).Msg(m.Text)
	}
	if r.Failed != nil {
		s.failed = r.Failed
	}
	s.over = s.over || r.Finished || r.Failed != nil
}

// run goes through one session, from Hello to the publisher's Done.
func (s *contribution) run(ctx context.Context, hello fedkv.Hello) error {
	s.x.run()
	s.x.attach(fedkv.PublisherLink, s.link, false)
	s.senders[fedkv.PublisherLink] = s.newSender(fedkv.PublisherLink, s.link)
	_ = s.x.step(fedkv.Received{From: fedkv.PublisherLink, Message: hello})
	defer context.AfterFunc(ctx, func() {
		_ = s.x.step(fedkv.Stopped{Code: fedkv.CodeCancelled, Text: "the contributor is shutting down"})
	})()

	if s.await(func() bool { return s.plan != nil }) {
		forget := s.host.register(s.plan.Session, s)
		defer forget()
		if err := s.tokenise(ctx); err != nil {
			_ = s.x.step(fedkv.Stopped{Code: fedkv.CodeOf(err), Text: fedkv.CleanText(err.Error())})
		}
	}
	if s.await(func() bool { return s.work != nil }) {
		if err := s.evaluate(); err != nil {
			_ = s.x.step(fedkv.Stopped{Code: fedkv.CodeOf(err), Text: fedkv.CleanText(err.Error())})
		}
	}
	s.await(func() bool { return false })
	return s.failed
}

// await waits for a state; false means that the session is over.
func (s *contribution) await(reached func() bool) bool {
	over := false
	// the machine ends the session when the context does, so that its last messages can leave
	_ = s.x.await(context.Background(), func() bool { over = s.over; return over || reached() })
	return !over
}

func (s *contribution) tokenise(ctx context.Context) error {
	tokens, err := s.host.cfg.Source.Segment(ctx, *s.plan)
	if err != nil {
		return err
	}
	s.tokens = tokens
	return s.x.step(fedkv.Tokenised{Count: len(tokens)})
}

// evaluate runs prefix and segment through the layers, receiving and sending rows on the way.
func (s *contribution) evaluate() error {
	w := s.work
	for _, p := range s.dials {
		sender := s.newSender(p.Origin, nil)
		s.senders[p.Origin] = sender
		s.x.goDo(func() { s.dial(p, sender) })
	}
	batch := s.host.cfg.MicroBatch
	remoteTokens := 0
	if w.Schedules.Regime() == fedkv.Lockstep {
		batch = len(s.tokens)
		remoteTokens = w.Segment.Offset - len(w.Prefix)
	}
	own := len(w.Prefix) + len(s.tokens)
	var err error
	s.cache, err = s.host.cfg.Engine.Open(fedkv.CacheSpec{
		Sync: w.Waits, LocalCells: own, SyncCells: own + remoteTokens,
		MicroBatch: max(1, min(batch, max(len(s.tokens), len(w.Prefix)))), Outputs: 1,
	})
	if err != nil {
		return err
	}
	if len(w.Prefix) > 0 {
		if err := s.cache.Eval(w.Prefix, 0, 0, nil); err != nil {
			return err
		}
	}
	rows := &remote{
		x: s.x, cache: s.cache, layout: w.Layout, origin: w.Origin, types: w.Types, hidden: map[int]bool{},
		shift: func(int) int { return 0 }, pending: s.machine.Pending,
	}
	if w.Schedules.Regime() == fedkv.Lockstep {
		if err := rows.reserve(w.Waits); err != nil {
			return err
		}
	} else if w.At > len(w.Prefix) {
		if err := s.cache.SetNext(w.At); err != nil {
			return err
		}
	}
	layers, err := fedkv.NewSchedule(w.Sends.Len(), append(w.Sends.Layers(), w.Waits.Layers()...)...)
	if err != nil {
		return err
	}
	last := w.Sends.Last()
	return s.cache.Eval(s.tokens, w.At, 0, &Hook{Layers: layers, OnLayer: func(layer, first, n int) (bool, error) {
		s.x.mu.Lock()
		over := s.over
		s.x.mu.Unlock()
		if over {
			return true, nil
		}
		if w.Sends.Sync(layer) {
			if err := s.sendRows(layer, first-w.At, n); err != nil {
				return true, err
			}
		}
		if w.Waits.Sync(layer) {
			if err := rows.await(s.x.ctx, layer); err != nil {
				return true, err
			}
		}
		return layer >= last, nil
	}})
}

// sendRows takes rows [first, first+n) of the segment out of the cache and queues them for everybody who needs them.
func (s *contribution) sendRows(layer, first, n int) error {
	s.x.mu.Lock()
	blocks, err := s.machine.Blocks(layer, first, n)
	s.x.mu.Unlock()
	if err != nil {
		return err
	}
	for _, b := range blocks {
		h := b.Header
		rows, err := s.cache.AppendRows(make([]byte, 0, h.Length), layer, s.work.At+h.First, h.Rows, h.Types)
		if err != nil {
			return err
		}
		for _, to := range b.To {
			s.senders[to].put(h, rows)
		}
	}
	return nil
}

// dial opens the direct link to a later contributor.
func (s *contribution) dial(to fedkv.Participant, sender *blockSender) {
	ctx, cancel := context.WithTimeout(s.x.ctx, helloTimeout)
	defer cancel()
	link, err := s.host.cfg.Peers.Dial(ctx, Address{ID: to.ID, HostPort: to.Addr})
	if err != nil {
		s.x.lost(to.Origin, fmt.Errorf("no direct link: %w", err))
		return
	}
	s.x.mu.Lock()
	s.direct = append(s.direct, link)
	s.x.mu.Unlock()
	if _, err := greet(ctx, link, s.host.cfg.Self); err != nil {
		s.x.lost(to.Origin, err)
		return
	}
	s.x.attach(to.Origin, link, false)
	sender.open(link)
}

// joins gives the machine another contributor's direct link.
func (s *contribution) joins(link Link, join fedkv.Join) {
	s.x.mu.Lock()
	s.waiting = append(s.waiting, waitingJoin{link, join})
	err := s.x.stepLocked(fedkv.Joined{ID: link.ID(), Join: join})
	unanswered := err != nil && s.takeWaiting(link.ID(), join.Origin) != nil
	s.x.mu.Unlock()
	if err != nil {
		s.x.log.Warn().Str("peer", link.ID()).Err(err).Msg("direct link refused")
	}
	if unanswered { // the session is over
		refuse(context.Background(), link, err)
	}
}

// takeWaiting removes and returns the waiting link of a device; the exchange holds its lock.
func (s *contribution) takeWaiting(id string, origin int) Link {
	for i, w := range s.waiting {
		if w.link.ID() == id && w.join.Origin == origin {
			s.waiting = slices.Delete(s.waiting, i, i+1)
			return w.link
		}
	}
	return nil
}

// answer is the machine's decision about a direct link; the exchange holds its lock.
func (s *contribution) answer(a fedkv.JoinAnswer) {
	link := s.takeWaiting(a.ID, a.Origin)
	switch {
	case link == nil:
	case a.Err != nil:
		s.x.goDo(func() { refuse(s.x.ctx, link, a.Err) })
	default:
		s.direct = append(s.direct, link)
		s.x.attachLocked(a.Origin, link, true)
	}
}

func (s *contribution) report(publisher string, err error) Contribution {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	done := Contribution{Publisher: publisher, Bytes: s.sent.Bytes, Err: err}
	if s.plan != nil {
		done.Session, done.Types = s.plan.Session, s.plan.Types
	}
	if s.work != nil {
		done.Tokens, done.Layers = len(s.tokens), s.work.Sends.Count()
	}
	return done
}

// close frees the session's rows and links.
func (s *contribution) close() {
	s.x.flush(flushTimeout)
	s.x.close()
	if s.cache != nil {
		_ = s.cache.Close()
	}
	s.x.mu.Lock()
	links := append([]Link{s.link}, s.direct...)
	for _, w := range s.waiting {
		links = append(links, w.link)
	}
	s.x.mu.Unlock()
	code, text := fedkv.Code(0), "the session is over"
	var failed *fedkv.Error
	if errors.As(s.failed, &failed) {
		code, text = failed.Code, fedkv.CleanText(failed.Error())
	}
	for _, link := range links {
		_ = link.Close(code, text)
	}
}
