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

// Chat is a conversation as its publisher wants it: what Question is for one question.
type Chat struct {
	Engine   Engine
	Self     fedkv.Hello // role publisher
	ID       string
	Contacts []Contact // in token order

	// The chat template: Prefix opens the first turn of the user, and every participant evaluates it; Suffix ends what the
	// user says and opens the answer; Between ends an answer and opens the user's next turn.
	Prefix, Suffix, Between []fedkv.Token

	Schedules  fedkv.Schedules
	Wire       fedkv.Wire
	Rows       fedkv.RowPolicy
	LocalRows  fedkv.Selection // of what is said, whenever several tokens are evaluated
	Positions  fedkv.Positions
	MaxContext int // positions, of everything that is said and shared
	Keep       int // of these, contributors leave so many for what is said; 0: 1024, or half of the context
	MicroBatch int // of what is said; 0: 512

	SetupBy    time.Duration // of every gathering: see Question
	GatherBy   time.Duration
	RequireAll bool
	MinPeers   int
	MaxStaging int64

	Sources bool // the report says whose rows an answer looks at

	HomeType     fedkv.Type // see Question
	MaxPositions int
	Draft        int

	Waiting func(InQueue) // see Question
	Log     zerolog.Logger
}

// keptForTalk is how many positions contributors leave free unless the publisher says otherwise.
const keptForTalk = 1024

// Conversation is several turns over the same rows: what was evaluated once, others' rows included, stays in the
// publisher's cache, and a turn evaluates and receives only what is new. Its methods are for one goroutine at a time,
// Close among them; only Report and Shares may be called from others.
//
//	Open gathers at once, in the background; Turn waits for it, evaluates and answers.
//	Add and Withdraw change whose rows are attended to; Rewind, Regenerate and Recall change what was said.
//
// The token stream is prefix ‖ segments ‖ what is said, and if contributors joined later, their segments stand in the
// user's turn in which they did, before what the user says. Positions never change but by Rewind, which closes gaps.
//
// A turn that fails before its first token was never there: nothing of it is left in the cache, and it can be asked
// again. A contributor that leaves after its rows came has done its part; withdrawing is for those whose text shall not
// count any more.
type Conversation struct {
	chat   Chat
	terms  terms
	own    int // tokens of what is said that contributors are told of
	answer int // tokens of an answer that there has to be room for
	cells  func(committed fedkv.Layout) fedkv.CacheSpec

	linger bool // contributors stay in their session until Close

	live   context.Context // ends with Close
	stop   context.CancelCauseFunc
	ending sync.WaitGroup // gatherings that say farewell

	opening *opening // nil before anybody was asked
	talk    talk
	failed  error      // nothing can be evaluated any more
	joining []joining  // whose rows are to be placed, in token order
	placed  []joining  // whose rows are, if they linger
	queried [][]*share // who is asked when the next words are known
	turns   []said
	opened  bool // the user's turn is open in the template

	asking   *asking   // who answers queries
	looked   *watching // what those before did, until it is told
	watching *watching // what the words under evaluation look at; nil: nobody wants to know
	drafting drafting

	mu     sync.Mutex
	shares []*share // everybody who was ever asked, in token order
	report Report   // of this turn, or the last
}

// said is a turn: the user's words are tokens [words, answer) of the talk.
type said struct{ words, answer int }

