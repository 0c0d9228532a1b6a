package node_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	f16   = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	lossy = fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0} // the default
)

const (
	setupBy  = 10 * time.Second
	gatherBy = 2 * time.Minute
)

// stage is the participants of a session under test, in one bubble of virtual time: contributors that serve, and a
// publisher that asks.
type stage struct {
	t         *testing.T
	prefix    []fedkv.Token
	segments  [][]fedkv.Token // by origin, the publisher's last
	schedules fedkv.Schedules
	wire      fedkv.Wire
	rows      fedkv.RowPolicy
	local     fedkv.RowPolicy // of everybody's local layers
	positions fedkv.Positions

	network *node.Memory
	members map[string]node.Peers // of the network, by identity
	engine  *nodetest.Engine      // the publisher's
	asker   node.Peers
	hosts   []*host
	log     *logbook

	receive  func(id string, w *nodetest.Watched) // of every link at the publisher's end
	decoding func()                               // called in the middle of an answer

	dialledAs func(id string, l node.Link) node.Link // what the publisher gets for a link

	held    atomic.Int64 // blocks that were received and not released
	mu      sync.Mutex
	dialled []node.Link
	planned fedkv.SessionID
}

// hold counts blocks.
func (s *stage) hold(n int) { s.held.Add(int64(n)) }

// host is a contributor.
type host struct {
	id     string
	stage  *stage
	engine *nodetest.Engine
	config node.ContributorConfig
	watch  func(*nodetest.Watched) // of every link at this end
	wrap   func(node.Link) node.Link
	node   *node.Contributor // once it serves

	ctx    context.Context // of Serve
	stop   context.CancelFunc
	served chan struct{}

	mu    sync.Mutex
	links []node.Link
	over  []node.Contribution
}

// sample is n tokens, others for each number.
func sample(number, n int) []fedkv.Token {
	tokens := make([]fedkv.Token, n)
	for i := range tokens {
		tokens[i] = fedkv.Token((number*17 + i*i*7 + i*5 + 3) % 61)
	}
	return tokens
}

// newStage has a segment of each of the lengths, the publisher's last. Positions are canonical in gather.
func newStage(t *testing.T, spec string, types fedkv.WireTypes, lengths ...int) *stage {
	t.Helper()
	s := &stage{
		t: t, prefix: sample(99, 3), positions: fedkv.InPlace,
		network: node.NewMemory(), members: map[string]node.Peers{}, engine: nodetest.NewEngine(), log: &logbook{},
	}
	var err error
	if s.schedules, err = fedkv.ParseSchedules(spec, s.engine.Model.Layers); err != nil {
		t.Fatal(err)
	}
	s.wire = fedkv.Uniform(types, s.engine.Model.Layers)
	if s.schedules.Regime() == fedkv.Gather {
		s.positions = fedkv.Canonical
	}
	for i, n := range lengths {
		s.segments = append(s.segments, sample(i, n))
	}
	s.asker = s.join("publisher")
	for i := range len(lengths) - 1 {
		s.hosts = append(s.hosts, s.newHost(i))
	}
	return s
}

// slide gives everybody the model with windows.
func (s *stage) slide() {
	s.engine.Model = nodetest.NewSlidingEngine().Model
	for _, h := range s.hosts {
		h.engine.Model = s.engine.Model
		h.config.Self = h.engine.Hello(h.id, fedkv.RoleContributor)
	}
}

// tokens is a Source of given tokens.
type tokens []fedkv.Token

func (s tokens) Segment(_ context.Context, plan fedkv.Plan) (fedkv.Text, error) {
	if len(s) > plan.MaxTokens {
		return fedkv.Text{}, fedkv.Errorf(fedkv.CodeTooLong, "%d tokens, %d fit", len(s), plan.MaxTokens)
	}
	return fedkv.Text{Tokens: s}, nil
}

func (s *stage) newHost(i int) *host {
	h := &host{id: fmt.Sprint("host", i), stage: s, engine: nodetest.NewEngine(), served: make(chan struct{})}
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.config = node.ContributorConfig{
		Engine: h.engine, Self: h.engine.Hello(h.id, fedkv.RoleContributor), ID: h.id, Source: tokens(s.segments[i]),
		MaxContext: 1000, MicroBatch: 3, Log: s.log.logger(),
		OnSession: func(c node.Contribution) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.over = append(h.over, c)
		},
	}
	return h
}

