package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
)

// microBatch is how many tokens go through the layers together where nothing else decides: llama.cpp's own default.
const microBatch = 512

// flushTimeout bounds how long a session's last messages may take to leave.
const flushTimeout = time.Second

// Contact is a device that is asked to contribute.
type Contact struct {
	Name string // what the owner calls it
	Dial func(ctx context.Context) (Link, error)
}

// Question is one session as its publisher wants it.
type Question struct {
	Engine   Engine
	Self     fedkv.Hello // role publisher
	ID       string
	Contacts []Contact // in token order; contributor i is Contacts[i]

	Prefix []fedkv.Token // public: every participant evaluates it
	Own    []fedkv.Token // the publisher's own segment
	Answer int           // tokens to keep room for after it

	Schedules  fedkv.Schedules
	Types      fedkv.WireTypes
	Positions  fedkv.Positions
	MaxContext int // positions, the answer's included

	Outputs    int           // of how many of the last own tokens logits are kept; 0: of one, to generate
	MicroBatch int           // 0: 512 in gather, the whole segment in lockstep
	SetupBy    time.Duration // who is not ready by then is left out
	GatherBy   time.Duration // whose rows are not here by then is missing
	RequireAll bool
	MinPeers   int
	MaxStaging int64 // bytes of rows held before they are placed; 0: no limit

	Log zerolog.Logger
}

// Session is a question whose prompt is evaluated: rows are placed, logits are there.
type Session struct {
	q       *Question
	x       *exchange
	machine *fedkv.Publisher
	cache   Cache
	links   []Link
	names   []string // by origin: what the owner calls it, or what it calls itself
	report  Report
	next    int // position of the next token

	// under the exchange's lock
	committed, settled *fedkv.Layout
	failed             error
}

