//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/profile"
	"fedattn/fedkv/simulate"
	"fedattn/llama"
	"fedattn/transport/shaper"
)

// costLinks are between an asker and its peers; a rate is of UDP payloads, of which QUIC leaves some nineteen twentieths.
var costLinks = []struct {
	name string
	path shaper.Path
}{
	{"loopback", shaper.Path{}},
	{"100 Mbit/s, 2 ms", shaper.Path{Rate: 12.5e6, Delay: time.Millisecond}},
	{"20 Mbit/s, 10 ms", shaper.Path{Rate: 2.5e6, Delay: 5 * time.Millisecond}},
}

const payloadShare = 0.95

// costSession is a question that is predicted and asked.
type costSession struct {
	peers    []string // of costTexts
	schedule string
	wire     string
	link     int
}

// costTexts are about so many tokens of each node's text.
var costTexts = map[string]int{"short": 160, "long": 560, "left": 300, "right": 300}

// costSessions are all sessions, and if fewer are asked for some of each kind.
func costSessions(n int) (list []costSession) {
	for link := range costLinks {
		for _, peers := range [][]string{{"short"}, {"long"}, {"left", "right"}} {
			list = append(list, costSession{peers, "gather", "", link}, costSession{peers, "gather", "f16", link},
				costSession{peers, "lockstep", "", link}, costSession{peers, "home", "", link})
		}
	}
	if n >= len(list) {
		return list
	}
	var some []costSession
	for i := range n {
		some = append(some, list[i*len(list)/n])
	}
	return some
}

// TestCost holds predictions against real processes: nodes with a thread each, an asker, links that a proxy shapes, texts
// that are computed anew for every question. Devices are measured as fedattn plan measures them, as many at a time as
// evaluate at a time. It prints predicted and measured times to the first token and fails if the median error is above 15 %,
// of the formula or of the simulation. FEDATTN_COST is how many sessions; make bench-cost.
func TestCost(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("FEDATTN_COST"))
	if err != nil || n < 1 {
		t.Skip("it takes minutes and a machine with nothing else to do: make bench-cost")
	}
	w := newWorkplace(t)
	model := modelPath(t)
	shape, size, tokens := costModel(t, model)
	addresses := map[string]string{}
	sentence := "The pump in the garden was repaired on the third of June, and the spare key of the workshop hangs behind the blue bucket. "
	for name, about := range costTexts {
		_, addresses[name] = w.node(name, model, strings.Repeat(sentence, (about+13)/26), "--no-cache")
	}
	for _, address := range addresses { // a node that still loads its model would be in the way of what is measured
		w.output("ask", "--model", model, "--threads", "1", "--predict", "1", "--json", "--peer", address, "Are you ready?")
	}
	var errors, simulated []float64
	var alone, together fedkv.Speed
	t.Logf("%-13s %-9s %-5s %-17s %8s %9s %7s %9s", "tokens", "schedule", "wire", "link", "measured", "predicted", "error", "simulated")
	for i, s := range costSessions(n) {
		if i%6 == 0 { // machines change their speed
			alone, together = costSpeed(w, model, i, 1), costSpeed(w, model, i, 2)
		}
		link := costLinks[s.link]
		system := fmt.Sprintf("You answer in a few words. Question %d.", i)
		args := []string{"ask", "--model", model, "--threads", "1", "--predict", "1", "--json", "--system", system, "--schedule", s.schedule}
		if s.wire != "" {
			args = append(args, "--wire", s.wire)
		}
		for _, peer := range s.peers {
			id, at, _ := strings.Cut(addresses[peer], "@")
			if link.path != (shaper.Path{}) {
				proxy, err := shaper.Start("127.0.0.1:0", at, link.path, uint64(i))
				if err != nil {
					t.Fatal(err)
				}
				defer proxy.Close()
				at = proxy.Addr()
			}
			args = append(args, "--peer", id+"@"+at)
		}
		const question = "Where does the spare key of the workshop hang?"
		var a answer
		if err := json.Unmarshal(w.output(append(args, question)...), &a); err != nil {
			t.Fatal(err)
		}
		prefix, own := tokens(system, question)
		way := fedkv.Way{RTT: 2*link.path.Delay + 200*time.Microsecond, Up: payloadShare * float64(link.path.Rate), Down: payloadShare * float64(link.path.Rate)}
		contributor := alone
		if len(s.peers) > 1 {
			contributor = together
		}
		c := fedkv.Case{Shape: shape, Prefix: prefix}
		candidate := costSetting(t, s, shape)
		c.Schedules, c.Wire, c.Home = candidate.Schedules, candidate.Wire, candidate.home
		for _, p := range a.Federation.Peers {
			if p.Missing != nil {
				t.Fatalf("%+v", p.Missing)
			}
			c.Participants = append(c.Participants, fedkv.Planned{Tokens: p.Tokens, Speed: contributor, Way: way, Model: size})
		}
		c.Participants = append(c.Participants, fedkv.Planned{Tokens: own, Speed: alone, Model: size})
		cost, err := c.Cost()
		if err != nil {
			t.Fatal(err)
		}
		measured := a.Federation.TTFTMS / 1000
		off := cost.TTFT.Seconds()/measured - 1
		errors = append(errors, math.Abs(off))
		inVirtualTime := "-"
		if c.Home == 0 {
			r, err := simulate.Run(costSimulation(c))
			if err != nil {
				t.Fatal(err)
			}
			inVirtualTime = fmt.Sprintf("%.2f s", r.TTFT.Seconds())
			if len(s.peers) == 1 {
				simulated = append(simulated, math.Abs(r.TTFT.Seconds()/measured-1))
			}
		}
		var texts []string
		for _, p := range c.Participants[:len(c.Participants)-1] {
			texts = append(texts, fmt.Sprint(p.Tokens))
		}
		t.Logf("%-13s %-9s %-5s %-17s %6.2f s %7.2f s %+5.1f %% %9s", strings.Join(texts, "+"), s.schedule, s.wire, link.name,
			measured, cost.TTFT.Seconds(), 100*off, inVirtualTime)
	}
	median := measure.Median(errors)
	t.Logf("median error of %d predictions: %.1f %%", len(errors), 100*median)
	if median > 0.15 {
		t.Errorf("the predictions are off by %.1f %%", 100*median)
	}
	if len(simulated) > 0 {
		median := measure.Median(simulated)
		t.Logf("median error of %d simulations with two participants: %.1f %%", len(simulated), 100*median)
		if median > 0.15 {
			t.Errorf("the simulations are off by %.1f %%", 100*median)
		}
	}
}

