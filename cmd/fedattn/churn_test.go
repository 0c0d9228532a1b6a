//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

const (
	churnTestRun   = 2 * time.Second        // of a test run; make soak-churn MINUTES=10 sets FEDATTN_CHURN_MINUTES
	churnSetup     = 500 * time.Millisecond // that askers give who does not answer
	churnSlope     = 1.0                    // MiB an hour that a long run may grow by
	churnRate      = 10                     // sessions a second, at most
	churnWindows   = 20                     // parts of a run whose medians make the slope
	moreGoroutines = 5
	moreFiles      = 2
)

// comer is a node in a process of its own, which comes and goes.
type comer struct {
	name    string
	address node.Address
	process *process // nil while it is away
}

// come starts it, at the address that it had before.
func (n *comer) come(w workplace, model string) {
	w.t.Helper()
	listen := n.address.HostPort
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	p, line, err := start(w.dir, isolated(w.dir), w.path(n.name+".log"), "node", "--model", model, "--threads", "1",
		"--doc", "text.txt", "--name", n.name, "--config", n.name, "--listen", listen)
	if err != nil {
		w.t.Fatal(err)
	}
	id, at, found := strings.Cut(line, "@")
	if !found {
		w.t.Fatalf("a node says %q", line)
	}
	n.process, n.address = p, node.Address{ID: id, HostPort: at}
}

// leave kills it where it stands, after a while.
func (n *comer) leave(after time.Duration) (gone chan struct{}) {
	p := n.process
	n.process, gone = nil, make(chan struct{})
	time.AfterFunc(after, func() {
		p.kill()
		close(gone)
	})
	return gone
}

// Nodes that come, are killed and come back, and askers who lose patience, leave nothing behind, neither at a node that
// stays nor at the asker, which are one process here: no goroutine, no descriptor and, over a long time, no memory in use.
// Resident memory is shown beside it: for minutes it grows with what allocators keep and pages that are used for the first
// time, and a slope of that tells nothing of a leak.
func TestChurn(t *testing.T) {
	w := newWorkplace(t)
	length, long := churnTestRun, false
	if m, err := strconv.ParseFloat(os.Getenv("FEDATTN_CHURN_MINUTES"), 64); err == nil && m > 0 {
		length, long = time.Duration(m*float64(time.Minute)), true
		// a test binary has a profiler, which the program has not, that keeps a record of each new way to an allocation
		runtime.MemProfileRate = 0
	}
	model := w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext))
	w.write("text.txt", []byte("The key hangs behind the door."))
	s := newSoak(t, filepath.Join(w.dir, "tiny.gguf"), 60, nil)
	s.forget()
	comers := []*comer{{name: "shed"}, {name: "attic"}}
	t.Cleanup(func() {
		for _, n := range comers {
			if n.process != nil {
				n.process.kill()
			}
		}
	})
	for _, n := range comers {
		n.come(w, model)
	}

	seed := uint64(time.Now().UnixNano())
	chance := rand.New(rand.NewPCG(seed, 0))
	var count struct{ Sessions, Whole, Without, Cancelled, Killed int }
	// there from the beginning: what is measured must not be the measurements
	most := int((length+time.Minute)/time.Second) * churnRate
	usage, at := make([]resources, 0, most), make([]time.Duration, 0, most)
	begin := time.Now()
	valid := func() bool { return count.Whole > 0 && count.Without > 0 && count.Cancelled > 0 && count.Killed > 0 }
	for time.Since(begin) < length || !valid() {
		if time.Since(begin) > length+time.Minute {
			t.Fatalf("INVALID: %+v after %v", count, time.Since(begin))
		}
		gone := make(chan struct{})
		close(gone)
		ctx, cancel := context.WithCancel(t.Context())
		n := comers[chance.IntN(len(comers))]
		soon := time.Duration(chance.IntN(40)) * time.Millisecond
		switch what := chance.IntN(8); {
		case n.process == nil && what < 4:
			n.come(w, model)
		case n.process != nil && what == 0:
			count.Killed++
			gone = n.leave(soon)
		case what < 3:
			time.AfterFunc(soon, cancel)
		}
		report, err := s.ask(ctx, comers)
		count.Sessions++
		switch {
		case err != nil && ctx.Err() != nil:
			count.Cancelled++
		case err != nil:
			t.Errorf("seed %d: a session that nothing keeps from an answer: %v", seed, err)
		case report.Present() < len(report.Peers):
			count.Without++
		default:
			count.Whole++
		}
		cancel()
		<-gone
		usage, at = append(usage, s.settled(usage)), append(at, time.Since(begin))
	}
	// what is running at the beginning is running at the end
	for _, n := range comers {
		if n.process == nil {
			n.come(w, model)
		}
	}
	for range soakWarmUp {
		if _, err := s.ask(t.Context(), comers); err != nil {
			t.Error(err)
		}
		usage, at = append(usage, s.settled(usage)), append(at, time.Since(begin))
	}
	warm, last := usage[min(soakWarmUp, len(usage))-1], usage[len(usage)-1]
	slope, spread := slopeOverTime(at[len(at)/4:], usage[len(usage)/4:], func(u resources) int { return u.inGo + u.inC })
	seen, seenSpread := slopeOverTime(at[len(at)/4:], usage[len(usage)/4:], func(u resources) int { return u.resident << 10 })
	t.Logf("T11: seed %d, %v: %+v; %v; after the first quarter memory in use %+.2f ± %.2f MiB/h, resident %+.2f ± %.2f MiB/h",
		seed, time.Since(begin).Round(time.Second), count, last, slope, spread, seen, seenSpread)
	if last.goroutines > warm.goroutines+moreGoroutines || last.descriptors > warm.descriptors+moreFiles {
		t.Errorf("seed %d: in the beginning %v, in the end %v", seed, warm, last)
	}
	// what a slope of so short a time cannot tell from none is none
	if long && grows(slope, spread) {
		t.Errorf("seed %d: memory in use grows by %.2f ± %.2f MiB an hour", seed, slope, spread)
	}
}

