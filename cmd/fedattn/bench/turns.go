package bench

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/device"
	"fedattn/llama"
)

// Engine is a model with its template, which can also be evaluated without anybody else.
type Engine interface {
	node.Engine
	Frame(system string) (llama.Frame, error)
	OpenPlain(cells, microBatch, outputs int) (node.Cache, error)
	Vocabulary() int
}

// Config is what tests need.
type Config struct {
	Matrix
	Subject
	Engine   Engine
	Size     fedkv.ModelSize // of its model, for predictions
	Reps     int
	NoWarmUp bool
	Pause    time.Duration // before each run
	Timeout  time.Duration // of a run
	Cores    Cores

	// The asking device, and how it reaches others.
	Self       fedkv.Hello
	ID         string
	Device     func(ed25519.PublicKey) string
	Dial       func(ctx context.Context, address string) (node.Link, error)
	MaxStaging int64
	Log        zerolog.Logger

	// Node is the command that starts a node of this program, which prints its address first.
	Node func(NodeProcess) *exec.Cmd
	// Peers are addresses of nodes that run elsewhere. If there are any they are asked, with the documents that they hold,
	// and none is started here.
	Peers []string

	// llama.cpp's programs, to be measured beside; empty: they are not.
	LlamaBench, RPCServer string

	Context int // positions that a session may have; 0: as many as the tests need
	// AfterTurn sees all rows with what whole turns measured so far. It may be nil; its error ends the measurement.
	AfterTurn func([]*Row) error
	// Say is told what runs. It may be nil.
	Say func(text string)
}

// NodeProcess is a node that is to be started.
type NodeProcess struct {
	Name     string
	Document string // a file
	Dir      string // of its own, for everything that it keeps
	Context  int    // positions that it has to evaluate
}

// roomForAnswer is the least room of a session beside its prompt.
const roomForAnswer = 64

// Bench measures tests. Close ends the processes that it started.
type Bench struct {
	cfg      Config
	dir      string // of nodes
	folders  int
	number   int // of questions so far: each has a prefix of its own
	ordinary []fedkv.Token
	power    *power

	alone   *alone
	fleets  map[fleetKey]*fleet
	servers map[int]*servers

	sessions []session
	rows     []*Row
	steps    []step
}

type fleetKey struct{ devices, prompt int }

// step is a run that gives samples of some rows.
type step struct {
	name string
	rows []*Row
	run  func(ctx context.Context) ([]Sample, error)
}

// New prepares the tests: it starts nodes and programs, and has them ready.
func New(ctx context.Context, cfg Config) (*Bench, error) {
	b := &Bench{cfg: cfg, fleets: map[fleetKey]*fleet{}, servers: map[int]*servers{}}
	if err := b.prepare(ctx); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bench) prepare(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "fedattn-bench-"); err != nil {
		return err
	}
	b.power = startPower(device.Board{Root: device.Sysfs})
	b.ordinary = ordinary(b.cfg.Engine, someTokens(b.cfg.Engine.Vocabulary(), 64))
	if len(b.ordinary) == 0 {
		return errors.New("this model has no token that ends no answer")
	}
	if err := b.plan(ctx); err != nil {
		return err
	}
	if len(b.steps) == 0 {
		return errors.New("there is nothing to measure: all numbers of tokens are 0")
	}
	return b.predict(ctx)
}

