package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node/fault"
)

const (
	// helloTimeout bounds how long a new link may take to say who it is and what it wants.
	helloTimeout = 5 * time.Second
	// planTimeout bounds how long a publisher may take to send its plan after Welcome.
	planTimeout = 10 * time.Second
	// joinTimeout bounds how long a direct link waits for a session that this device does not know yet: its commit may
	// be on the way.
	joinTimeout = 10 * time.Second
	// directTimeout bounds how long a direct link to a later contributor may take to open before its rows go through the
	// publisher. Others wait for a join, or for what takes its place, a few seconds longer than that.
	directTimeout = 2 * time.Second
	// sessionTimeout bounds a session whatever its plan says, so that a publisher that does not take its rows holds
	// nothing for ever.
	sessionTimeout = time.Hour
)

var errShutdown = fedkv.Errorf(fedkv.CodeStopping, "this device is shutting down: ask again when it is back")

// Source gives a contributor's segment for a session.
type Source interface {
	// Segment composes the text, of at most plan.MaxTokens; too long a text is an error that says so. Who can choose what to
	// share keeps to plan.Budget, and may choose by plan.Question.
	Segment(ctx context.Context, plan fedkv.Plan) (fedkv.Text, error)
}

// ContributorConfig is what a contributor's owner wants.
type ContributorConfig struct {
	Engine Engine
	Model  fedkv.ModelSize // of the engine's model, for Memory
	Peers  Peers
	Self   fedkv.Hello // role contributor
	ID     string
	Source Source
	Owner  Owner // nil: what the fields below allow, to everybody whom Peers lets in

	// Signer signs rows that go through the publisher, to contributors that this device cannot reach, and Device is the
	// identity of the holder of such a key. Nil: such rows are not sent, or not taken.
	Signer Signer
	Device func(ed25519.PublicKey) string

	// Fetched speaks with a device that asks for the model, see fedkv.Fetch, until the link or the context ends. Nil: it is
	// refused.
	Fetched func(ctx context.Context, link Link)

	MaxTokens  int // longest segment that is shared; 0: no limit but MaxContext
	MaxContext int
	MinLayer   int  // rows of earlier layers stay here
	HomeOnly   bool // all rows stay here: they answer queries
	MaxQueries int  // tokens whose queries are answered in a session, each layer counted; 0: no limit
	// LocalRows is which of the segment's rows its later tokens attend to at local layers, of a kind that looks at no
	// keys; zero: all. Nobody else needs to know.
	LocalRows  fedkv.Selection
	MicroBatch int // in gather; 0: 512. In lockstep a segment is one micro-batch.
	// Rows keeps what was computed, so that the same segment is not evaluated again for the same prefix; nil: nothing is
	// kept. In lockstep rows depend on others, and are not.
	Rows RowCache
	// HomeRows is how many bytes of rows that stay here are kept from one session to the next, if Rows keeps others; 0: none.
	HomeRows int64
	Sessions int   // evaluated at once; 0: 1
	Memory   int64 // bytes for what they take by fedkv.MemoryOf; 0: no limit
	Queue    int   // sessions that may wait for their turn; 0: 16

	// OnSession is told what each session gave away. It may be nil, and is called from several goroutines.
	OnSession func(Contribution)
	Log       zerolog.Logger
}

// Contribution is what one session took from this device.
type Contribution struct {
	Session   fedkv.SessionID
	Publisher string   // identity of who asked
	Name      string   // what it calls itself
	To        []string // identities of all to whom rows went, or were to go: the publisher, and in lockstep later contributors
	Tokens    int
	Layers    int   // layers whose rows were sent
	LayerList []int // which, ascending
	Wire      fedkv.Wire
	Rows      fedkv.Selection // which rows of a layer
	Bytes     int64           // of rows that left this device, or began to
	Kept      bool            // they had been computed before
	Queries   int             // tokens whose queries were answered, each layer counted; then no rows left
	Answers   int64           // bytes of these answers
	Documents []string        // of which the segment was; Grant.Documents if its source does not say
	Sources   []fedkv.Source  // of the segment; nil if its source does not say
	Missing   []fedkv.Missing // earlier contributors that it went on without (lockstep)
	Via       []string        // names of other contributors with which rows were exchanged through the publisher (lockstep)
	Err       error           // nil: the session ended as it should
}

