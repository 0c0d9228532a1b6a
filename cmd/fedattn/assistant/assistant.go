// Package assistant is whom one talks to: a model, the peers that contribute, and documents of this device, as one
// conversation. The terminal's chat and the HTTP API both stand on it.
//
// Start reading at Open. documents.go makes each document of this device a contributor without a network.
package assistant

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/profile"
	"fedattn/llama"
)

// Config says who talks, over what and how.
type Config struct {
	Engine   *llama.Engine
	Self     fedkv.Hello // role publisher
	Host     fedkv.Hello // role contributor: for this device's own documents
	ID       string
	Contacts []node.Contact // peers, in token order

	// Signer and Device are for rows that reach this device's own documents, or go from one to the next, through the
	// publisher: see node.ContributorConfig. Lockstep needs them where there are such documents.
	Signer node.Signer
	Device func(ed25519.PublicKey) string

	Raw bool // no chat template: what is said is continued

	Setting    profile.Setting
	LocalRows  fedkv.Selection // of this device's own texts and what is said, at local layers
	Positions  fedkv.Positions
	MaxContext int // positions

	HomeType     fedkv.Type // see node.Question
	MaxPositions int
	Draft        int

	SetupBy    time.Duration
	GatherBy   time.Duration
	RequireAll bool
	MinPeers   int   // throughout, beside this device's own documents
	MaxStaging int64 // bytes of rows held before they are placed; 0: no limit
	Waiting    func(node.InQueue)
	Log        zerolog.Logger
}

// Turn is what was said, and answered.
type Turn struct{ User, Answer string }

// Assistant is a conversation. Its methods are for one goroutine at a time; Report and Shares may be called from others.
type Assistant struct {
	cfg     Config
	context context.Context
	frame   llama.Frame
	system  string
	talk    *node.Conversation
	turns   []Turn
	docs    []*document
}