// Open begins a conversation and asks its contributors in the background. The context is for this call only.
func Open(ctx context.Context, chat Chat) (*Conversation, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if chat.Keep == 0 {
		chat.Keep = min(keptForTalk, chat.MaxContext/2)
	}
	if chat.MicroBatch == 0 {
		chat.MicroBatch = microBatch
	}
	if used := len(chat.Prefix); chat.MaxContext-chat.Keep <= used {
		return nil, &ContextFull{Limit: chat.MaxContext, Used: used, Need: chat.Keep + 1}
	}
	c := newConversation(context.WithoutCancel(ctx), chat)
	c.cells = func(committed fedkv.Layout) fedkv.CacheSpec {
		shared := committed.Total() - committed.Prefix - committed.Segments[len(committed.Segments)-1].Tokens
		shared -= homeTokens(committed, chat.Contacts)
		outputs := 1 + min(chat.Draft, maxDraft)
		return fedkv.CacheSpec{
			Sync: chat.Schedules.Publisher, LocalCells: chat.MaxContext - shared, SyncCells: chat.MaxContext,
			MicroBatch: max(chat.MicroBatch, outputs), Outputs: outputs,
		}
	}
	if err := c.Add(chat.Contacts...); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newConversation(parent context.Context, chat Chat) *Conversation {
	c := &Conversation{
		chat: chat, opened: true, own: 1, answer: 1, talk: newTalk(len(chat.Prefix), chat.LocalRows), drafting: newDrafting(chat.Draft),
		terms: terms{
			Engine: chat.Engine, Self: chat.Self, ID: chat.ID, Prefix: chat.Prefix, Schedules: chat.Schedules, Wire: chat.Wire,
			Rows: chat.Rows, Positions: chat.Positions, SetupBy: chat.SetupBy, GatherBy: chat.GatherBy,
			HomeType: chat.HomeType, MaxPositions: chat.MaxPositions,
			RequireAll: chat.RequireAll, MinPeers: chat.MinPeers, MaxStaging: chat.MaxStaging, Waiting: chat.Waiting, Log: chat.Log,
		},
	}
	if c.terms.HomeType == 0 {
		c.terms.HomeType = fedkv.F16
	}
	c.asking = &asking{
		layers: chat.Schedules.Publisher, shape: chat.Engine.Shape(), typ: c.terms.HomeType, timeout: roundTimeout,
		note: func(line string) { c.note(func(r *Report) { r.Notes = append(r.Notes, line) }) },
		said: func() (decoded int) { c.note(func(r *Report) { decoded = r.Decoded }); return decoded },
	}
	c.talk.asking = c.asking
	c.live, c.stop = context.WithCancelCause(parent)
	return c
}

// ContextFull says that a conversation has no room for what comes next. It is fedkv.ErrTooLong.
type ContextFull struct {
	Limit int // tokens that the context has room for
	Used  int // tokens that it has
	Need  int // tokens that come next, one of an answer included
}

func (e *ContextFull) Error() string {
	return fmt.Sprintf("the context is full: %d of %d tokens are taken and %d more are needed; clear the conversation, withdraw a document, or start with a larger context",
		e.Used, e.Limit, e.Need)
}

// Is makes it fedkv.ErrTooLong.
func (e *ContextFull) Is(target error) bool { return target == fedkv.ErrTooLong }

// Turn is what the user says, and how the answer is to be.
type Turn struct {
	Text    string // plain: special tokens in it stay text
	Sampler Sampler
	Limit   int // tokens of the answer, at most; 0: as many as there is room for
	// Emit gets each token's text; nil: nobody wants it. Its error ends the answer; ErrEnough ends it as it should.
	Emit func(piece []byte) error
}

// ErrEnough is what an Emit returns when the answer is complete, for instance at a stop word.
var ErrEnough = errors.New("node: the answer is complete")

// Reply is an answer, or as much of it as there is.
type Reply struct {
	Text    string
	Stopped string // StopEnd or StopLength; empty if an error ended it
	Report  Report // of this turn: everybody who was asked so far, and what came of them in this turn
}

// Turn evaluates what the user says and answers. If it fails or is cancelled before the answer's first token, it leaves
// no trace; after it, the error comes with the answer so far, which stays in the conversation, since it was shown. With
// ContextFull nothing has happened either.
func (c *Conversation) Turn(ctx context.Context, t Turn) (Reply, error) {
	text, err := c.chat.Engine.Tokenize(t.Text)
	if err != nil {
		return Reply{}, err
	}
	c.terms.Question = toldQuestion(t.Text)
	defer func() { c.terms.Question = "" }()
	return c.turn(ctx, slices.Concat(text, c.chat.Suffix), t)
}

// turn is a turn of the given tokens, which open the answer at their end.
func (c *Conversation) turn(ctx context.Context, words []fedkv.Token, t Turn) (reply Reply, err error) {
	if err := c.prefill(ctx, words, 1); err != nil {
		return Reply{Report: c.Report()}, err
	}
	limit := c.talk.room(c.limit(), 0)
	if t.Limit > 0 {
		limit = min(limit, t.Limit)
	}
	var whole []byte
	reply.Stopped, err = c.decode(ctx, t.Sampler, limit, func(piece []byte) error {
		whole = append(whole, piece...)
		if t.Emit == nil {
			return nil
		}
		return t.Emit(piece)
	})
	reply.Text, reply.Report = string(whole), c.Report()
	return reply, err
}

// prefill evaluates everything up to the answer's first token, with the logits of so many of the last words.
func (c *Conversation) prefill(ctx context.Context, words []fedkv.Token, outputs int) error {
	c.begin()
	if err := c.takeBack(); err != nil {
		return err
	}
	before, opened := len(c.talk.tokens), c.opened
	err := c.evaluate(ctx, words, outputs)
	if err == nil {
		c.turns, c.opened = append(c.turns, said{len(c.talk.tokens) - len(words), len(c.talk.tokens)}), false
		return nil
	}
	c.opened = opened
	if errors.Is(err, errBroken) {
		c.failed = err
	} else if cut := c.talk.cut(min(before, len(c.talk.tokens))); cut != nil {
		c.failed = undone(err, cut)
	}
	return err
}

// evaluate is prefill without a way back.
func (c *Conversation) evaluate(ctx context.Context, words []fedkv.Token, outputs int) error {
	joining, err := c.settle(ctx, words)
	if err != nil {
		return err
	}
	c.note(func(r *Report) { r.Reused = c.talk.next })
	c.watch()
	defer c.unwatch()
	if !c.opened {
		if len(c.chat.Between) == 0 {
			return fedkv.Errorf(fedkv.CodePlan, "the model's chat template has no second turn: clear the conversation")
		}
		c.talk.tokens = append(c.talk.tokens, c.chat.Between...)
		c.opened = true
	}
	own, others := c.talk.waiting()+len(words), 0
	for _, g := range joining {
		others += g.span()
	}
	limit := c.limit(joining...)
	if room, need := c.talk.room(limit, others), own+c.answer; need > room {
		return &ContextFull{Limit: limit, Used: limit - room - others, Need: need + others}
	}
	evaluating := time.Now()
	again, err := c.talk.refresh(ctx)
	c.note(func(r *Report) { r.Again = again })
	if err != nil {
		return err
	}
	err = c.place(ctx, joining, words, outputs)
	c.note(func(r *Report) {
		r.Own, r.Layout = own, c.layout(len(words))
		r.PrefillMS, r.Home = since(evaluating)-r.SyncMS, c.asking.summary()
	})
	return err
}

// limit is how many positions there may be: as many as there are cells for, and those of rows that stay home.
func (c *Conversation) limit(joining ...settled) int {
	limit := c.chat.MaxContext
	for _, s := range c.talk.placed {
		if s.contact.Home {
			limit += s.tokens
		}
	}
	for _, g := range joining {
		limit += homeTokens(g.layout, g.contacts)
	}
	return max(c.chat.MaxContext, min(limit, max(c.chat.MaxPositions, c.chat.MaxContext)))
}

// layout is the stream that the last words, so many, attend to.
func (c *Conversation) layout(words int) fedkv.Layout {
	l := fedkv.Layout{Prefix: c.talk.prefix}
	for _, s := range c.talk.placed {
		l.Segments = append(l.Segments, fedkv.Segment{Origin: s.number, Offset: s.at, Tokens: s.tokens})
	}
	return fedkv.Layout{Prefix: l.Prefix, Segments: append(l.Segments, fedkv.Segment{
		Origin: len(c.shares), Offset: c.talk.next - words, Tokens: words,
	})}
}

// Why an answer ended.
const (
	StopEnd    = "stop"   // the model ended its turn
	StopLength = "length" // as many tokens as were asked for, or as there is room for
)

// decode generates at most limit tokens after what was evaluated last, and gives each one's text to emit. Nothing
// but queries of rows that stay home crosses the network. The last token waits for what comes after it, unless it was
// guessed.
func (c *Conversation) decode(ctx context.Context, choose Sampler, limit int, emit func(piece []byte) error) (stopped string, err error) {
	started := time.Now()
	defer func() {
		c.note(func(r *Report) { r.DecodeMS, r.Home = since(started), c.asking.summary() })
		c.tellSources()
	}()
	for decoded := 0; decoded < limit; {
		var guesses []fedkv.Token
		var by *odds
		if c.talk.waiting() > 0 {
			if ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			if guesses, by, err = c.guess(ctx, limit-decoded-1); err == nil {
				err = c.evalGuesses(ctx, guesses)
			}
			if err != nil {
				return "", err
			}
		}
		right, stopped, err := c.accept(choose, guesses, emit, &decoded)
		if by != nil {
			by.saw(right, min(right+1, len(guesses)))
			c.note(func(r *Report) { r.Drafted, r.Accepted = r.Drafted+len(guesses), r.Accepted+right })
		}
		if stopped != "" || err != nil {
			return stopped, err
		}
	}
	return StopLength, nil
}

// accept lets the sampler choose from the last logits as long as it chooses what was guessed, and one token more. The other
// guesses are forgotten. right is how many were chosen.
func (c *Conversation) accept(choose Sampler, guesses []fedkv.Token, emit func(piece []byte) error, decoded *int) (right int, stopped string, err error) {
	said := len(c.talk.tokens) - len(guesses)
	var other []fedkv.Token // what was chosen and not guessed
	for i := 0; right == i && i <= len(guesses) && stopped == "" && err == nil; i++ {
		output := i
		if len(guesses) == 0 {
			output = -1
		}
		var token fedkv.Token
		if token, err = choose.Next(c.talk.cache, output); err != nil {
			break
		}
		c.note(func(r *Report) {
			if r.TTFTMS == 0 {
				r.TTFTMS = since(r.Started)
			}
		})
		if c.chat.Engine.EndsGeneration(token) {
			stopped = StopEnd
			break
		}
		if i < len(guesses) && token == guesses[i] {
			right++
		} else {
			other = append(other, token)
		}
		switch err = emit(c.chat.Engine.Piece(token)); {
		case errors.Is(err, ErrEnough):
			stopped, err = StopEnd, nil
		case err == nil:
			*decoded++
			c.note(func(r *Report) { r.Decoded = *decoded })
		}
	}
	if right < len(guesses) {
		if cut := c.talk.cut(said + right); cut != nil {
			c.failed = undone(err, cut)
			return right, "", c.failed
		}
	}
	c.talk.tokens = append(c.talk.tokens, other...)
	return right, stopped, err
}

// Close ends the conversation for everybody and frees its rows. It may be called again.
func (c *Conversation) Close() error {
	c.stop(errOver)
	for _, g := range slices.Concat(c.joining, c.placed) {
		c.farewell(g.gathering)
	}
	c.joining, c.placed = nil, nil
	c.asking.close()
	c.ending.Wait()
	if c.opening == nil {
		return nil
	}
	<-c.opening.done
	if c.opening.cache == nil {
		return nil
	}
	return c.opening.cache.Close()
}

// Turns is how many turns the conversation has, those that were recalled included.
func (c *Conversation) Turns() int { return len(c.turns) }

// Recall takes up a turn that was said before, elsewhere: it is evaluated with the next one, and Regenerate may answer it
// again.
func (c *Conversation) Recall(text, answer string) error {
	asked, err := c.chat.Engine.Tokenize(text)
	if err != nil {
		return err
	}
	answered, err := c.chat.Engine.Tokenize(answer)
	if err != nil {
		return err
	}
	if !c.opened {
		c.talk.tokens = append(c.talk.tokens, c.chat.Between...)
	}
	begin := len(c.talk.tokens)
	c.talk.tokens = slices.Concat(c.talk.tokens, asked, c.chat.Suffix, answered)
	c.turns = append(c.turns, said{begin, len(c.talk.tokens) - len(answered)})
	c.opened = false
	return nil
}

// Rewind forgets all turns from number n on and gives their room back; 0 forgets everything that was said. Contributors'
// rows stay, and move up to where turns were forgotten.
func (c *Conversation) Rewind(n int) error {
	switch {
	case n < 0 || n > len(c.turns):
		return fmt.Errorf("node: no turn %d, the conversation has %d", n, len(c.turns))
	case n == len(c.turns):
		return nil
	case c.failed != nil:
		return c.failed
	}
	if err := c.talk.cut(c.turns[n].words); err != nil {
		c.failed = undone(nil, err)
	}
	c.turns, c.opened = c.turns[:n], true
	return c.failed
}

// Regenerate answers the last turn again. Its Text is what was said. If it fails before the first token, the turn is
// forgotten.
func (c *Conversation) Regenerate(ctx context.Context, t Turn) (Reply, error) {
	if len(c.turns) == 0 {
		return Reply{}, fedkv.Errorf(fedkv.CodeOrder, "nothing was said yet")
	}
	last := c.turns[len(c.turns)-1]
	words := slices.Clone(c.talk.tokens[last.words:last.answer])
	if err := c.Rewind(len(c.turns) - 1); err != nil {
		return Reply{}, err
	}
	return c.turn(ctx, words, t)
}