// Contributor serves other devices' sessions.
type Contributor struct {
	cfg     ContributorConfig
	turns   *turns
	shelf   shelf
	serving sync.WaitGroup // one for each link

	mu       sync.Mutex
	sessions map[fedkv.SessionID]*contribution
	known    chan struct{}    // closed when a session becomes known, then replaced
	asked    int              // publishers that are served
	draining bool             // no more are
	given    map[Link][]given // sessions that are over, whose publishers may still have the rows
	drained  chan struct{}    // closed when draining is set and asked is 0
}

// NewContributor returns a contributor that Serve makes available.
func NewContributor(cfg ContributorConfig) *Contributor {
	if cfg.Sessions == 0 {
		cfg.Sessions = 1
	}
	if cfg.Queue == 0 {
		cfg.Queue = maxQueue
	}
	if cfg.MicroBatch == 0 {
		cfg.MicroBatch = microBatch
	}
	return &Contributor{
		cfg: cfg, turns: newTurns(cfg.Sessions, cfg.Queue, cfg.Memory), shelf: shelf{most: cfg.HomeRows},
		sessions: map[fedkv.SessionID]*contribution{}, given: map[Link][]given{}, known: make(chan struct{}), drained: make(chan struct{}),
	}
}

// Serve answers links until the context ends or Peers fails, and returns when every session is over. It may be called
// once.
func (c *Contributor) Serve(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.shelf.close()) }()
	defer c.serving.Wait()
	for {
		link, err := c.cfg.Peers.Accept(ctx)
		if ctx.Err() != nil {
			if err == nil {
				_ = link.Close(fedkv.CodeStopping, errShutdown.Error())
			}
			return nil
		}
		if err != nil {
			return err
		}
		c.serving.Go(func() { c.welcome(ctx, link) })
	}
}

// Retain frees rows that stay here and are kept, unless keep says that their text is still shared; those in use when their
// session ends. It may be called from any goroutine.
func (c *Contributor) Retain(keep func(RowKey) bool) error { return c.shelf.retain(keep) }

// Load is how many sessions use the engine now, and how many wait for their turn. It may be called from any goroutine.
func (c *Contributor) Load() (serving, waiting int) { return c.turns.load() }

// Drain refuses new sessions from now on, with CodeStopping, and returns when those that run are over or the context has
// ended: with how many still run then. Serve goes on, so that publishers that come hear why, until its own context ends.
func (c *Contributor) Drain(ctx context.Context) (left int) {
	c.mu.Lock()
	if !c.draining {
		c.draining = true
		c.left(0)
	}
	c.mu.Unlock()
	select {
	case <-c.drained:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// enter counts a publisher that is served until leave is called, unless no more are.
func (c *Contributor) enter() (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return nil, errShutdown
	}
	c.asked++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.left(1)
	}, nil
}

// left takes n from those who are served, under the lock.
func (c *Contributor) left(n int) {
	if c.asked -= n; c.draining && c.asked == 0 {
		close(c.drained)
	}
}

// welcome finds out what a new link wants.
func (c *Contributor) welcome(ctx context.Context, link Link) {
	fault.At(fault.BeforeHello)
	waiting, cancel := context.WithTimeout(ctx, helloTimeout)
	m, err := receive(waiting, link)
	cancel()
	hello, ok := m.(fedkv.Hello)
	wanted, isFetch := m.(fedkv.Fetch)
	switch {
	case err != nil || !ok && !isFetch:
		c.cfg.Log.Debug().Str("peer", link.ID()).Err(err).Msg("a link without hello")
		_ = link.Close(fedkv.CodeOrder, "hello has to come first")
	case isFetch:
		c.fetch(ctx, link, wanted)
	case hello.Role == fedkv.RoleContributor:
		c.joined(ctx, link, hello)
	default:
		c.serve(ctx, link, hello)
	}
}

// refuse tells a peer why and closes the link.
func refuse(ctx context.Context, link Link, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if link.Send(ctx, fedkv.RefuseOf(why)) == nil {
		_ = link.Flush(ctx)
	}
	_ = link.Close(fedkv.CodeOf(why), fedkv.CleanText(why.Error()))
}

// joined takes a direct link of another contributor to the session that it names, and refuses it if that does not
// want it.
func (c *Contributor) joined(ctx context.Context, link Link, hello fedkv.Hello) {
	waiting, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if err := c.join(waiting, link, hello); err != nil {
		refusal(c.cfg.Log, err).Str("peer", link.ID()).Err(err).Msg("direct link refused")
		refuse(ctx, link, err)
	}
}