// plan makes the steps: tests on one device first, then the federated ones, with programs beside.
func (b *Bench) plan(ctx context.Context) error {
	sessions := b.cfg.sessions()
	if b.cfg.Context == 0 {
		for _, s := range sessions {
			longest := roomForAnswer
			if n := len(s.generates); n > 0 {
				longest += s.generates[n-1]
			}
			b.cfg.Context = max(b.cfg.Context, s.prompt+longest)
		}
	}
	if len(b.cfg.Peers) > 0 {
		var err error
		if sessions, err = b.meet(ctx, sessions); err != nil {
			return err
		}
	}
	b.sessions = sessions
	single := b.cfg.single()
	var wanted []Test // on one device, by whichever program is the reference
	for _, s := range sessions {
		for _, t := range s.tests() {
			if t = t.alone(""); !slices.Contains(wanted, t) {
				wanted = append(wanted, t)
			}
		}
	}
	own := slices.Clone(single)
	if b.cfg.LlamaBench == "" {
		for _, t := range wanted {
			if !slices.Contains(own, t) {
				own = append(own, t)
			}
		}
	}
	var err error
	if b.alone, err = newAlone(b.cfg, own); err != nil {
		return err
	}
	for _, t := range own {
		b.add(b.cfg.Backend(), func(context.Context) ([]Sample, error) {
			before := b.power.joules()
			s, err := b.alone.run(t)
			s.Joules = b.power.joules() - before
			return []Sample{s}, err
		}, t.alone(Own))
	}
	if b.cfg.LlamaBench != "" {
		for _, t := range slices.Concat(single, wanted) {
			t = t.alone(LlamaCPP)
			if slices.ContainsFunc(b.rows, func(r *Row) bool { return r.Test == t }) {
				continue
			}
			b.addProgram(t, func() ([]string, error) { return nil, nil })
		}
	}
	for _, s := range sessions {
		if err := b.addSession(ctx, s); err != nil {
			return err
		}
	}
	return b.addServers(ctx, sessions)
}

// Backend is how llama-bench calls what evaluates the model.
func (c Config) Backend() string {
	if c.GPULayers > 0 {
		return "GPU"
	}
	return "CPU"
}

func (b *Bench) add(backend string, run func(context.Context) ([]Sample, error), tests ...Test) {
	s := step{name: tests[0].Name(), run: run}
	for _, t := range tests {
		r := &Row{Test: t, Subject: &b.cfg.Subject, Backend: backend}
		b.rows, s.rows = append(b.rows, r), append(s.rows, r)
	}
	b.steps = append(b.steps, s)
}

// addProgram adds a test of llama-bench's.
func (b *Bench) addProgram(t Test, more func() ([]string, error)) {
	at := len(b.rows)
	b.add(b.cfg.Backend(), func(ctx context.Context) ([]Sample, error) {
		args, err := more()
		if err != nil {
			return nil, err
		}
		s, backend, err := b.runLlamaBench(ctx, t, args...)
		if backend != "" {
			b.rows[at].Backend = backend
		}
		return []Sample{s}, err
	}, t)
}

// addSession adds the tests of a session, and starts the nodes that it needs.
func (b *Bench) addSession(ctx context.Context, s session) error {
	key := fleetKey{s.nodes, s.prompt}
	f := b.fleets[key]
	if f == nil {
		b.say("starting %d nodes for prompts of %d tokens", s.nodes-1, s.prompt)
		var err error
		if f, err = b.startFleet(ctx, s.nodes, s.prompt); err != nil {
			return err
		}
		b.fleets[key] = f
	}
	b.add(b.cfg.Backend(), func(ctx context.Context) ([]Sample, error) { return b.runSession(ctx, f, s) }, s.tests()...)
	return nil
}

// addServers adds llama.cpp's own way of using several devices.
func (b *Bench) addServers(ctx context.Context, sessions []session) error {
	if b.cfg.RPCServer == "" || len(b.cfg.Peers) > 0 {
		return nil
	}
	for _, s := range sessions {
		if s.nodes < 2 || s.link.Path.Loss > 0 { // TCP repairs what is lost before a proxy could lose it
			continue
		}
		for _, t := range s.tests() {
			t := Test{Program: LlamaRPC, Prompt: t.Prompt, Generate: t.Generate, Depth: t.Depth, Nodes: s.nodes, Link: s.link.String()}
			if slices.ContainsFunc(b.rows, func(r *Row) bool { return r.Test == t }) {
				continue
			}
			group := b.servers[s.nodes]
			if group == nil {
				var err error
				if group, err = b.startServers(ctx, s.nodes); err != nil {
					return err
				}
				b.servers[s.nodes] = group
			}
			b.addProgram(t, func() ([]string, error) {
				list, err := group.over(s.link)
				return []string{"-ngl", allLayers, "--rpc", list, "-ts", evenSplit(s.nodes)}, err
			})
		}
	}
	return nil
}

