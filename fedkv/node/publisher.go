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
	Wire       fedkv.Wire
	Rows       fedkv.RowPolicy // which rows contributors send; zero: all
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

// Session is a question whose prompt is evaluated: rows are placed, logits are there. One goroutine uses it at a time;
// only Report may be called from others.
type Session struct {
	q       *Question
	x       *exchange
	machine *fedkv.Publisher
	cache   Cache
	next    int // position of the next token

	// under the exchange's lock
	links              []Link   // by origin, nil until it is dialled
	names              []string // by origin: what the owner calls it, or what it calls itself
	committed, settled *fedkv.Layout
	report             Report
}

// Ask runs the steps that package node's documentation numbers, up to the logits of the question's last token. The
// context is for these steps only. The session must be closed.
func Ask(ctx context.Context, q Question) (*Session, error) {
	q.Outputs = max(1, q.Outputs)
	s := &Session{q: &q}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if err := s.prefill(); err != nil {
		s.x.stopped("the publisher", err)
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
	s.names = make([]string, len(q.Contacts))
	for i, c := range q.Contacts {
		s.names[i] = c.Name
	}
	var err error
	s.machine, err = fedkv.NewPublisher(fedkv.PublisherConfig{
		Session: id, Self: q.Self, ID: q.ID, Shape: q.Engine.Shape(), Schedules: q.Schedules, Wire: q.Wire, Rows: q.Rows,
		Positions: q.Positions, Prefix: q.Prefix, Own: len(q.Own), MaxContext: q.MaxContext - q.Answer,
		Contributors: len(q.Contacts), Names: slices.Clone(s.names), RequireAll: q.RequireAll, MinPeers: q.MinPeers,
		SetupBy: q.SetupBy, GatherBy: q.GatherBy,
	})
	if err != nil {
		return err
	}
	s.links = make([]Link, len(q.Contacts))
	s.report = Report{Session: id, Started: time.Now(), Regime: q.Schedules.Regime()}
	s.x = newExchange(ctx, q.Engine.Shape(), q.Log.With().Stringer("session", id).Logger())
	s.x.machine, s.x.drain = s.machine, s.drain
	s.drain() // nobody else is here yet
	s.x.run()
	for origin, contact := range q.Contacts {
		s.x.tasks.start(func() { s.connect(origin, contact) })
	}
	return nil
}

// drain takes over the machine's outputs; the exchange holds its lock.
func (s *Session) drain() {
	r := s.machine.Ready()
	s.machine.Advance()
	s.x.send(r.Messages)
	s.report.Notes = append(s.report.Notes, r.Notes...)
	s.x.gone(r.Missing, s.report.Regime)
	if r.Committed != nil {
		s.committed = r.Committed
	}
	if r.Settled != nil {
		s.settled = r.Settled
	}
	if r.Failed != nil {
		s.x.fail(r.Failed)
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
	welcome, err := s.x.greet(ctx, link, s.q.Self)
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
	if err != nil && s.x.live.Err() == nil {
		s.x.log.Warn().Str("peer", welcome.Name).Err(err).Msg("contributor left out")
	}
}

// await waits for a state of the machine, or for the end of the session.
func (s *Session) await(reached func() bool) error { return s.x.await(s.x.live, reached) }

// note writes to the report.
func (s *Session) note(update func(r *Report)) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	update(&s.report)
}

// prefill evaluates prefix, everybody's rows and the own segment.
func (s *Session) prefill() error {
	q := s.q
	if q.Rows.Kind == fedkv.RowsQuery && len(q.Contacts) > 0 {
		found, err := s.queries() // while the contributors get ready
		if err != nil {
			return err
		}
		_ = s.x.step(fedkv.Queried{Layers: found}) // a refusal ends the session
	}
	if err := s.await(func() bool { return s.committed != nil }); err != nil {
		return err
	}
	committed := *s.committed
	s.note(func(r *Report) { r.SetupMS = since(r.Started) })
	if err := s.checkStaging(committed); err != nil {
		return err
	}
	if err := s.openCache(committed); err != nil {
		return fmt.Errorf("a cache for %d tokens: %w", committed.Total()+q.Answer, err)
	}
	defer interruptAfter(s.x.live, s.cache)()
	if err := s.prefillPrefix(len(committed.Segments) > 1); err != nil {
		return err
	}

	waiting := time.Now()
	if err := s.await(func() bool { return s.settled != nil }); err != nil {
		return err
	}
	layout := *s.settled
	own := layout.Segments[len(layout.Segments)-1]
	s.note(func(r *Report) { r.WaitMS, r.Layout, r.Own = since(waiting), layout, own.Tokens })
	rows := &remote{
		x: s.x, cache: s.cache, layout: layout, origin: own.Origin, wire: q.Wire, hidden: map[int]bool{},
		shift: s.machine.Shift, pending: s.machine.Pending,
	}
	if err := rows.reserve(q.Schedules.Publisher); err != nil {
		return err
	}
	evaluating, placing := time.Now(), time.Duration(0)
	err := s.cache.Eval(q.Own, own.Offset, q.Outputs, &Hook{
		Layers: q.Schedules.Publisher,
		OnLayer: func(layer, _, _ int) (bool, error) {
			began := time.Now()
			err := rows.await(s.x.live, layer)
			placing += time.Since(began)
			return false, err
		},
	})
	if err != nil {
		return evalError(s.x.live, "the question", err)
	}
	s.note(func(r *Report) {
		r.SyncMS = milliseconds(placing)
		r.PrefillMS = since(evaluating) - r.SyncMS
	})
	s.next = own.End()
	return nil
}

// prefillPrefix evaluates the prefix while the contributors work.
func (s *Session) prefillPrefix(contributors bool) error {
	if len(s.q.Prefix) == 0 {
		return nil
	}
	if err := s.cache.Eval(s.q.Prefix, 0, 0, nil); err != nil {
		return evalError(s.x.live, "the prefix", err)
	}
	if !contributors {
		return nil
	}
	if s.q.Positions == fedkv.Canonical {
		if err := s.cache.CanShift(); err != nil {
			return fedkv.Errorf(fedkv.CodePlan, "%v; use --positions inplace", err)
		}
	}
	return canCentre(s.cache, s.q.Wire, s.q.Schedules.Publisher)
}

// canCentre returns an error if K rows of these layers are centred and the model cannot rotate them.
func canCentre(cache Cache, wire fedkv.Wire, layers fedkv.Schedule) error {
	for _, l := range layers.Layers() {
		if !wire.At(l).K.IsCentred() {
			continue
		}
		if err := cache.CanShift(); err != nil {
			return fedkv.Errorf(fedkv.CodePlan, "%v, which centred K rows need; use --wire without +c for K", err)
		}
		return nil
	}
	return nil
}

// canCompare returns an error if rows are compared with queries and the model's K rows cannot be rotated.
func canCompare(cache Cache, rows fedkv.Selection) error {
	if !rows.NeedsQueries() {
		return nil
	}
	if err := cache.CanShift(); err != nil {
		return fedkv.Errorf(fedkv.CodePlan, "%v, which comparing them with queries needs; choose rows by norm or diverse", err)
	}
	return nil
}

// checkStaging holds the rows to come against the memory that they may take before they are placed, as if all rows
// were selected.
func (s *Session) checkStaging(layout fedkv.Layout) error {
	var bytes int64
	last := len(layout.Segments) - 1
	for _, layer := range s.q.Schedules.Publisher.Layers() {
		shape := s.q.Engine.Shape().Layers[layer]
		for _, segment := range layout.Segments[:last] {
			reach := layout.Segments[last].Offset
			if s.q.Positions == fedkv.Canonical {
				reach = segment.End() // everybody behind it may be lost
			}
			size, err := shape.StagingSize(s.q.Wire.At(layer), segment.Tokens, shape.FirstRow(segment, reach))
			if err != nil {
				return err
			}
			bytes += size
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
		if q.Schedules.Regime() == fedkv.Lockstep {
			batch = max(len(q.Own), len(q.Prefix))
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
	defer interruptAfter(ctx, s.cache)()
	started := time.Now()
	defer func() { s.note(func(r *Report) { r.DecodeMS = since(started) }) }()
	limit = min(limit, s.q.Answer)
	for decoded := 1; decoded <= limit; decoded++ {
		token, err := choose.Next(s.cache)
		if err != nil {
			return "", err
		}
		s.note(func(r *Report) {
			if r.TTFTMS == 0 {
				r.TTFTMS = since(r.Started)
			}
		})
		if s.q.Engine.EndsGeneration(token) {
			return StopEnd, nil
		}
		if err := emit(s.q.Engine.Piece(token)); err != nil {
			return "", err
		}
		s.note(func(r *Report) { r.Decoded = decoded })
		if decoded == limit {
			break // nobody asks for the logits after it
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err := s.cache.Eval([]fedkv.Token{token}, s.next, 1, nil); err != nil {
			return "", evalError(ctx, "the answer", err)
		}
		s.next++
	}
	return StopLength, nil
}

// Close ends the session for everybody and frees its rows. It may be called again.
func (s *Session) Close() error {
	s.x.mu.Lock()
	s.x.send(s.machine.CloseMessages())
	s.x.mu.Unlock()
	s.x.flush(flushTimeout)
	s.x.close()
	for _, link := range s.links {
		if link != nil {
			s.x.leave(link)
		}
	}
	if s.cache == nil {
		return nil
	}
	return s.cache.Close()
}