// Ask runs the steps that package node's documentation numbers, up to the logits of the question's last token. The
// session must be closed.
func Ask(ctx context.Context, q Question) (*Session, error) {
	q.Outputs = max(1, q.Outputs)
	s := &Session{q: &q}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	err := s.prefill(ctx)
	if err != nil {
		if ctx.Err() != nil {
			_ = s.x.step(fedkv.Stopped{Code: fedkv.CodeCancelled, Text: "the publisher cancelled the session"})
		} else {
			_ = s.x.step(fedkv.Stopped{Code: fedkv.CodeOf(err), Text: fedkv.CleanText(err.Error())})
		}
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open starts the machine and dials everybody at once.
func (s *Session) open(ctx context.Context) error {
	q := s.q
	var id fedkv.SessionID
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	names := make([]string, len(q.Contacts))
	for i, c := range q.Contacts {
		names[i] = c.Name
	}
	s.names = slices.Clone(names)
	s.x = newExchange(ctx, q.Engine.Shape(), q.Log.With().Stringer("session", id).Logger())
	var err error
	s.machine, err = fedkv.NewPublisher(fedkv.PublisherConfig{
		Session: id, Self: q.Self, ID: q.ID, Shape: q.Engine.Shape(), Schedules: q.Schedules, Types: q.Types,
		Positions: q.Positions, Prefix: q.Prefix, Own: len(q.Own), MaxContext: q.MaxContext - q.Answer,
		Contributors: len(q.Contacts), Names: names, RequireAll: q.RequireAll, MinPeers: q.MinPeers,
		SetupBy: q.SetupBy, GatherBy: q.GatherBy,
	})
	if err != nil {
		return err
	}
	s.links = make([]Link, len(q.Contacts))
	s.x.machine, s.x.drain = s.machine, s.drain
	s.report = Report{Session: id, Started: time.Now(), Regime: q.Schedules.Regime()}
	s.drain()
	s.x.run()
	for origin, contact := range q.Contacts {
		s.x.goDo(func() { s.connect(origin, contact) })
	}
	return nil
}

// drain takes over the machine's outputs; the exchange holds its lock.
func (s *Session) drain() {
	r := s.machine.Ready()
	s.machine.Advance()
	s.x.send(r.Messages)
	s.report.Notes = append(s.report.Notes, r.Notes...)
	for _, m := range r.Missing {
		s.x.missing[m.Origin] = true
		s.x.log.Warn().Str("peer", m.Name).Str("phase", string(m.Phase)).Msg(m.Text)
	}
	if r.Committed != nil {
		s.committed = r.Committed
	}
	if r.Settled != nil {
		s.settled = r.Settled
	}
	if r.Failed != nil {
		s.failed = r.Failed
	}
}

// connect dials a contributor, greets it and hands the link to the machine.
func (s *Session) connect(origin int, contact Contact) {
	ctx, cancel := context.WithTimeout(s.x.ctx, s.q.SetupBy)
	defer cancel()
	link, err := contact.Dial(ctx)
	if err != nil {
		s.x.lost(origin, err)
		return
	}
	s.x.mu.Lock()
	s.links[origin] = link
	s.x.mu.Unlock()
	welcome, err := greet(ctx, link, s.q.Self)
	if err != nil {
		s.x.lost(origin, err)
		return
	}
	s.x.mu.Lock()
	if s.names[origin] == "" {
		s.names[origin] = welcome.Name
	}
	s.x.mu.Unlock()
	s.x.attach(origin, link, true)
	err = s.x.step(fedkv.PeerUp{Origin: origin, Welcome: welcome, ID: link.ID(), Addr: link.Addr()})
	if err != nil {
		s.x.log.Warn().Str("peer", welcome.Name).Err(err).Msg("contributor left out")
	}
}

// greet says Hello and waits for Welcome.
func greet(ctx context.Context, link Link, self fedkv.Hello) (fedkv.Welcome, error) {
	if err := link.Send(ctx, self); err != nil {
		return fedkv.Welcome{}, err
	}
	for {
		m, err := link.Receive(ctx)
		if err != nil {
			return fedkv.Welcome{}, err
		}
		switch m := m.(type) {
		case nil: // of a later version
		case fedkv.Welcome:
			return m, nil
		case fedkv.Refuse:
			return fedkv.Welcome{}, m.Err()
		default:
			return fedkv.Welcome{}, fedkv.Errorf(fedkv.CodeOrder, "%T instead of an answer to hello", m)
		}
	}
}

// await waits for a state of the machine, or for the end of the session.
func (s *Session) await(ctx context.Context, reached func() bool) error {
	var failed error
	err := s.x.await(ctx, func() bool { failed = s.failed; return failed != nil || reached() })
	return errors.Join(err, failed)
}

// prefill evaluates prefix, everybody's rows and the own segment.
func (s *Session) prefill(ctx context.Context) error {
	q := s.q
	if err := s.await(ctx, func() bool { return s.committed != nil }); err != nil {
		return err
	}
	layout := *s.committed
	s.report.SetupMS = since(s.report.Started)
	if err := s.checkStaging(layout); err != nil {
		return err
	}
	if err := s.openCache(layout); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.cache.Interrupt)
	defer stop()
	if len(q.Prefix) > 0 {
		if err := s.cache.Eval(q.Prefix, 0, 0, nil); err != nil {
			return evalError(ctx, "the prefix", err)
		}
		if q.Positions == fedkv.Canonical && len(layout.Segments) > 1 {
			if err := s.cache.CanShift(); err != nil {
				return fedkv.Errorf(fedkv.CodePlan, "%v; use --positions inplace", err)
			}
		}
	}

	waiting := time.Now()
	if err := s.await(ctx, func() bool { return s.settled != nil }); err != nil {
		return err
	}
	layout = *s.settled
	s.report.WaitMS = since(waiting)
	rows := &remote{
		x: s.x, cache: s.cache, layout: layout, origin: len(q.Contacts), types: q.Types, hidden: map[int]bool{},
		shift: s.machine.Shift, pending: s.machine.Pending,
	}
	placing := time.Now()
	if err := rows.reserve(q.Schedules.Publisher); err != nil {
		return err
	}
	var hook *Hook
	if s.report.Regime == fedkv.Gather {
		for _, layer := range q.Schedules.Publisher.Layers() {
			if err := rows.place(layer); err != nil {
				return err
			}
		}
	} else {
		hook = &Hook{Layers: q.Schedules.Publisher, OnLayer: func(layer, _, _ int) (bool, error) {
			waiting := time.Now()
			err := rows.await(ctx, layer)
			s.report.SyncMS += since(waiting)
			return false, err
		}}
	}
	if hook == nil {
		s.report.SyncMS = since(placing)
	}
	own := layout.Segments[len(layout.Segments)-1]
	s.report.Layout, s.report.Own = layout, own.Tokens
	evaluating := time.Now()
	if err := s.cache.Eval(q.Own, own.Offset, q.Outputs, hook); err != nil {
		return evalError(ctx, "the question", err)
	}
	s.report.PrefillMS = since(evaluating)
	s.next = own.Offset + own.Tokens
	return nil
}

// evalError names what was evaluated, or says that the user stopped it.
func evalError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("evaluating %s: %w", what, err)
}