func (c *Contributor) join(ctx context.Context, link Link, hello fedkv.Hello) error {
	if _, err := c.admit(link.ID(), fedkv.RoleContributor); err != nil {
		return err
	}
	answer, err := fedkv.Greet(c.cfg.Self, hello)
	if err != nil {
		return err
	}
	if err := link.Send(ctx, answer); err != nil {
		return err
	}
	m, err := receive(ctx, link)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fedkv.Errorf(fedkv.CodeDeadline, "no join came within %v", joinTimeout)
	case ctx.Err() != nil:
		return errShutdown
	case err != nil:
		return err
	}
	join, ok := m.(fedkv.Join)
	if !ok {
		return fedkv.Errorf(fedkv.CodeOrder, "join has to follow welcome")
	}
	for {
		c.mu.Lock()
		session, known := c.sessions[join.Session], c.known
		c.mu.Unlock()
		if session != nil {
			return session.join(link, join)
		}
		select {
		case <-known:
		case <-ctx.Done():
			return fedkv.Errorf(fedkv.CodeSession, "there is no session %v here", join.Session)
		}
	}
}

// register makes a session known to join until the returned function is called.
func (c *Contributor) register(id fedkv.SessionID, s *contribution) (forget func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[id] != nil {
		return nil, fedkv.Errorf(fedkv.CodeDuplicate, "there is a session %v here already", id)
	}
	c.sessions[id] = s
	close(c.known)
	c.known = make(chan struct{})
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.sessions, id)
	}, nil
}

// serve runs a publisher's sessions, one after the other over its link.
func (c *Contributor) serve(ctx context.Context, link Link, hello fedkv.Hello) {
	defer c.parted(link)
	first, greeted := fedkv.Message(hello), false
	for c.session(ctx, link, hello.Name, first, greeted) {
		waiting, cancel := context.WithTimeout(ctx, heldFor)
		m, err := receive(waiting, link)
		cancel()
		switch {
		case ctx.Err() != nil:
			_ = link.Close(fedkv.CodeStopping, errShutdown.Error())
			return
		case err != nil: // nothing more is asked
			_ = link.Close(0, errOver.Error())
			return
		}
		first, greeted = m, true
	}
}

// session runs one of them, which begins with a message, and says whether another one may follow. The owner is asked about
// each.
func (c *Contributor) session(ctx context.Context, link Link, asker string, first fedkv.Message, greeted bool) (more bool) {
	log := c.cfg.Log.With().Str("publisher", link.ID()).Logger()
	leave, err := c.enter()
	if err != nil {
		log.Info().Str("name", asker).Msg("refused while shutting down")
		refuse(ctx, link, err)
		return false
	}
	defer leave()
	grant, err := c.admit(link.ID(), fedkv.RolePublisher)
	if err != nil {
		log.Warn().Err(err).Str("name", asker).Msg("refused")
		refuse(ctx, link, err)
		return false
	}
	s, err := newContribution(ctx, c, link, grant, greeted, log)
	if err != nil {
		refuse(ctx, link, err)
		return false
	}
	s.asker = asker
	s.run(first)
	more = s.close()
	if more {
		c.gave(ctx, link, s)
	}

	done := s.report()
	event := log.Info()
	if done.Err != nil && fedkv.CodeOf(done.Err) != fedkv.CodeCancelled { // what a person wanted is no failure
		event = log.Warn()
	}
	if done.Queries > 0 {
		event = event.Int("queries", done.Queries).Int64("answers", done.Answers)
	}
	if len(done.Via) > 0 {
		event = event.Strs("via_publisher", done.Via)
	}
	event.Err(done.Err).Str("name", asker).Stringer("session", done.Session).Int("tokens", done.Tokens).
		Int("layers", done.Layers).Stringer("wire", done.Wire).Int64("bytes", done.Bytes).Bool("kept", done.Kept).Msg("session over")
	if c.cfg.OnSession != nil {
		c.cfg.OnSession(done)
	}
	return more
}