// join is a place in the network.
func (s *stage) join(id string) node.Peers {
	if s.members[id] == nil {
		s.members[id] = s.network.Join(id)
	}
	return s.members[id]
}

// open lets everybody serve.
func (s *stage) open() {
	for i, h := range s.hosts {
		h.config.LocalRows = s.local.Of(i)
		h.serve(s.join(h.id))
	}
	s.t.Cleanup(func() { // for a test that fails in the middle
		for _, h := range s.hosts {
			h.stop()
			<-h.served
		}
	})
}

func (h *host) serve(peers node.Peers) {
	h.config.Peers = nodetest.Through(peers, func(l node.Link) node.Link {
		h.mu.Lock()
		h.links = append(h.links, l)
		h.mu.Unlock()
		if h.wrap != nil {
			l = h.wrap(l)
		}
		w := &nodetest.Watched{Link: l, Held: h.stage.hold}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.watch != nil {
			h.watch(w)
		}
		return w
	})
	h.node = node.NewContributor(h.config)
	go func() {
		defer close(h.served)
		_ = h.node.Serve(h.ctx)
	}()
}

// disarm lets later links be.
func (h *host) disarm() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch = nil
}

// kill is the end of a host without a word, as by kill -9.
func (h *host) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.links {
		_ = l.Close(fedkv.CodeLost, "the connection broke")
	}
	h.stop()
}

// question asks all hosts.
func (s *stage) question() node.Question {
	q := node.Question{
		Engine: s.engine, Self: s.engine.Hello("publisher", fedkv.RolePublisher), ID: "publisher",
		Prefix: s.prefix, Own: s.segments[len(s.segments)-1], Schedules: s.schedules, Wire: s.wire, Rows: s.rows, LocalRows: s.local.Of(len(s.hosts)),
		Positions: s.positions, MaxContext: 1000, Outputs: len(s.segments[len(s.segments)-1]),
		SetupBy: setupBy, GatherBy: gatherBy, Log: s.log.logger(),
	}
	for _, h := range s.hosts {
		q.Contacts = append(q.Contacts, s.contact(h.id))
	}
	return q
}

func (s *stage) contact(id string) node.Contact {
	return node.Contact{Name: id, Dial: func(ctx context.Context) (node.Link, error) {
		l, err := s.asker.Dial(ctx, node.Address{ID: id})
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dialled = append(s.dialled, l)
		if s.dialledAs != nil {
			l = s.dialledAs(id, l)
		}
		w := &nodetest.Watched{Link: l, Held: s.hold, BeforeSend: func(m fedkv.Message) {
			if plan, ok := m.(fedkv.Plan); ok {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.planned = plan.Session
			}
		}}
		if s.receive != nil {
			s.receive(id, w)
		}
		return w, nil
	}}
}

// links are all that the publisher dialled.
func (s *stage) links() []node.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.dialled)
}

// outcome is what became of a session.
type outcome struct {
	logits [][]float32
	report node.Report
	took   time.Duration
	answer []fedkv.Token
	after  [][]float32 // logits before each token of the answer but the first
}