// checkStaging holds the rows to come against the memory that they may take before they are placed.
func (s *Session) checkStaging(layout fedkv.Layout) error {
	var bytes int64
	for _, segment := range layout.Segments[:len(layout.Segments)-1] {
		for _, layer := range s.q.Schedules.Publisher.Layers() {
			k, v, err := s.q.Engine.Shape().Layers[layer].BlockSize(s.q.Types, segment.Tokens)
			if err != nil {
				return err
			}
			bytes += int64(k) + int64(v)
		}
	}
	if s.q.MaxStaging > 0 && bytes > s.q.MaxStaging {
		return fedkv.Errorf(fedkv.CodeMemory, "the contributors' rows take %d MiB and %d MiB may be held; ask fewer devices or use a smaller --wire",
			bytes>>20, s.q.MaxStaging>>20)
	}
	return nil
}

func (s *Session) openCache(layout fedkv.Layout) (err error) {
	q := s.q
	batch := q.MicroBatch
	if batch == 0 {
		batch = microBatch
		if s.report.Regime == fedkv.Lockstep {
			batch = len(q.Own)
		}
	}
	s.cache, err = q.Engine.Open(fedkv.CacheSpec{
		Sync:       q.Schedules.Publisher,
		LocalCells: len(q.Prefix) + len(q.Own) + q.Answer,
		SyncCells:  layout.Total() + q.Answer,
		MicroBatch: max(min(batch, max(len(q.Own), len(q.Prefix))), 1),
		Outputs:    q.Outputs,
	})
	return err
}

// Logits of kept output i of the question's tokens, [vocabulary]; -1 is the last.
func (s *Session) Logits(i int) ([]float32, error) { return s.cache.Logits(i) }

// Why an answer ended.
const (
	StopEnd    = "stop"   // the model ended its turn
	StopLength = "length" // as many tokens as were asked for, or as there is room for
)

// Generate decodes at most limit tokens and gives each one's text to emit; nothing crosses the network. It may be
// called once.
func (s *Session) Generate(ctx context.Context, choose Sampler, limit int, emit func(piece []byte) error) (stopped string, err error) {
	stop := context.AfterFunc(ctx, s.cache.Interrupt)
	defer stop()
	started := time.Now()
	defer func() { s.report.DecodeMS = since(started) }()
	for range min(limit, s.q.Answer) {
		token, err := choose.Next(s.cache)
		if err != nil {
			return "", err
		}
		if s.report.TTFTMS == 0 {
			s.report.TTFTMS = since(s.report.Started)
		}
		if s.q.Engine.EndsGeneration(token) {
			return StopEnd, nil
		}
		if err := emit(s.q.Engine.Piece(token)); err != nil {
			return "", err
		}
		s.report.Decoded++
		if s.report.Decoded == limit {
			break
		}
		if err := s.cache.Eval([]fedkv.Token{token}, s.next, 1, nil); err != nil {
			return "", evalError(ctx, "the answer", err)
		}
		s.next++
	}
	return StopLength, nil
}

// Close ends the session for everybody and frees its rows.
func (s *Session) Close() error {
	s.x.mu.Lock()
	messages := s.machine.CloseMessages()
	s.x.send(messages)
	s.x.mu.Unlock()
	s.x.flush(flushTimeout)
	s.x.close()
	for _, link := range s.links {
		if link != nil {
			_ = link.Close(0, "the session is over")
		}
	}
	if s.cache == nil {
		return nil
	}
	return s.cache.Close()
}