// contribution is one session at a contributor.
type contribution struct {
	host    *Contributor
	x       *exchange
	machine *fedkv.Contributor
	link    Link
	grant   Grant
	asker   string // what the publisher calls itself
	tokens  []fedkv.Token
	senders map[int]*blockSender // by recipient
	home    KeptRows             // those that stay here and answer queries
	shelve  bool                 // they may be kept for other sessions, under key
	again   bool                 // they were
	layers  map[int]bool         // whose rows were sent

	key      RowKey     // of the segment's rows, if they may be kept
	known    *recording // rows that were kept; nil: none
	recorded *recording // rows to keep; nil: they are not
	lease    *lease     // nil while it is not this session's turn
	cache    Cache      // nil while nothing is evaluated, and when nothing of it is needed any more
	restored bool       // its prefix is a copy: nothing has gone through its layers yet

	// under the exchange's lock
	sources   []fedkv.Source // of the tokens; nil if nothing is said about them
	withdrawn string         // why they were taken back; empty: they were not
	plan      *fedkv.Plan
	deadline  time.Time // of the plan
	work      *fedkv.Work
	dials     []fedkv.Participant // set at the commit, before work
	sent      bool                // all rows are on their way
	owed      bool                // rows of layers that are done are asked for
	bytes     int64               // that left
	queued    int64               // bytes that left or wait for it
	missing   []fedkv.Missing

	answered    int   // tokens whose queries were answered, each layer counted
	answerBytes int64 // of the answers

	waiting []*waitingJoin
	direct  []Link // opened or admitted
	relay   relaying
}

// waitingJoin is a direct link about which the machine has not decided.
type waitingJoin struct {
	link    Link
	join    fedkv.Join
	decided chan error
}

// vocabulary bounds the tokens of a prefix, if the engine tells; otherwise it refuses them itself.
func vocabulary(e Engine) int {
	if e, ok := e.(interface{ Vocabulary() int }); ok {
		return e.Vocabulary()
	}
	return 0
}

func newContribution(ctx context.Context, host *Contributor, link Link, grant Grant, greeted bool, log zerolog.Logger) (*contribution, error) {
	cfg := &host.cfg
	machine, err := fedkv.NewContributor(fedkv.ContributorConfig{
		Self: cfg.Self, ID: cfg.ID, Shape: cfg.Engine.Shape(), MaxTokens: least(cfg.MaxTokens, grant.MaxTokens),
		MaxContext: cfg.MaxContext, MinLayer: max(cfg.MinLayer, grant.MinLayer), HomeOnly: cfg.HomeOnly || grant.Home,
		MaxTime: sessionTimeout, Vocabulary: vocabulary(cfg.Engine), Greeted: greeted,
	})
	if err != nil {
		return nil, err
	}
	s := &contribution{host: host, machine: machine, link: link, grant: grant, senders: map[int]*blockSender{}, layers: map[int]bool{}}
	s.x = newExchange(ctx, cfg.Engine.Shape(), log)
	s.x.machine, s.x.drain, s.x.sealed = machine, s.drain, s.takeSealed
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
		s.deadline = time.Now().Add(min(time.Duration(r.Tokenise.DeadlineMS)*time.Millisecond, sessionTimeout))
	}
	if r.Start != nil {
		s.work = r.Start
	}
	s.dials = append(s.dials, r.Dial...)
	for _, p := range r.Dial {
		// messages to it wait in the outbox until it is reached
		s.x.links[p.Origin] = newOutbox()
	}
	s.x.send(r.Messages)
	for _, a := range r.Joins {
		s.answer(a)
	}
	s.drainRelay(r)
	s.missing = append(s.missing, r.Missing...)
	s.x.gone(r.Missing, fedkv.Lockstep)
	s.sent = s.sent || r.Sent
	s.owed = s.owed || r.Owed
	switch {
	case r.Failed != nil:
		s.x.fail(r.Failed)
	case r.Finished:
		s.x.end(errOver)
	}
}

// run goes through one session, from Hello, or from the plan over a link that had a session before, to the publisher's
// Done.
func (s *contribution) run(first fedkv.Message) {
	s.x.run()
	s.x.attach(fedkv.PublisherLink, s.link, false)
	s.senders[fedkv.PublisherLink] = s.newSender(fedkv.PublisherLink, s.link)
	_ = s.x.step(fedkv.Received{From: fedkv.PublisherLink, Message: first})
	if err := s.contribute(); err != nil {
		s.x.stopped("the contributor", err)
	}
}

