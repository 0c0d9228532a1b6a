// Package lab runs whole sessions in one process and measures them against a run in which one process evaluates
// everything itself. Every participant is a real one: its own caches, its own links, the runtime of package node.
//
// Start reading at Run, then Centralised.
package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Prompt is a token stream cut among participants. The last segment is the publisher's.
type Prompt struct {
	Prefix   []fedkv.Token
	Segments [][]fedkv.Token
}

// Cut takes the first total tokens of a text: prefix, then contributors' segments of equal length (the last one gets
// the remainder), then the publisher's.
func Cut(tokens []fedkv.Token, total, prefix, publisher, participants int) (Prompt, error) {
	switch {
	case participants < 1 || participants > fedkv.MaxParticipants:
		return Prompt{}, fmt.Errorf("%d participants: there must be 1 to %d", participants, fedkv.MaxParticipants)
	case prefix < 0 || publisher < 1:
		return Prompt{}, fmt.Errorf("%d prefix and %d publisher tokens: the publisher needs at least one", prefix, publisher)
	case len(tokens) < total:
		return Prompt{}, fmt.Errorf("the text has %d tokens, %d are asked for", len(tokens), total)
	case participants == 1 && total != prefix+publisher:
		return Prompt{}, fmt.Errorf("one participant holds all: %d prefix and %d publisher tokens are not %d", prefix, publisher, total)
	case total-prefix-publisher < participants-1:
		return Prompt{}, fmt.Errorf("%d tokens leave none for some of %d contributors", total, participants-1)
	}
	p := Prompt{Prefix: tokens[:prefix]}
	rest := tokens[prefix : total-publisher]
	for left := participants - 1; left > 0; left-- {
		n := (total - prefix - publisher) / (participants - 1)
		if left == 1 {
			n = len(rest)
		}
		p.Segments, rest = append(p.Segments, rest[:n]), rest[n:]
	}
	p.Segments = append(p.Segments, tokens[total-publisher:total])
	return p, nil
}

// Own is the publisher's segment.
func (p Prompt) Own() []fedkv.Token { return p.Segments[len(p.Segments)-1] }

// Tokens of prefix and segments together.
func (p Prompt) Tokens() int {
	n := len(p.Prefix)
	for _, s := range p.Segments {
		n += len(s)
	}
	return n
}

// Engine is a model that can also be run alone.
type Engine interface {
	node.Engine
	// OpenPlain is a cache for one process that evaluates everything itself.
	OpenPlain(cells, microBatch, outputs int) (node.Cache, error)
	// Vocabulary is the length of a row of logits.
	Vocabulary() int
}

// Centralised evaluates the prompt in one process and returns the publisher's logits, [own tokens][vocabulary]. With
// sameBatches, prefix and segments are the micro-batches, as they are for the participants; otherwise everything is
// one. The two differ by the order of float additions only.
func Centralised(ctx context.Context, e Engine, p Prompt, sameBatches bool) ([]float32, error) {
	batches := [][]fedkv.Token{}
	if len(p.Prefix) > 0 {
		batches = append(batches, p.Prefix)
	}
	batches = append(batches, p.Segments...)
	if !sameBatches {
		var all []fedkv.Token
		for _, b := range batches {
			all = append(all, b...)
		}
		batches = [][]fedkv.Token{all}
	}
	longest := 0
	for _, b := range batches {
		longest = max(longest, len(b))
	}
	own := len(p.Own())
	cache, err := e.OpenPlain(p.Tokens(), longest, own)
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	defer context.AfterFunc(ctx, cache.Interrupt)()
	pos := 0
	for i, b := range batches {
		want := 0
		if i == len(batches)-1 {
			want = own
		}
		if err := cache.Eval(b, pos, want, nil); err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		pos += len(b)
	}
	return logits(cache, own)
}