// meet asks nodes that run elsewhere once, to learn how long their documents are: that is the only prompt there is.
func (b *Bench) meet(ctx context.Context, sessions []session) ([]session, error) {
	if len(sessions) == 0 {
		return nil, nil
	}
	f := &fleet{nodes: b.cfg.Peers}
	s := sessions[0]
	s.nodes, s.cold = len(b.cfg.Peers)+1, true
	b.say("asking %d nodes for the length of their documents", len(b.cfg.Peers))
	first, _, err := b.ask(ctx, f, s, 0, 0, nil)
	if err != nil {
		return nil, err
	}
	f.tokens = first.Tokens
	var met []session
	for _, s := range sessions {
		s.prompt, s.nodes = f.tokens, len(b.cfg.Peers)+1
		if !slices.ContainsFunc(met, func(o session) bool { return slices.Equal(o.tests(), s.tests()) }) {
			met = append(met, s)
		}
	}
	b.fleets[fleetKey{len(b.cfg.Peers) + 1, f.tokens}] = f
	return met, nil
}

func (b *Bench) say(format string, args ...any) {
	if b.cfg.Say != nil {
		b.cfg.Say(fmt.Sprintf(format, args...))
	}
}

// PowerSensor is what energy is measured by, empty if by nothing.
func (b *Bench) PowerSensor() string { return b.power.name() }

// Run makes all tests, turn by turn, and returns what whole turns measured; with an error, of those before it.
func (b *Bench) Run(ctx context.Context) ([]*Row, error) {
	err := b.turns(ctx)
	whole := b.cfg.Reps
	for _, r := range b.rows {
		whole = min(whole, len(r.Samples))
	}
	for _, r := range b.rows {
		r.Samples = r.Samples[:whole]
	}
	compare(b.rows)
	if whole == 0 {
		return nil, err
	}
	return b.rows, err
}

func (b *Bench) turns(ctx context.Context) error {
	if !b.cfg.NoWarmUp {
		if err := b.warmUp(ctx); err != nil {
			return err
		}
	}
	for turn := range b.cfg.Reps {
		for k := range b.steps { // whoever is first has the coldest caches
			s := b.steps[(turn+k)%len(b.steps)]
			if b.cfg.Pause > 0 {
				select {
				case <-time.After(b.cfg.Pause):
				case <-ctx.Done():
				}
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b.say("turn %d of %d: %s%s", turn+1, b.cfg.Reps, s.name, s.rows[0].where())
			began := time.Now()
			samples, err := s.run(ctx)
			if err != nil {
				return fmt.Errorf("%s%s: %w", s.name, s.rows[0].where(), err)
			}
			for i, r := range s.rows {
				if r.Began.IsZero() {
					r.Began = began
				}
				r.Samples = append(r.Samples, samples[i])
			}
		}
		if b.cfg.AfterTurn == nil {
			continue
		}
		compare(b.rows)
		if err := b.cfg.AfterTurn(b.rows); err != nil {
			return err
		}
	}
	return nil
}

// where is a test's circumstances in a few words.
func (t Test) where() string {
	text := ""
	for _, word := range []string{t.Schedule, t.Link} {
		if word != "" {
			text += ", " + word
		}
	}
	if t.Program != Own {
		text += ", " + string(t.Program)
	}
	return text
}

// warmUp lets everybody evaluate something once: the asking device a micro-batch and a token, each group of nodes a
// question. llama-bench warms itself up.
func (b *Bench) warmUp(ctx context.Context) error {
	if b.alone != nil {
		b.say("warming up")
		if err := b.alone.warmUp(b.cfg.MicroBatch); err != nil {
			return err
		}
	}
	done := map[fleetKey]bool{}
	for _, s := range b.sessions {
		key := fleetKey{s.nodes, s.prompt}
		f := b.fleets[key]
		if f == nil || done[key] {
			continue
		}
		done[key] = true
		b.say("warming up %d devices for prompts of %d tokens", s.nodes, s.prompt)
		s.link = b.cfg.linksOf(1)[0]
		b.number++
		if _, _, err := b.ask(ctx, f, s, b.number, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// Close ends nodes and programs. What was measured stays.
func (b *Bench) Close() {
	for _, f := range b.fleets {
		f.close()
	}
	for _, s := range b.servers {
		s.close()
	}
	b.alone.close()
	b.power.close()
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
	b.fleets, b.servers, b.alone, b.power, b.dir = nil, nil, nil, nil, ""
}