// contribute is the session from the plan on. Its error is why this side does not go on, or that the session is over.
func (s *contribution) contribute() (err error) {
	waiting, cancel := context.WithTimeoutCause(s.x.live, planTimeout,
		fedkv.Errorf(fedkv.CodeDeadline, "no plan came within %v", planTimeout))
	defer cancel()
	if err := s.x.await(waiting, func() bool { return s.plan != nil }); err != nil {
		return err
	}
	fault.At(fault.AfterPlan)
	forget, err := s.host.register(s.plan.Session, s)
	if err != nil {
		return err
	}
	defer forget()
	defer func() { err = errors.Join(err, s.free()) }()
	defer s.rest()
	if err := s.admit(); err != nil {
		return err
	}
	started := func() bool { return s.work != nil || s.sent }
	if err := s.await(func() bool { return started() || len(s.dials) > 0 }); err != nil {
		return err
	}
	s.dialAll()
	if err := s.await(started); err != nil {
		return err
	}
	defer func() {
		switch {
		case s.home == nil:
		case s.shelve:
			err = errors.Join(err, s.host.shelf.put(s.key, s.home))
		default:
			err = errors.Join(err, s.home.Close())
		}
	}()
	if s.work != nil {
		if err := s.compute(); err != nil {
			return err
		}
	}
	fault.At(fault.BeforeDone)
	if err := s.settle(s.x.live, func() bool { return s.sent }); err != nil {
		return err
	}
	fault.At(fault.AfterLastBlock)
	fault.Later(fault.InDecode)
	s.rest()
	if s.home != nil {
		return s.answerQueries()
	}
	return s.linger()
}

// admit says Ready, if there is room for the session. In lockstep participants wait for each other inside the layers, so
// that it has to be its turn before; in gather it waits for that when it is known that it needs an engine at all.
func (s *contribution) admit() error {
	if err := s.host.turns.full(); err != nil {
		return err
	}
	tokens, err := s.tokenise()
	if err != nil {
		return err
	}
	if s.plan.Schedules.Regime() == fedkv.Lockstep {
		own := len(s.plan.Prefix) + tokens // cells of others come on top, and how many is not known yet
		if err := s.use(fedkv.CacheSpec{Sync: s.plan.Schedules.Contributors, LocalCells: own, SyncCells: own}); err != nil {
			return err
		}
	}
	if err := s.x.step(fedkv.Tokenised{Count: tokens}); err != nil || len(s.sources) == 0 || s.plan.Home != 0 {
		return err
	}
	return s.x.step(fedkv.Described{Sources: fedkv.Fold(s.sources, fedkv.MaxSources)})
}

// use waits for this session's turn to use the engine. The publisher hears how long that will be.
func (s *contribution) use(spec fedkv.CacheSpec) (err error) {
	if s.lease == nil {
		need := fedkv.MemoryOf(s.host.cfg.Model, s.x.shape, spec, s.plan.Wire, len(s.tokens)).Session()
		s.lease, err = s.host.turns.take(s.x.live, s.link.ID(), need, func(place int, wait time.Duration) {
			_ = s.x.step(fedkv.Queued{Place: place, Wait: wait}) // a session that is over has nothing to say
		})
	}
	return err
}

// rest lets others use the engine.
func (s *contribution) rest() {
	if s.lease != nil {
		s.lease.done()
	}
}

// compute sends the rows that the work asks for, those that were kept or those of an evaluation, or has them answer
// queries.
func (s *contribution) compute() error {
	if s.work.Home != 0 {
		return s.stay()
	}
	s.recall()
	if s.known == nil {
		if err := s.evaluate(); err != nil {
			return err
		}
		s.keep()
	} else if missing, err := s.replay(); err != nil {
		return err
	} else if err := s.sendBlocks(missing); err != nil {
		return err
	}
	if !s.work.Owes {
		return s.free()
	}
	return nil
}

// free closes the cache, if there is one, and ends the turn.
func (s *contribution) free() error {
	var err error
	if s.cache != nil {
		err = s.cache.Close()
		s.cache = nil
	}
	if s.lease != nil {
		s.lease.done()
		s.lease.free()
		s.lease = nil
	}
	return err
}

// await waits for a state, or for the end of the session.
func (s *contribution) await(reached func() bool) error { return s.x.await(s.x.live, reached) }

// linger keeps the links open while rows are on their way: until the publisher says Done, which it may do after a long
// answer, or until the plan's deadline, after which it takes no rows.
func (s *contribution) linger() error {
	ctx, cancel := context.WithDeadlineCause(s.x.live, s.deadline, errOver)
	defer cancel()
	err := s.settle(ctx, func() bool { return false })
	if s.x.live.Err() == nil {
		_ = s.x.step(fedkv.PeerDown{Origin: fedkv.PublisherLink, Code: fedkv.CodeDeadline})
	}
	return err
}