// Open begins a conversation under a system prompt; peers are asked in the background. The context is that of everything
// to come. It has to be closed.
func Open(ctx context.Context, cfg Config, system string, docs ...node.Document) (*Assistant, error) {
	a := &Assistant{cfg: cfg, context: ctx}
	for _, d := range docs {
		source, err := a.source(d)
		if err != nil {
			return nil, errors.Join(err, a.Close())
		}
		a.docs = append(a.docs, source)
	}
	if err := a.restart(system); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// restart begins the conversation anew.
func (a *Assistant) restart(system string) error {
	frame, err := a.framed(system)
	if err != nil {
		return fmt.Errorf("%s; give an instruction-tuned model with --model", strings.TrimPrefix(err.Error(), "llama: "))
	}
	if len(frame.Prefix) > fedkv.MaxPrefix {
		return fmt.Errorf("the system prompt has %d tokens with the chat template, %d are allowed: shorten it", len(frame.Prefix), fedkv.MaxPrefix)
	}
	if err := a.hangUp(); err != nil {
		return err
	}
	contacts := a.cfg.Contacts[:len(a.cfg.Contacts):len(a.cfg.Contacts)]
	for i, d := range a.docs {
		d.number = len(a.cfg.Contacts) + i
		contacts = append(contacts, d.contact)
	}
	least := a.cfg.MinPeers
	if least > 0 {
		least += len(a.docs)
	}
	talk, err := node.Open(a.context, node.Chat{
		Engine: a.cfg.Engine, Self: a.cfg.Self, ID: a.cfg.ID, Contacts: contacts,
		Prefix: frame.Prefix, Suffix: frame.Suffix, Between: frame.Between,
		Schedules: a.cfg.Setting.Schedules, Wire: a.cfg.Setting.Wire, LocalRows: a.cfg.LocalRows, Positions: a.cfg.Positions,
		SetupBy: a.cfg.SetupBy, GatherBy: a.cfg.GatherBy, RequireAll: a.cfg.RequireAll, MinPeers: least,
		Sources: true, HomeType: a.cfg.HomeType, MaxPositions: a.cfg.MaxPositions, Draft: a.cfg.Draft,
		MaxContext: a.cfg.MaxContext, MaxStaging: a.cfg.MaxStaging, Waiting: a.cfg.Waiting, Log: a.cfg.Log,
	})
	if err != nil {
		return err
	}
	a.talk, a.frame, a.system, a.turns = talk, frame, system, nil
	return nil
}

// framed is what stands around what is said.
func (a *Assistant) framed(system string) (llama.Frame, error) {
	if !a.cfg.Raw {
		return a.cfg.Engine.Frame(system)
	}
	begin, err := a.cfg.Engine.TokenizeDocument("")
	return llama.Frame{Prefix: begin}, err
}

func (a *Assistant) hangUp() error {
	if a.talk == nil {
		return nil
	}
	err := a.talk.Close()
	a.talk = nil
	return err
}

// Close ends the conversation for everybody.
func (a *Assistant) Close() error {
	err := a.hangUp()
	for _, d := range a.docs {
		d.stop()
	}
	a.docs = nil
	return err
}

// Sampling is how an answer is chosen and where it ends.
type Sampling struct {
	llama.Sampling
	Limit int      // tokens; 0: as many as there is room for
	Stop  []string // texts before which the answer ends
}

// Say takes a turn. emit gets the answer piece by piece, without what stands at and behind a stop text.
func (a *Assistant) Say(ctx context.Context, text string, s Sampling, emit func(piece []byte) error) (node.Reply, error) {
	reply, err := a.answer(ctx, s, emit, func(t node.Turn) (node.Reply, error) {
		t.Text = text
		return a.talk.Turn(ctx, t)
	})
	if a.talk.Turns() > len(a.turns) {
		a.turns = append(a.turns, Turn{text, reply.Text})
	}
	return reply, err
}

// Again answers the last turn anew.
func (a *Assistant) Again(ctx context.Context, s Sampling, emit func(piece []byte) error) (node.Reply, error) {
	if len(a.turns) == 0 {
		return node.Reply{}, fedkv.Errorf(fedkv.CodeOrder, "nothing was said yet")
	}
	reply, err := a.answer(ctx, s, emit, func(t node.Turn) (node.Reply, error) { return a.talk.Regenerate(ctx, t) })
	a.turns = a.turns[:min(len(a.turns), a.talk.Turns())]
	if n := len(a.turns); n > 0 && err == nil {
		a.turns[n-1].Answer = reply.Text
	}
	return reply, err
}

func (a *Assistant) answer(ctx context.Context, s Sampling, emit func([]byte) error, take func(node.Turn) (node.Reply, error)) (node.Reply, error) {
	choose, release, err := a.cfg.Engine.Sampler(s.Sampling)
	if err != nil {
		return node.Reply{}, err
	}
	defer func() { _ = release() }()
	end := stopper{stop: s.Stop, emit: emit}
	reply, err := take(node.Turn{Sampler: choose, Limit: s.Limit, Emit: end.write})
	if flushed := end.flush(); err == nil {
		err = flushed
	}
	if end.found {
		reply.Text = end.text.String()
	}
	return reply, err
}

// Take goes to the state in which exactly these turns were said, and keeps of the cache what they have in common with
// what was said so far. A change of the system prompt asks the peers anew.
func (a *Assistant) Take(system string, turns []Turn) error {
	if system != a.system {
		if err := a.restart(system); err != nil {
			return err
		}
	}
	same := 0
	for same < min(len(turns), len(a.turns)) && turns[same] == a.turns[same] {
		same++
	}
	if err := a.talk.Rewind(same); err != nil {
		return err
	}
	a.turns = a.turns[:same]
	for _, t := range turns[same:] {
		if err := a.talk.Recall(t.User, t.Answer); err != nil {
			return err
		}
		a.turns = append(a.turns, t)
	}
	return nil
}

// System is the system prompt, Turns are what was said.
func (a *Assistant) System() string { return a.system }

// Turns is what was said so far.
func (a *Assistant) Turns() []Turn { return a.turns }

// Report is that of the turn that is taken, or of the last one.
func (a *Assistant) Report() node.Report { return a.talk.Report() }

// Shares is everybody who was asked.
func (a *Assistant) Shares() []node.Share { return a.talk.Shares() }

// Peers is how many of the first contributors are other devices.
func (a *Assistant) Peers() int { return len(a.cfg.Contacts) }