// ask runs a session to its end. What it leaves behind is an error of the test.
func (s *stage) ask(q node.Question) (*outcome, error) {
	s.t.Helper()
	started := time.Now()
	session, err := node.Ask(context.Background(), q)
	if err != nil {
		return nil, err
	}
	o := &outcome{took: time.Since(started)}
	for i := range q.Outputs {
		row, err := session.Logits(i)
		if err != nil {
			s.t.Fatal(err)
		}
		o.logits = append(o.logits, row)
	}
	if q.Answer > 0 {
		choose := recorder{&o.answer, &o.after}
		if _, err := session.Generate(context.Background(), choose, q.Answer, func([]byte) error {
			if s.decoding != nil {
				s.decoding()
				arrive()
			}
			return nil
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	o.report = session.Report()
	if err := session.Close(); err != nil {
		s.t.Error(err)
	}
	return o, nil
}

// recorder is a greedy sampler that keeps what it saw.
type recorder struct {
	tokens *[]fedkv.Token
	logits *[][]float32
}

func (r recorder) Next(c node.Cache, i int) (fedkv.Token, error) {
	row, err := c.Logits(i)
	if err != nil {
		return 0, err
	}
	*r.tokens, *r.logits = append(*r.tokens, nodetest.Top(row)), append(*r.logits, row)
	return nodetest.Top(row), nil
}

// mustAsk is a session that has to succeed.
func (s *stage) mustAsk(change ...func(*node.Question)) *outcome {
	s.t.Helper()
	q := s.question()
	for _, c := range change {
		c(&q)
	}
	o, err := s.ask(q)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.log)
	}
	return o
}

// close ends everybody and looks at what they leave behind.
func (s *stage) close() {
	s.t.Helper()
	arrive() // the last messages
	for _, h := range s.hosts {
		h.stop()
		<-h.served
		if n := h.engine.OpenCaches(); n != 0 {
			s.t.Errorf("%s leaves %d caches behind", h.id, n)
		}
		for _, l := range h.links {
			if l.Err() == nil {
				s.t.Errorf("%s leaves a link with %s behind", h.id, l.ID())
			}
		}
	}
	if n := s.engine.OpenCaches(); n != 0 {
		s.t.Errorf("the publisher leaves %d caches behind", n)
	}
	if n := s.held.Load(); n != 0 {
		s.t.Errorf("%d blocks are held for ever, or released twice", n)
	}
}

// contributions are of the host's sessions, in order of their ends. All have to be over.
func (h *host) contributions() []node.Contribution {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.over)
}

// oracle is what the logits have to be, given who was missing from when on. To be called after close.
func (s *stage) oracle(r node.Report) nodetest.Oracle {
	o := nodetest.Oracle{
		Engine: s.engine, Prefix: s.prefix, Segments: s.segments, Schedules: s.schedules, Wire: s.wire, Rows: s.rows, Local: s.local,
		Positions: s.positions, Layout: &r.Layout,
	}
	for _, h := range s.hosts {
		batch := 0 // in lockstep a segment is one micro-batch
		if s.schedules.Regime() == fedkv.Gather {
			batch = h.config.MicroBatch
		}
		o.Batches = append(o.Batches, batch)
	}
	if s.schedules.Regime() == fedkv.Gather {
		return o
	}
	for _, p := range r.Peers {
		if p.Missing != nil {
			o.Hidden = append(o.Hidden, fedkvtest.Hidden{Receiver: len(s.hosts), Origin: p.Origin, Layer: p.Missing.Layer})
		}
	}
	for i, h := range s.hosts {
		for _, c := range h.contributions() {
			for _, m := range c.Missing {
				if c.Session != r.Session {
					continue
				}
				o.Hidden = append(o.Hidden, fedkvtest.Hidden{Receiver: i, Origin: m.Origin, Layer: m.Layer})
			}
		}
	}
	return o
}

// check holds an outcome against the oracle.
func (s *stage) check(o *outcome) {
	s.t.Helper()
	if !equal(o.logits, s.oracle(o.report).Logits()) {
		s.t.Errorf("the logits are not the oracle's; missing: %v", missing(o.report))
	}
}

// quiet is an error if anything was logged as a warning or worse.
func (s *stage) quiet() {
	s.t.Helper()
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, `"level":"warn"`) || strings.Contains(line, `"level":"error"`) {
			s.t.Errorf("an ordinary session logs %s", line)
		}
	}
}

// missing are those whom a report names.
func missing(r node.Report) []fedkv.Missing {
	var list []fedkv.Missing
	for _, p := range r.Peers {
		if p.Missing != nil {
			list = append(list, *p.Missing)
		}
	}
	return list
}

// contains checks what a user reads.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

func equal(a, b [][]float32) bool {
	return slices.EqualFunc(a, b, func(x, y []float32) bool { return slices.Equal(x, y) })
}

// logbook keeps log lines of several goroutines.
type logbook struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *logbook) logger() zerolog.Logger { return zerolog.New(l) }

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

// play is a test in virtual time: what waits for a deadline takes no time, and goroutines that stay behind fail it.
func play(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}