// logits collects the first n rows.
func logits(c interface {
	Logits(int) ([]float32, error)
}, n int) ([]float32, error) {
	var out []float32
	for i := range n {
		row, err := c.Logits(i)
		if err != nil {
			return nil, err
		}
		out = append(out, row...)
	}
	return out, nil
}

// Device is a participant's place in a network.
type Device struct {
	Address node.Address
	Peers   node.Peers
}

// Network makes n devices that reach each other; close takes them down.
type Network func(n int) (devices []Device, closeAll func(), err error)

// Memory is a Network without a network.
func Memory(n int) ([]Device, func(), error) {
	m := node.NewMemory()
	devices := make([]Device, n)
	for i := range devices {
		id := fmt.Sprintf("device-%d", i)
		devices[i] = Device{Address: node.Address{ID: id}, Peers: m.Join(id)}
	}
	return devices, func() {}, nil
}

// Setting is how a session is run.
type Setting struct {
	Schedules  fedkv.Schedules
	Types      fedkv.WireTypes
	Positions  fedkv.Positions
	MicroBatch int // in gather; 0: a segment is one micro-batch
	Timeout    time.Duration
	Log        zerolog.Logger
}

// Result is one session's outcome.
type Result struct {
	Logits  []float32 // the publisher's, [own tokens][vocabulary]
	Report  node.Report
	Seconds float64 // from the first dial to the last logit
}

// fixed is a Source that holds given tokens.
type fixed []fedkv.Token

func (f fixed) Segment(context.Context, fedkv.Plan) ([]fedkv.Token, error) { return f, nil }

// Run takes a prompt through a session of real participants over network. Any missing participant is an error.
func Run(ctx context.Context, e Engine, network Network, self fedkv.Hello, p Prompt, s Setting) (Result, error) {
	n := len(p.Segments)
	devices, closeAll, err := network(n)
	if err != nil {
		return Result{}, err
	}
	defer closeAll()

	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	publisher := devices[n-1]
	longest := len(p.Prefix)
	for _, segment := range p.Segments {
		longest = max(longest, len(segment))
	}
	batch := s.MicroBatch
	if batch == 0 {
		batch = longest
	}
	contacts := make([]node.Contact, n-1)
	var sessions sync.WaitGroup // of the contributors
	for i, d := range devices[:n-1] {
		hello := self
		hello.Role, hello.Name = fedkv.RoleContributor, fmt.Sprintf("participant-%d", i+1)
		c := node.NewContributor(node.ContributorConfig{
			Engine: e, Peers: d.Peers, Self: hello, ID: d.Address.ID, Source: fixed(p.Segments[i]),
			MaxContext: p.Tokens(), MicroBatch: batch, Log: s.Log,
			OnSession: func(node.Contribution) { sessions.Done() },
		})
		sessions.Add(1)
		serving.Go(func() { _ = c.Serve(ctx) })
		contacts[i] = node.Contact{Dial: func(ctx context.Context) (node.Link, error) {
			return publisher.Peers.Dial(ctx, d.Address)
		}}
	}
	hello := self
	hello.Role, hello.Name = fedkv.RolePublisher, fmt.Sprintf("participant-%d", n)
	started := time.Now()
	session, err := node.Ask(ctx, node.Question{
		Engine: e, Self: hello, ID: publisher.Address.ID, Contacts: contacts, Prefix: p.Prefix, Own: p.Own(),
		Schedules: s.Schedules, Types: s.Types, Positions: s.Positions, MaxContext: p.Tokens(),
		Outputs: len(p.Own()), MicroBatch: batch, SetupBy: s.Timeout, GatherBy: s.Timeout, RequireAll: true, Log: s.Log,
	})
	if err != nil {
		return Result{}, err
	}
	out, err := logits(session, len(p.Own()))
	seconds := time.Since(started).Seconds()
	report := session.Report()
	err = errors.Join(err, session.Close())
	if err == nil {
		sessions.Wait() // each ends with the publisher's Done, or when its link does
	}
	return Result{Logits: out, Report: report, Seconds: seconds}, err
}