// settle sends rows that are owed until a state is reached, or the context ends.
func (s *contribution) settle(ctx context.Context, reached func() bool) error {
	for {
		owed := false
		err := s.x.await(ctx, func() bool {
			owed = s.owed && s.work != nil
			return owed || reached()
		})
		if err != nil || !owed {
			return err
		}
		s.x.mu.Lock()
		s.owed = false
		blocks, err := s.machine.Owed()
		_ = s.x.stepLocked(fedkv.Tick{Now: time.Since(s.x.start)}) // what it says about them
		s.x.mu.Unlock()
		if err != nil {
			return err
		}
		if err := s.sendBlocks(blocks); err != nil {
			return err
		}
	}
}

// tokenise gets the segment and asks the owner about it.
func (s *contribution) tokenise() (tokens int, err error) {
	source := s.host.cfg.Source
	if s.grant.Source != nil {
		source = s.grant.Source
	}
	text, err := source.Segment(s.x.live, *s.plan)
	if err != nil {
		return 0, err
	}
	s.x.mu.Lock()
	s.tokens, s.sources = text.Tokens, text.Sources
	s.x.mu.Unlock()
	return len(s.tokens), s.consent(len(s.tokens))
}

// evaluate runs prefix and segment through the layers, receiving and sending rows on the way.
func (s *contribution) evaluate() error {
	fault.At(fault.DuringCommit)
	w := s.work
	layers, err := fedkv.NewSchedule(w.Sends.Len(), append(w.Sends.Layers(), w.Waits.Layers()...)...)
	if err != nil {
		return err
	}
	if err := s.openCache(layers); err != nil {
		return err
	}
	rows := &remote{x: s.x, cache: s.cache, wire: w.Wire, hidden: map[int]bool{}, pending: s.machine.Pending}
	if w.Schedules.Regime() == fedkv.Lockstep {
		rows.segments, _ = earlier(w.Layout, w.Origin, func(int) int { return 0 })
		if err := rows.reserve(w.Waits); err != nil {
			return err
		}
	}
	return s.evalSegment(layers, func(layer, first, n int) error {
		fault.At(fault.MidPrefill)
		if w.Sends.Sync(layer) && w.Home == 0 {
			if err := s.sendRows(layer, first-w.At, n); err != nil {
				return err
			}
		}
		fault.At(fault.BetweenLayers)
		if w.Waits.Sync(layer) {
			_, err := rows.await(s.x.live, layer)
			return err
		}
		return nil
	})
}

// evalSegment evaluates the segment behind the prefix, up to the last layer whose rows are sent.
func (s *contribution) evalSegment(layers fedkv.Schedule, visit func(layer, first, n int) error) error {
	w := s.work
	if w.At > len(w.Prefix) {
		if err := s.cache.SetNext(w.At); err != nil {
			return err
		}
	}
	if err := thinOut(s.cache, s.host.cfg.LocalRows, w.Schedules.Contributors, w.At, len(s.tokens)); err != nil {
		return err
	}
	defer interruptAfter(s.x.live, s.cache)()
	err := s.cache.Eval(s.tokens, w.At, 0, &Hook{Layers: layers, OnLayer: func(layer, first, n int) (bool, error) {
		if s.x.live.Err() != nil {
			return true, context.Cause(s.x.live)
		}
		if err := visit(layer, first, n); err != nil {
			return true, err
		}
		// attention of every layer has to be seen once before its rows can answer queries
		return layer >= w.Sends.Last() && (w.Home == 0 || len(w.Prefix) > 0 && !s.restored), nil
	}})
	if err != nil {
		return evalError(s.x.live, "the segment", err)
	}
	return nil
}

// refill evaluates the segment again for rows that were not kept.
func (s *contribution) refill() error {
	last, err := fedkv.NewSchedule(s.work.Sends.Len(), s.work.Sends.Last())
	if err != nil {
		return err
	}
	if err := s.openCache(last); err != nil {
		return err
	}
	return s.evalSegment(last, func(int, int, int) error { return nil })
}

// openCache holds prefix and own tokens, in lockstep those of earlier contributors too, where the segment is one
// micro-batch. The prefix is evaluated.
func (s *contribution) openCache(layers fedkv.Schedule) (err error) {
	w := s.work
	spec := s.spec()
	if err := s.use(spec); err != nil {
		return err
	}
	if s.cache, err = s.host.cfg.Engine.Open(spec); err != nil {
		return fmt.Errorf("a cache for %d tokens: %w", w.Segment.End(), err)
	}
	if len(w.Prefix) == 0 {
		return nil
	}
	if s.restored, err = evalPrefix(s.x.live, s.host.cfg.Engine, s.cache, spec, w.Prefix); err != nil {
		return err
	}
	if err := canCentre(s.cache, w.Wire, layers); err != nil {
		return err
	}
	return canCompare(s.cache, w.Rows)
}