// forget lets sessions end that nobody waits for.
func (s *soak) forget() {
	stop := make(chan struct{})
	s.t.Cleanup(func() { close(stop) })
	go func() {
		for {
			select {
			case <-s.over:
			case <-stop:
				return
			}
		}
	}()
}

// ask is a question to the node and to those who come and go; who does not answer is done without.
func (s *soak) ask(ctx context.Context, comers []*comer) (report node.Report, err error) {
	s.t.Helper()
	layers := len(s.engine.Shape().Layers)
	schedules, err := fedkv.ParseSchedules("gather", layers)
	if err != nil {
		s.t.Fatal(err)
	}
	contacts := []node.Contact{{Dial: func(ctx context.Context) (node.Link, error) { return s.asker.Dial(ctx, s.to) }}}
	for _, n := range comers {
		to := n.address
		contacts = append(contacts, node.Contact{Dial: func(ctx context.Context) (node.Link, error) { return s.asker.Dial(ctx, to) }})
	}
	session, err := node.Ask(ctx, node.Question{
		Engine: s.engine, Self: self(s.engine, "asker", fedkv.RolePublisher), ID: "asker", Contacts: contacts,
		Prefix: s.tokens(8), Own: s.tokens(20), Answer: 4, Schedules: schedules,
		Wire:      fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, layers),
		Positions: fedkv.Canonical, MaxContext: 1024, SetupBy: churnSetup, GatherBy: 10 * time.Second, Log: zerolog.Nop(),
	})
	if err != nil {
		return report, err
	}
	err = s.answer(ctx, session)
	return session.Report(), err
}

// grows reports a slope of memory, in MiB an hour, that is more than is promised.
func grows(slope, spread float64) bool { return slope-2*spread > churnSlope }

// A leak of twice what is promised shows in ten minutes through the ups and downs of connections that are about to end, and
// these alone are none.
func TestChurnTellsALeak(t *testing.T) {
	for _, leak := range []float64{0, 2} { // MiB an hour
		chance := rand.New(rand.NewPCG(1, 0))
		var at []time.Duration
		var usage []resources
		for now := time.Duration(0); now < 10*time.Minute; now += 800 * time.Millisecond {
			at = append(at, now)
			usage = append(usage, resources{inC: 285 << 10, inGo: 1200<<10 + chance.IntN(120<<10) + int(leak*now.Hours()*(1<<20))})
		}
		slope, spread := slopeOverTime(at, usage, func(u resources) int { return u.inGo + u.inC })
		if grows(slope, spread) != (leak > churnSlope) {
			t.Errorf("a leak of %v MiB an hour is seen as %.2f ± %.2f", leak, slope, spread)
		}
	}
}

// slopeOverTime is how much memory grows, in MiB an hour, and its standard error: by least squares over the medians of equal
// parts, since single moments hang together.
func slopeOverTime(at []time.Duration, usage []resources, memory func(resources) int) (slope, spread float64) {
	var x, y []float64
	for i := range churnWindows {
		from, to := i*len(at)/churnWindows, (i+1)*len(at)/churnWindows
		if from == to {
			continue
		}
		var values []int
		for _, u := range usage[from:to] {
			values = append(values, memory(u))
		}
		slices.Sort(values)
		x, y = append(x, at[(from+to)/2].Hours()), append(y, float64(values[len(values)/2])/(1<<20))
	}
	return fitLine(x, y)
}
