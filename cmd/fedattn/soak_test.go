//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/llama"
)

const (
	soakSessions = 12 // of a test run; make soak N=200 sets FEDATTN_SOAK and takes the real model
	soakWarmUp   = 4  // after which nothing may grow
	soakStopped  = 5  // every so many sessions, the asker stops in the middle
)

// Sessions leave nothing behind, neither at the node that answers them one after the other nor at the asker, which is
// the same process here: no goroutine, no descriptor, and, where they are many, no memory. Some are stopped while
// something is evaluated.
func TestSoak(t *testing.T) {
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	sessions, long, path := soakSessions, false, filepath.Join(t.TempDir(), "tiny.gguf")
	if n, err := strconv.Atoi(os.Getenv("FEDATTN_SOAK")); err == nil && n > 0 {
		sessions, long, path = n, true, modelPath(t)
	} else if err := os.WriteFile(path, tinyTransformer(tinyTemplate, 1, tinyContext), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSoak(t, path, 60, nil)
	var usage []resources
	for i := range sessions {
		s.session(i%soakStopped == soakStopped-1)
		usage = append(usage, s.settled(usage))
		if long && (i+1)%max(1, sessions/20) == 0 {
			t.Logf("%4d sessions: %v", i+1, usage[i])
		}
	}
	warm := usage[min(soakWarmUp, len(usage))-1]
	last := usage[len(usage)-1]
	if last.goroutines > warm.goroutines || last.descriptors > warm.descriptors {
		t.Errorf("after %d sessions %v, after %d %v", soakWarmUp, warm, sessions, last)
	}
	slope := slopeOf(usage[len(usage)/2:])
	t.Logf("%d sessions: %v; over the second half %+.1f KiB a session", sessions, last, slope)
	// a session's caches are megabytes; the allocators' own ups and downs are less than this over a hundred sessions
	if long && sessions >= 100 && slope > 16 {
		t.Errorf("memory grows by %.1f KiB with every session", slope)
	}
}

// resources of this process. What is in use, Go's and C's together, is what a leak makes grow; resident memory holds what
// allocators keep besides, in pieces that go up and down with what ran at once.
type resources struct {
	inGo, inC   int // bytes that are in use
	resident    int // KiB
	threads     int
	goroutines  int
	descriptors int
}

func (r resources) String() string {
	return fmt.Sprintf("%d KiB in use (Go %d, C %d), %d KiB resident, %d threads, %d goroutines, %d descriptors",
		(r.inGo+r.inC)>>10, r.inGo>>10, r.inC>>10, r.resident, r.threads, r.goroutines, r.descriptors)
}

// measureResources counts what is there now; memory only after a collection, which takes its time.
func measureResources(t testing.TB, memory bool) (r resources) {
	t.Helper()
	count := func(dir string) int {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	r = resources{threads: count("/proc/self/task"), goroutines: runtime.NumGoroutine(), descriptors: count("/proc/self/fd")}
	if !memory {
		return r
	}
	runtime.GC() // what has a finaliser goes with the second one
	debug.FreeOSMemory()
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	r.inGo, r.inC = int(heap.HeapAlloc), int(llama.Allocated())
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	r.resident = pages * os.Getpagesize() >> 10
	return r
}

// slopeOf is how much memory grows from one session to the next, in KiB.
func slopeOf(usage []resources) float64 {
	var x, y []float64
	for i, u := range usage {
		x, y = append(x, float64(i)), append(y, float64(u.resident))
	}
	slope, _ := fitLine(x, y)
	return slope
}

// fitLine is the slope of y over x by least squares, and its standard error.
func fitLine(x, y []float64) (slope, spread float64) {
	var n, mx, my float64
	for i := range x {
		n, mx, my = n+1, mx+x[i], my+y[i]
	}
	mx, my = mx/n, my/n
	var xx, xy, rest float64
	for i := range x {
		xx, xy = xx+(x[i]-mx)*(x[i]-mx), xy+(x[i]-mx)*(y[i]-my)
	}
	if n < 3 || xx == 0 {
		return 0, math.Inf(1)
	}
	slope = xy / xx
	for i := range x {
		d := y[i] - my - slope*(x[i]-mx)
		rest += d * d
	}
	return slope, math.Sqrt(rest / (n - 2) / xx)
}

// soak is a node that serves, and an asker.
type soak struct {
	t      testing.TB
	engine *llama.Engine
	asker  node.Peers
	to     node.Address
	over   chan struct{} // one for every session at the node
}

// newSoak has a node with a text of so many tokens. watch, if there is one, wraps its engine.
func newSoak(t testing.TB, path string, text int, watch func(node.Engine) node.Engine) *soak {
	t.Helper()
	m, err := llama.Load(path, llama.ModelParams{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	engine, err := llama.NewEngine(m, fedkv.Digest(sha256.Sum256([]byte(path))))
	if err != nil {
		t.Fatal(err)
	}
	devices, closeAll, err := loopback(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeAll)
	s := &soak{t: t, engine: engine, asker: devices[1].Peers, to: devices[0].Address, over: make(chan struct{}, 1)}
	serving := node.Engine(engine)
	if watch != nil {
		serving = watch(engine)
	}
	c := node.NewContributor(node.ContributorConfig{
		Engine: serving, Peers: devices[0].Peers, Self: self(engine, "node", fedkv.RoleContributor), ID: devices[0].Address.ID,
		Source: soakText(s.tokens(text)), MaxContext: 1024, Log: zerolog.Nop(),
		OnSession: func(node.Contribution) { s.over <- struct{}{} },
	})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = c.Serve(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-served
	})
	return s
}

// soakText is a segment of given tokens.
type soakText []fedkv.Token

func (s soakText) Segment(context.Context, fedkv.Plan) (fedkv.Text, error) {
	return fedkv.Text{Tokens: s}, nil
}

func (s *soak) tokens(n int) []fedkv.Token {
	tokens := make([]fedkv.Token, n)
	for i := range tokens {
		tokens[i] = fedkv.Token((i*37 + 11) % s.engine.Vocabulary())
	}
	return tokens
}

// session asks and has a short answer, or stops when the rows are here and the question is being evaluated.
func (s *soak) session(stopped bool) (report node.Report) {
	s.t.Helper()
	layers := len(s.engine.Shape().Layers)
	schedules, err := fedkv.ParseSchedules("gather", layers)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	own := s.tokens(20)
	engine := node.Engine(s.engine)
	if stopped {
		engine = stopping{s.engine, stop}
	}
	session, err := node.Ask(ctx, node.Question{
		Engine: engine, Self: self(s.engine, "asker", fedkv.RolePublisher), ID: "asker",
		Contacts: []node.Contact{{Dial: func(ctx context.Context) (node.Link, error) { return s.asker.Dial(ctx, s.to) }}},
		Prefix:   s.tokens(8), Own: own, Answer: 4, Schedules: schedules, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, layers),
		Positions: fedkv.Canonical, MaxContext: 1024, SetupBy: 5 * time.Minute, GatherBy: 10 * time.Minute, RequireAll: true, Log: zerolog.Nop(),
	})
	switch {
	case stopped:
		if !errors.Is(err, context.Canceled) {
			s.t.Fatalf("a stopped session ends with %v", err)
		}
	case err != nil:
		s.t.Fatal(err)
	default:
		if err := s.answer(ctx, session); err != nil {
			s.t.Error(err)
		}
		report = session.Report()
	}
	<-s.over
	return report
}

// BenchmarkTail measures what the publisher waits for beyond its own work: from the moment at which the contributor takes
// the last layer's rows out of its cache to the first token of the answer, over QUIC on loopback. own-ms is evaluating the
// question, and placing rows, within that time; the rest is more-ms.
func BenchmarkTail(b *testing.B) {
	if !haveEngine() {
		b.Skip("this build has no engine")
	}
	var last atomic.Int64 // nanoseconds
	s := newSoak(b, modelPath(b), 256, func(e node.Engine) node.Engine { return stamping{e, &last} })
	s.session(false)
	var own, more []float64
	for b.Loop() {
		r := s.session(false)
		tail := float64(r.Started.UnixNano()-last.Load())/1e6 + r.TTFTMS
		own = append(own, r.SyncMS+r.PrefillMS)
		more = append(more, tail-r.SyncMS-r.PrefillMS)
	}
	slices.Sort(own)
	slices.Sort(more)
	b.ReportMetric(own[len(own)/2], "own-ms")
	b.ReportMetric(more[len(more)/2], "more-ms")
}

// stamping is an engine that notes when rows were taken last.
type stamping struct {
	node.Engine
	last *atomic.Int64
}

func (e stamping) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := e.Engine.Open(spec)
	return stamped{c, e.last}, err
}

type stamped struct {
	node.Cache
	last *atomic.Int64
}

func (c stamped) AppendRows(dst []byte, layer int, pos []int32, types fedkv.WireTypes) ([]byte, error) {
	c.last.Store(time.Now().UnixNano())
	return c.Cache.AppendRows(dst, layer, pos, types)
}

func (s *soak) answer(ctx context.Context, session *node.Session) error {
	s.t.Helper()
	sampler, release, err := s.engine.Sampler(llama.Sampling{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = session.Generate(ctx, sampler, 4, func([]byte) error { return nil })
	return errors.Join(err, release(), session.Close())
}

// stopping is an engine whose user loses patience at the first row that is placed.
type stopping struct {
	*llama.Engine
	stop func()
}

func (e stopping) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := e.Engine.Open(spec)
	return impatient{c, e.stop}, err
}

type impatient struct {
	node.Cache
	stop func()
}

func (c impatient) WriteRows(layer int, pos []int32, shift int, types fedkv.WireTypes, rows []byte) error {
	c.stop()
	return c.Cache.WriteRows(layer, pos, shift, types, rows)
}

// settled is what is in use when the session's goroutines have ended: as soon as they are no more than after the
// session before, or after a second.
func (s *soak) settled(before []resources) resources {
	s.t.Helper()
	for end := time.Now().Add(time.Second); ; time.Sleep(5 * time.Millisecond) {
		now := measureResources(s.t, false)
		if len(before) > 0 && now.goroutines <= before[len(before)-1].goroutines && now.descriptors <= before[len(before)-1].descriptors ||
			time.Now().After(end) {
			return measureResources(s.t, true)
		}
	}
}