// spec is what the work needs of an engine.
func (s *contribution) spec() fedkv.CacheSpec {
	w := s.work
	batch, remoteTokens := s.host.cfg.MicroBatch, 0
	longest := max(len(s.tokens), len(w.Prefix))
	if w.Schedules.Regime() == fedkv.Lockstep {
		batch, remoteTokens = longest, w.Segment.Offset-len(w.Prefix)
	}
	own := len(w.Prefix) + len(s.tokens)
	return fedkv.CacheSpec{
		Sync: w.Waits, LocalCells: own, SyncCells: own + remoteTokens, MicroBatch: min(batch, longest), Outputs: 1,
	}
}

// sendRows takes what is selected of rows [first, first+n) of the segment out of the cache and queues it for everybody
// who needs it.
func (s *contribution) sendRows(layer, first, n int) error {
	var keys []float32
	if s.work.Rows.NeedsKeys() {
		var err error
		if keys, err = s.keys(layer, first, n); err != nil {
			return err
		}
	}
	var query fedkv.Query
	if s.work.Rows.NeedsQueries() {
		query = s.work.Queries[layer]
	}
	keep := s.work.Rows.Select(layer, len(s.tokens), first, n, keys, query)
	s.x.mu.Lock()
	_ = s.x.stepLocked(fedkv.Tick{Now: time.Since(s.x.start)}) // Done says when the rows were computed
	blocks, err := s.machine.Blocks(layer, first, n, keep)
	s.x.mu.Unlock()
	if err != nil {
		return err
	}
	batch := recordedBatch{layer: layer, first: first, rows: n, keep: keep}
	for _, b := range blocks {
		p, err := s.rows(b)
		if err != nil {
			return err
		}
		if s.recorded != nil {
			h := b.Header
			batch.blocks = append(batch.blocks, recordedBlock{h.First, h.Rows, h.Kept, h.Types, p.rows})
			s.recorded.held = append(s.recorded.held, p)
		}
		if err := s.send(b, p); err != nil {
			return err
		}
	}
	if s.recorded != nil {
		s.recorded.batches = append(s.recorded.batches, batch)
	}
	return nil
}

// keys is K rows [first, first+n) of the segment, [n][elements], at position 0 if they are compared with queries.
func (s *contribution) keys(layer, first, n int) ([]float32, error) {
	types := fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	if s.work.Rows.NeedsQueries() {
		types.K |= fedkv.Centred
	}
	rows, err := s.cache.AppendRows(nil, layer, fedkv.Span(s.work.At+first, n), types)
	if err != nil {
		return nil, err
	}
	shape := s.x.shape.Layers[layer]
	k, _, err := shape.BlockSize(types, n)
	if err != nil {
		return nil, err
	}
	keys := make([]float32, n*shape.K)
	return keys, types.K.DecodeRows(keys, shape.K, rows[:k])
}

// sendBlocks sends rows that are computed: kept ones, those in the cache, or if there is none any more those of another
// evaluation.
func (s *contribution) sendBlocks(blocks []fedkv.Outgoing) error {
	for _, b := range blocks {
		h := b.Header
		var p *payload
		if rows, ok := s.known.payload(h, s.x.shape.Layers[h.Layer]); ok {
			p = keptPayload(rows)
		} else {
			if s.cache == nil {
				if err := s.refill(); err != nil {
					return err
				}
			}
			var err error
			if p, err = s.rows(b); err != nil {
				return err
			}
		}
		if err := s.send(b, p); err != nil {
			return err
		}
	}
	return nil
}

// rows takes a block's rows out of the cache, for everybody who gets them, and for the recording if there is one.
func (s *contribution) rows(b fedkv.Outgoing) (*payload, error) {
	h, holders := b.Header, len(b.To)
	if s.recorded != nil {
		holders++
	}
	p := newPayload(h.Length, holders)
	p.rows = fedkv.AppendBitmap(p.rows, b.Keep)
	if h.Kept == 0 {
		return p, nil
	}
	var err error
	p.rows, err = s.cache.AppendRows(p.rows, h.Layer, b.Positions(s.work.At), h.Types)
	return p, err
}

