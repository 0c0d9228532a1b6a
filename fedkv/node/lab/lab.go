// Package lab runs whole sessions in one process and measures them against a run in which one process evaluates
// everything itself. Every participant is a real one: its own caches, its own links, the runtime of package node.
//
// Start reading at Run, then Centralised.
package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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

// Own is the publisher's segment.
func (p Prompt) Own() []fedkv.Token { return p.Segments[len(p.Segments)-1] }

// stream is all tokens in their order.
func (p Prompt) stream() []fedkv.Token {
	return slices.Concat(append([][]fedkv.Token{p.Prefix}, p.Segments...)...)
}

// Contributed is how many tokens the contributors own.
func (p Prompt) Contributed() int { return p.Tokens() - len(p.Prefix) - len(p.Own()) }

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
	return centralised(ctx, e, p, sameBatches, len(p.Own()))
}

// centralised keeps the logits of the last outputs tokens.
func centralised(ctx context.Context, e Engine, p Prompt, sameBatches bool, outputs int) ([]float32, error) {
	batches := [][]fedkv.Token{}
	if len(p.Prefix) > 0 {
		batches = append(batches, p.Prefix)
	}
	batches = append(batches, p.Segments...)
	if !sameBatches {
		batches = [][]fedkv.Token{p.stream()}
	}
	longest := 0
	for _, b := range batches {
		longest = max(longest, len(b))
	}
	cache, err := e.OpenPlain(p.Tokens(), longest, outputs)
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	defer context.AfterFunc(ctx, cache.Interrupt)()
	pos := 0
	for i, b := range batches {
		want := 0
		if i == len(batches)-1 {
			want = outputs
		}
		if err := cache.Eval(b, pos, want, nil); err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		pos += len(b)
	}
	return logits(cache, outputs)
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
	Wire       fedkv.Wire
	Rows       fedkv.RowPolicy
	LocalRows  fedkv.RowPolicy // by participant, the publisher the last
	Positions  fedkv.Positions
	Outputs    int                        // of how many of the last own tokens logits are kept; 0: of all
	Answer     int                        // tokens to keep room for after the prompt
	Sources    bool                       // the report says whose rows an answer looks at
	Home       fedkv.Type                 // 0: rows are sent; otherwise they stay, and queries travel in this type
	Stays      func(contributor int) bool // whose rows they are; nil: of all
	Draft      int                        // see node.Question
	Context    int                        // cells of the publisher, rows that stay home not counted; 0: for everything
	MicroBatch int                        // in gather; 0: a segment is one micro-batch
	// Contributors is their engine, if it is another one: the same model with other weights, quantised otherwise.
	Contributors node.Engine
	Timeout      time.Duration
	Log          zerolog.Logger
}

// Result is one session's outcome.
type Result struct {
	Logits  []float32 // the publisher's, [outputs][vocabulary]
	Report  node.Report
	Sent    int64   // bytes of rows that left a contributor, every copy counted
	Seconds float64 // from the first dial to the last logit, or the answer's last token
}

// fixed is a Source that holds given tokens.
type fixed []fedkv.Token

func (f fixed) Segment(context.Context, fedkv.Plan) (fedkv.Text, error) {
	return fedkv.Text{Tokens: f}, nil
}

// Run takes a prompt through a session of real participants over network. Any missing participant is an error.
func Run(ctx context.Context, e Engine, network Network, self fedkv.Hello, p Prompt, s Setting) (Result, error) {
	if s.Outputs == 0 {
		s.Outputs = len(p.Own())
	}
	var out []float32
	r, err := within(ctx, e, network, self, p, s, func(session *node.Session) (err error) {
		out, err = logits(session, s.Outputs)
		return err
	})
	r.Logits = out
	return r, err
}

// within opens a session and has it used until use returns.
func within(ctx context.Context, e Engine, network Network, self fedkv.Hello, p Prompt, s Setting, use func(*node.Session) error) (Result, error) {
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
	var rows sent
	for i, d := range devices[:n-1] {
		hello := self
		hello.Role, hello.Name = fedkv.RoleContributor, fmt.Sprintf("participant-%d", i+1)
		var engine node.Engine = e
		if s.Contributors != nil {
			engine = s.Contributors
			hello.Model, hello.Canary = engine.Fingerprint(), nil
		}
		c := node.NewContributor(node.ContributorConfig{
			Engine: engine, Peers: d.Peers, Self: hello, ID: d.Address.ID, Source: fixed(p.Segments[i]),
			MaxContext: p.Tokens(), LocalRows: s.LocalRows.Of(i), MicroBatch: batch, Log: s.Log,
			OnSession: func(node.Contribution) { sessions.Done() },
		})
		sessions.Add(1)
		serving.Go(func() { _ = c.Serve(ctx) })
		contacts[i] = node.Contact{Home: s.Home != 0 && (s.Stays == nil || s.Stays(i)), Dial: func(ctx context.Context) (node.Link, error) {
			link, err := publisher.Peers.Dial(ctx, d.Address)
			if err != nil {
				return nil, err
			}
			return rows.watch(link), nil
		}}
	}
	hello := self
	hello.Role, hello.Name = fedkv.RolePublisher, fmt.Sprintf("participant-%d", n)
	started := time.Now()
	session, err := node.Ask(ctx, node.Question{
		Engine: e, Self: hello, ID: publisher.Address.ID, Contacts: contacts, Prefix: p.Prefix, Own: p.Own(),
		Answer: s.Answer, Schedules: s.Schedules, Wire: s.Wire, Rows: s.Rows, LocalRows: s.LocalRows.Of(n - 1), Positions: s.Positions,
		MaxContext: cmp.Or(s.Context, p.Tokens()+s.Answer), MaxPositions: p.Tokens() + s.Answer, Outputs: s.Outputs, MicroBatch: batch,
		Sources: s.Sources, HomeType: s.Home, Draft: s.Draft, SetupBy: s.Timeout, GatherBy: s.Timeout, RequireAll: true, Log: s.Log,
	})
	if err != nil {
		return Result{}, err
	}
	err = use(session)
	seconds := time.Since(started).Seconds()
	report := session.Report()
	bytes := int64(0)
	if err == nil {
		bytes = rows.wait()
	}
	err = errors.Join(err, session.Close())
	if err == nil {
		sessions.Wait() // each ends with the publisher's Done, or when its link does
	}
	return Result{Report: report, Sent: bytes, Seconds: seconds}, err
}