// costProfile is that of the model, nil if it has none.
var costProfile *profile.Profile

// costExchange is a session's setting.
type costExchange struct {
	Schedules fedkv.Schedules
	Wire      fedkv.Wire
	home      fedkv.Type
}

// costSetting is what fedattn ask makes of the flags, with the profile of the model.
func costSetting(t *testing.T, s costSession, shape fedkv.Shape) costExchange {
	t.Helper()
	spec, home, err := cutHome(s.schedule)
	if err != nil {
		t.Fatal(err)
	}
	setting, err := resolve(spec, s.wire, len(shape.Layers), costProfile)
	if err != nil {
		t.Fatal(err)
	}
	if home != 0 {
		setting.Wire = unsent(len(shape.Layers))
	}
	return costExchange{setting.Schedules, setting.Wire, home}
}

// costModel is the model's shape and size, and a function that counts the tokens of prefix and question.
func costModel(t *testing.T, path string) (fedkv.Shape, fedkv.ModelSize, func(system, question string) (prefix, own int)) {
	t.Helper()
	m, err := llama.Load(path, llama.ModelParams{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	engine, err := llama.NewEngine(m, fedkv.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	known, found, err := profile.Of(profile.ModelOf(engine.Fingerprint()))
	if err != nil {
		t.Fatal(err)
	}
	if found {
		costProfile = known
	}
	return engine.Shape(), modelSize(engine), func(system, question string) (prefix, own int) {
		frame, err := engine.Frame(system)
		if err != nil {
			t.Fatal(err)
		}
		text, err := engine.Tokenize(question)
		if err != nil {
			t.Fatal(err)
		}
		return len(frame.Prefix), len(text) + len(frame.Suffix)
	}
}

// costSpeed measures so many processes at a time, and returns the mean.
func costSpeed(w workplace, model string, round, processes int) (mean fedkv.Speed) {
	w.t.Helper()
	var wait sync.WaitGroup
	speeds := make([]fedkv.Speed, processes)
	for i := range processes {
		wait.Go(func() {
			cache := w.path(fmt.Sprintf("measured-%d-%d-%d", round, processes, i))
			c := w.command("plan", "--model", model, "--threads", "1", "--measure", "--schedule", "gather", "--device", "x,rtt=1ms,rate=1Gbit")
			c.Env = append(c.Env, "XDG_CACHE_HOME="+cache)
			if out, err := c.CombinedOutput(); err != nil {
				w.t.Errorf("%v: %s", err, out)
				return
			}
			files, _ := filepath.Glob(filepath.Join(cache, "fedattn", "measured", "speed", "*.json"))
			if len(files) != 1 || !readMeasured(files[0], &speeds[i]) {
				w.t.Errorf("no speed in %s", cache)
			}
		})
	}
	wait.Wait()
	share := 1 / float64(processes)
	for _, s := range speeds {
		mean.Call, mean.Token, mean.Pair = mean.Call+share*s.Call, mean.Token+share*s.Token, mean.Pair+share*s.Pair
		mean.Step, mean.StepPair = mean.Step+share*s.Step, mean.StepPair+share*s.StepPair
	}
	return mean
}

// costSimulation is the same session for the simulator.
func costSimulation(c fedkv.Case) simulate.Config {
	last := len(c.Participants) - 1
	out := simulate.Config{Shape: c.Shape, Schedules: c.Schedules, Wire: c.Wire, Prefix: c.Prefix,
		Publisher: simulate.Device{Tokens: c.Participants[last].Tokens, Speed: c.Participants[last].Speed}}
	for _, p := range c.Participants[:last] {
		out.Contributors = append(out.Contributors, simulate.Device{Tokens: p.Tokens, Speed: p.Speed, Way: p.Way})
	}
	return out
}