// send queues a block for everybody who needs it, if the owner lets so much out.
func (s *contribution) send(b fedkv.Outgoing, p *payload) error {
	if err := s.spend(len(b.To), len(p.rows)); err != nil {
		return err
	}
	for _, to := range b.To {
		s.senders[to].put(b.Header, p)
		s.layers[b.Header.Layer] = true
	}
	return nil
}

// dialAll opens the direct links to later contributors.
func (s *contribution) dialAll() {
	s.x.mu.Lock()
	dials := s.dials
	s.x.mu.Unlock()
	for _, p := range dials {
		sender := s.newSender(p.Origin, nil)
		s.senders[p.Origin] = sender
		s.x.tasks.start(func() { s.dial(p, sender) })
	}
}

// dial opens the direct link to a later contributor.
func (s *contribution) dial(to fedkv.Participant, sender *blockSender) {
	limit := helloTimeout
	if s.host.cfg.Signer != nil {
		limit = directTimeout
	}
	ctx, cancel := context.WithTimeout(s.x.ctx, limit)
	defer cancel()
	fault.At(fault.BeforeJoin)
	link, err := dialAgain(ctx, func(ctx context.Context) (Link, error) {
		return s.host.cfg.Peers.Dial(ctx, Address{ID: to.ID, HostPort: to.Addr})
	})
	if err == nil {
		s.x.mu.Lock()
		s.direct = append(s.direct, link)
		s.x.mu.Unlock()
		if _, err = s.x.greet(ctx, link, s.host.cfg.Self); err == nil {
			s.x.attach(to.Origin, link, false)
			sender.open(link)
			return
		}
	}
	if s.host.cfg.Signer != nil && outOfReach(err) && s.sendThroughPublisher(to, sender, err) {
		return
	}
	sender.drop()
	s.x.lost(to.Origin, fmt.Errorf("no direct link: %w", err))
}

// join gives the machine another contributor's direct link and waits for its decision, which comes with the commit or
// the end of the session at the latest.
func (s *contribution) join(link Link, join fedkv.Join) error {
	w := &waitingJoin{link, join, make(chan error, 1)}
	s.x.mu.Lock()
	s.waiting = append(s.waiting, w)
	_ = s.x.stepLocked(fedkv.Joined{ID: link.ID(), Join: join})
	s.x.mu.Unlock()
	return <-w.decided
}

// answer is the machine's decision about a direct link; the exchange holds its lock.
func (s *contribution) answer(a fedkv.JoinAnswer) {
	i := slices.IndexFunc(s.waiting, func(w *waitingJoin) bool { return w.link.ID() == a.ID && w.join.Origin == a.Origin })
	w := s.waiting[i] // every answer has its Joined
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if a.Err == nil {
		s.direct = append(s.direct, w.link)
		s.x.attachLocked(a.Origin, w.link, true)
	}
	w.decided <- a.Err
}

// report is what the session gave away.
func (s *contribution) report() Contribution {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	done := Contribution{Publisher: s.link.ID(), Name: s.asker, Documents: s.documents(), Sources: s.sources, Bytes: s.bytes, Queries: s.answered, Answers: s.answerBytes, Missing: s.missing, Via: s.relay.names, Err: s.x.failed}
	if s.plan != nil {
		done.Session, done.Wire, done.Rows = s.plan.Session, s.plan.Wire, s.plan.Rows
	}
	if s.work != nil {
		done.Tokens, done.Layers, done.Kept = len(s.tokens), len(s.layers), s.known != nil || s.again
		done.LayerList = slices.Sorted(maps.Keys(s.layers))
		if s.work.Home == 0 {
			done.To = append(done.To, s.link.ID())
		}
		for _, p := range s.dials {
			done.To = append(done.To, p.ID)
		}
	}
	return done
}

// close ends the session's tasks and links. The publisher's stays, and more is true, if the publisher ended the session as
// it should: then nothing of it is on its way any more, and the next plan may come.
func (s *contribution) close() (more bool) {
	s.x.flush(flushTimeout)
	s.x.close()
	s.x.mu.Lock()
	links := s.direct
	if s.plan != nil && s.x.failed == nil {
		done := s.x.trafficOf(fedkv.PublisherLink).done
		more = done.Session == s.plan.Session && s.plan.Home == 0 && s.plan.Schedules.Regime() == fedkv.Gather
	}
	s.x.mu.Unlock()
	if !more {
		links = append(links, s.link)
	}
	for _, link := range links {
		s.x.leave(link)
	}
	return more
}
