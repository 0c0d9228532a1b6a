package node

import (
	"context"
	"errors"
	"strings"
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
	Home bool  // its rows stay there: it answers queries
	Held *Held // keeps the link for the sessions to come; nil: each one dials

	ShareQuestion bool // it is told the question, so that it can choose passages by it
}

// Question is one session as its publisher wants it.
type Question struct {
	Engine   Engine
	Self     fedkv.Hello // role publisher
	ID       string
	Contacts []Contact // in token order; contributor i is Contacts[i]

	Prefix []fedkv.Token // public: every participant evaluates it
	Own    []fedkv.Token // the publisher's own segment
	Text   string        // the question in words, for contacts of ShareQuestion; at most fedkv.MaxQuestion bytes of it are told
	Answer int           // tokens to keep room for after it

	Schedules  fedkv.Schedules
	Wire       fedkv.Wire
	Rows       fedkv.RowPolicy // which rows contributors send; zero: all
	LocalRows  fedkv.Selection // which of the own rows others of the segment attend to at local layers, as ContributorConfig's
	Positions  fedkv.Positions
	MaxContext int // positions, the answer's included

	// Narrow, if set, chooses fewer of the publisher's sync layers and smaller types once the contributors' tokens are
	// known, by origin: see fedkv.PublisherConfig. Gather only.
	Narrow func(tokens []int) (fedkv.Terms, error)

	Sources      bool       // see Chat
	HomeType     fedkv.Type // how queries and answers travel if rows stay home; 0: f16
	MaxPositions int        // of everybody, rows that stay home included; 0: MaxContext

	// Draft is how many tokens of the answer are guessed at most, and evaluated with the one before them, while contributors
	// answer queries; fewer where that does not pay. See HomeReport.
	Draft int

	Outputs    int           // of how many of the last own tokens logits are kept; 0: of one, to generate
	MicroBatch int           // 0: 512 in gather, the whole segment in lockstep
	SetupBy    time.Duration // who is not ready by then is left out
	GatherBy   time.Duration // whose rows are not here by then is missing
	RequireAll bool
	MinPeers   int
	MaxStaging int64 // bytes of rows held before they are placed; 0: no limit

	// Waiting hears, from goroutines of the session, that a contributor serves others first, and where in its queue this
	// session is. It may be nil.
	Waiting func(InQueue)
	Log     zerolog.Logger
}

// Session is a question whose prompt is evaluated: rows are placed, logits are there. One goroutine uses it at a time;
// only Report may be called from others.
type Session struct {
	c      *Conversation
	answer int
}

// Ask runs the steps that package node's documentation numbers, up to the logits of the question's last token: it is a
// conversation of one turn, whose caches are as small as that allows. The context is for these steps only. The session
// must be closed.
func Ask(ctx context.Context, q Question) (*Session, error) {
	q.Outputs = max(1, q.Outputs)
	c := newConversation(ctx, Chat{
		Engine: q.Engine, Self: q.Self, ID: q.ID, Contacts: q.Contacts, Prefix: q.Prefix, Schedules: q.Schedules, Wire: q.Wire,
		Rows: q.Rows, LocalRows: q.LocalRows, Positions: q.Positions, MaxContext: q.MaxContext, Keep: q.Answer, SetupBy: q.SetupBy,
		HomeType: q.HomeType, MaxPositions: q.MaxPositions, Draft: q.Draft, Sources: q.Sources,
		GatherBy: q.GatherBy, RequireAll: q.RequireAll, MinPeers: q.MinPeers, MaxStaging: q.MaxStaging, Waiting: q.Waiting, Log: q.Log,
	})
	c.terms.Narrow, c.terms.Question = q.Narrow, toldQuestion(q.Text)
	c.own, c.answer, c.linger = len(q.Own), 0, true
	c.cells = q.cells
	err := c.Add(q.Contacts...)
	if err == nil {
		err = c.prefill(ctx, q.Own, q.Outputs)
	}
	if err != nil {
		for _, g := range c.joining {
			g.x.stopped("the publisher", err)
		}
		return nil, errors.Join(err, c.Close())
	}
	return &Session{c, q.Answer}, nil
}

// cells is what the caches have to hold.
func (q *Question) cells(committed fedkv.Layout) fedkv.CacheSpec {
	longest := max(len(q.Own), len(q.Prefix))
	batch := q.MicroBatch
	if batch == 0 {
		batch = microBatch
		if q.Schedules.Regime() == fedkv.Lockstep {
			batch = longest
		}
	}
	draft := 0
	if anyHome(q.Contacts) {
		draft = min(q.Draft, maxDraft)
	}
	sync := q.Schedules.Publisher
	if allHome(q.Contacts) {
		sync = sync.Before(0) // nothing is placed
	}
	return fedkv.CacheSpec{
		Sync:       sync,
		LocalCells: len(q.Prefix) + len(q.Own) + q.Answer,
		SyncCells:  committed.Total() - homeTokens(committed, q.Contacts) + q.Answer,
		MicroBatch: max(min(batch, longest), 1+draft),
		Outputs:    max(q.Outputs, 1+draft),
	}
}

// toldQuestion is as much of a question as is told.
func toldQuestion(text string) string {
	if len(text) <= fedkv.MaxQuestion {
		return text
	}
	return strings.ToValidUTF8(text[:fedkv.MaxQuestion], "")
}

// Logits of kept output i of the question's tokens, [vocabulary]; -1 is the last.
func (s *Session) Logits(i int) ([]float32, error) { return s.c.talk.cache.Logits(i) }

// Generate decodes at most limit tokens and gives each one's text to emit. Nothing but queries of rows that stay home crosses the network. It may be
// called once.
func (s *Session) Generate(ctx context.Context, choose Sampler, limit int, emit func(piece []byte) error) (stopped string, err error) {
	return s.c.decode(ctx, choose, min(limit, s.answer), emit)
}

// Report is what the session did so far.
func (s *Session) Report() Report { return s.c.Report() }

// Close ends the session for everybody and frees its rows. It may be called again.
func (s *Session) Close() error { return s.c.Close() }

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
