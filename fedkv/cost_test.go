package fedkv_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
)

// board is a device that evaluates about so many tokens of a prompt a second.
func board(rate float64) fedkv.Speed {
	return fedkv.Speed{Call: 2 / rate, Token: 1 / rate, Pair: 1e-3 / rate, Step: 4 / rate, StepPair: 1e-3 / rate, Watts: 5}
}

func drawSpeed(t *rapid.T) fedkv.Speed { return board(rapid.Float64Range(5, 5000).Draw(t, "rate")) }

func drawPath(t *rapid.T) fedkv.Way {
	return fedkv.Way{
		RTT: time.Duration(rapid.IntRange(0, 200_000).Draw(t, "rtt")) * time.Microsecond,
		Up:  rapid.Float64Range(1e4, 1e8).Draw(t, "up"), Down: rapid.Float64Range(1e4, 1e8).Draw(t, "down"),
	}
}

// shapes with what rows that stay home need.
func shaped(m *fedkvtest.Tiny) fedkv.Shape {
	s := m.Shape()
	for l := range s.Layers {
		s.Layers[l].Heads, s.Layers[l].KVHeads = m.Heads, m.KVHeads
	}
	return s
}

func drawCase(t *rapid.T, spec string) fedkv.Case {
	c := fedkv.Case{
		Shape: shaped(tiny), Schedules: schedules(t, spec), Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, tiny.Layers),
		Prefix: rapid.IntRange(0, 40).Draw(t, "prefix"), Answer: 10, MicroBatch: rapid.IntRange(1, 64).Draw(t, "batch"),
	}
	for range rapid.IntRange(1, 5).Draw(t, "participants") {
		c.Participants = append(c.Participants, fedkv.Planned{
			Tokens: rapid.IntRange(1, 200).Draw(t, "tokens"), Speed: drawSpeed(t), Way: drawPath(t),
		})
	}
	return c
}

func costOf(t failer, c fedkv.Case) fedkv.Cost {
	t.Helper()
	cost, err := c.Cost()
	if err != nil {
		t.Fatal(err)
	}
	return cost
}

// The bytes of a prediction are those that the machines send.
func TestPlannedBytesAreThoseThatAreSent(t *testing.T) {
	for _, spec := range []string{"gather", "lockstep", "H=2", "contributors=none;publisher=1-4", "contributors=2-;publisher=all", "contributors=0-3;publisher=2-", "none"} {
		for _, model := range []*fedkvtest.Tiny{tiny, sliding} {
			for _, types := range []string{"q8_0/q4_0", "q4_0+c/nf3+h"} {
				f := federation(t, spec)
				f.Model, f.Wire = model, wire(t, types, model.Layers)
				f.Segments = [][]fedkv.Token{text(2, 9), text(3, 3), text(4, 7), text(5, 3)}
				if f.Schedules.Regime() == fedkv.Gather {
					f.Batch = 4
				}
				c := fedkv.Case{Shape: model.Shape(), Schedules: f.Schedules, Wire: f.Wire, Prefix: len(f.Prefix), MicroBatch: f.Batch}
				for _, s := range f.Segments {
					c.Participants = append(c.Participants, fedkv.Planned{Tokens: len(s), Speed: board(100)})
				}
				result, err := f.Run()
				if err != nil {
					t.Fatal(err)
				}
				var sent, received int64
				for _, b := range result.Transfers {
					bytes := int64(fedkv.BlockHeaderSize + b.Bytes)
					sent += bytes
					if b.To == len(f.Segments)-1 {
						received += bytes
					}
				}
				cost := costOf(t, c)
				if cost.Sent != sent || cost.Received != received {
					t.Errorf("%s %s, window %d: %d sent and %d received, want %d and %d", spec, types, model.Window, cost.Sent, cost.Received, sent, received)
				}
			}
		}
	}
}

func wire(t failer, spec string, layers int) fedkv.Wire {
	t.Helper()
	w, err := fedkv.ParseWire(spec, layers)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Nothing that is faster makes a session later.
func TestFasterIsNeverLater(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCase(t, rapid.SampledFrom([]string{"gather", "lockstep", "contributors=none;publisher=1-4", "contributors=2-;publisher=all"}).Draw(t, "schedule"))
		if c.Schedules.Regime() == fedkv.Gather && rapid.Bool().Draw(t, "home") {
			c.Home = fedkv.F16
		}
		before := costOf(t, c)
		i := rapid.IntRange(0, len(c.Participants)-1).Draw(t, "who")
		p := &c.Participants[i]
		factor := rapid.Float64Range(1, 10).Draw(t, "factor")
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			p.Speed = p.Speed.Scaled(factor, factor)
		case 1:
			p.Way.Up, p.Way.Down = p.Way.Up*factor, p.Way.Down*factor
		case 2:
			p.Way.RTT = time.Duration(float64(p.Way.RTT) / factor)
		case 3:
			p.Kept = true
		}
		after := costOf(t, c)
		const slack = 2 * time.Microsecond // of float order, and of the part that the prefix has where others wait for it
		if after.TTFT > before.TTFT+slack {
			t.Fatalf("%v became %v", before.TTFT, after.TTFT)
		}
		if after.TTFT < after.Rows || after.Total < after.TTFT || after.Rows < after.Ready {
			t.Fatalf("moments out of order: %+v", after)
		}
	})
}

// What a prediction is made of, where one part outweighs all others.
func TestWhatOutweighsTheRest(t *testing.T) {
	base := func() fedkv.Case {
		return fedkv.Case{
			Shape: shaped(tiny), Schedules: schedules(t, "gather"), Wire: wire(t, "f16", tiny.Layers), Prefix: 8, Answer: 100,
			Participants: []fedkv.Planned{{Tokens: 1000, Speed: board(100)}, {Tokens: 10, Speed: board(1e6)}},
		}
	}
	within := func(what string, got time.Duration, want, tolerance float64) {
		t.Helper()
		if off := math.Abs(got.Seconds()-want) / want; off > tolerance {
			t.Errorf("%s: %v, want %.3f s", what, got, want)
		}
	}
	c := base()
	alone := c.Participants[0].Speed
	compute := alone.Prefill(c.Shape, 0, 8, 512) + alone.Prefill(c.Shape, 8, 1000, 512)
	cost := costOf(t, c)
	within("evaluation, of the last layer keys and values only", cost.TTFT, compute*(5+0.15)/6, 0.01)
	if cost.Slowest != 0 || cost.Rounds != 1 {
		t.Errorf("waits for %d, %d rounds", cost.Slowest, cost.Rounds)
	}
	transfer := cost.Parts[0].Transfer

	c.Participants[0].Way.Up = float64(cost.Received) / 60 // bytes a second: a minute
	cost = costOf(t, c)
	within("transfer", cost.TTFT, 60, 0.2)
	if cost.Parts[0].Transfer <= transfer {
		t.Errorf("the transfer took %v", cost.Parts[0].Transfer)
	}

	c = base() // two senders that share what the publisher can receive
	c.Participants = []fedkv.Planned{c.Participants[0], c.Participants[0], c.Participants[1]}
	c.Incoming = float64(costOf(t, c).Received) / 60
	within("what all share", costOf(t, c).TTFT, 60, 0.2)

	c = base()
	c.Participants[0].Tokens, c.Participants[0].Kept, c.Participants[0].Way = 20, true, fedkv.Way{RTT: 100 * time.Millisecond}
	within("round trips", costOf(t, c).TTFT, 0.1*(3+0.5+0.5), 0.3)
	c.Connected = true
	within("round trips of an open link", costOf(t, c).TTFT, 0.1*(1+0.5+0.5), 0.3)

	c = base()
	c.Home, c.Participants[0].Way, c.Participants[0].Speed = fedkv.F16, fedkv.Way{RTT: 50 * time.Millisecond}, board(1e5)
	cost = costOf(t, c)
	within("a token at home", time.Duration(float64(time.Second)/cost.TokensPerSecond), 6*0.05, 0.2)
	if cost.Rounds != 6 || cost.Answer == 0 {
		t.Errorf("home: %d rounds, %d bytes a token", cost.Rounds, cost.Answer)
	}
	gather := c
	gather.Home = 0
	if costOf(t, gather).TokensPerSecond < 10*cost.TokensPerSecond {
		t.Error("decoding in gather waits for the network")
	}

	c = base()
	if cost := costOf(t, c); cost.Metered != 2 || math.Abs(cost.Joules-5*(cost.Parts[0].Compute.Seconds()+cost.Parts[1].Compute.Seconds()+100/cost.TokensPerSecond)) > 0.01 {
		t.Errorf("%.2f J of %d devices, %+v", cost.Joules, cost.Metered, cost.Parts)
	}
}

// The triangle of lockstep: rows go from each participant to later ones, and the first never waits. So what the network
// adds is a trip for each participant, however many layers there are, as long as its rate does not matter; and the two and a
// half round trips in which a direct link is opened, which no row can be sooner than.
func TestLockstepIsATriangle(t *testing.T) {
	for _, c := range []struct {
		spec  string
		trips int
	}{
		{"gather", 1}, {"contributors=2;publisher=all", 5 + 1}, {"contributors=1,3;publisher=all", 5 + 2}, {"lockstep", 5 + 2},
	} {
		at := fedkv.Case{Shape: tiny.Shape(), Schedules: schedules(t, c.spec), Wire: wire(t, "f16", tiny.Layers), Connected: true}
		for range 4 {
			at.Participants = append(at.Participants, fedkv.Planned{Tokens: 5, Speed: board(1e6), Way: fedkv.Way{RTT: 2 * time.Second}})
		}
		at.Participants[3].Way = fedkv.Way{}
		trips := costOf(t, at).TTFT.Seconds() - 3 // until all are committed: a round trip and the way there
		if math.Abs(trips-float64(c.trips)) > 0.05 {
			t.Errorf("%s: %.2f s of trips of a second, want %d", c.spec, trips, c.trips)
		}
	}
}

// A text is cut so that no other cut is done sooner.
func TestSharesAreTheSoonest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCase(t, "gather")
		c.Participants = c.Participants[:min(len(c.Participants), 3)]
		for i := range c.Participants {
			c.Participants[i].Tokens = rapid.IntRange(1, 20).Draw(t, "own")
		}
		if len(c.Participants) == 1 {
			return
		}
		tokens := rapid.IntRange(0, 25).Draw(t, "text")
		done := func(shares []int) float64 {
			latest := 0.0
			for i, n := range shares {
				alone := c
				p := c.Participants[i]
				p.Tokens += n
				alone.Participants = []fedkv.Planned{p, c.Participants[len(c.Participants)-1]}
				latest = max(latest, costOf(t, alone).Rows.Seconds())
			}
			return latest
		}
		shares, err := c.Shares(tokens)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, n := range shares {
			sum += n
		}
		if sum != tokens {
			t.Fatalf("%v is not %d", shares, tokens)
		}
		best := math.Inf(1)
		if len(shares) == 1 {
			best = done([]int{tokens})
		} else {
			for n := range tokens + 1 {
				best = min(best, done([]int{n, tokens - n}))
			}
		}
		if got := done(shares); got > best*(1+1e-6)+1e-9 {
			t.Fatalf("%v is done at %g, %g is possible", shares, got, best)
		}
	})
}

func TestCasesThatAreNone(t *testing.T) {
	for what, change := range map[string]func(c *fedkv.Case){
		"nobody":              func(c *fedkv.Case) { c.Participants = nil },
		"no tokens":           func(c *fedkv.Case) { c.Participants[0].Tokens = 0 },
		"no speed":            func(c *fedkv.Case) { c.Participants[0].Speed = fedkv.Speed{} },
		"another schedule":    func(c *fedkv.Case) { c.Schedules = schedules(t, "gather"); c.Wire = wire(t, "f16", 3) },
		"home in lockstep":    func(c *fedkv.Case) { c.Schedules, c.Home = schedules(t, "lockstep"), fedkv.F16 },
		"home without heads":  func(c *fedkv.Case) { c.Home, c.Shape.Layers[0].Heads = fedkv.F16, 0 },
		"a path back in time": func(c *fedkv.Case) { c.Participants[0].Way.RTT = -1 },
		"a huge prefix":       func(c *fedkv.Case) { c.Prefix = fedkv.MaxPrefix + 1 },
	} {
		c := fedkv.Case{Shape: tiny.Shape(), Schedules: schedules(t, "gather"), Wire: wire(t, "f16", tiny.Layers),
			Participants: []fedkv.Planned{{Tokens: 3, Speed: board(1)}, {Tokens: 3, Speed: board(1)}}}
		change(&c)
		if _, err := c.Cost(); err == nil {
			t.Errorf("%s: no error", what)
		} else if strings.TrimSpace(fmt.Sprint(err)) == "" {
			t.Errorf("%s: an empty error", what)
		}
	}
}

// What was measured without noise is found again.
func TestFitSpeedFindsTheSpeed(t *testing.T) {
	shape := fedkv.Shape{Layers: []fedkv.LayerShape{{K: 64, V: 64}, {K: 64, V: 64, Window: 300}, {K: 64, V: 64}}}
	rapid.Check(t, func(t *rapid.T) {
		want := fedkv.Speed{
			Call: rapid.Float64Range(1e-3, 0.1).Draw(t, "call"), Token: rapid.Float64Range(1e-4, 0.1).Draw(t, "token"),
			Pair: rapid.Float64Range(1e-9, 1e-5).Draw(t, "pair"), Step: rapid.Float64Range(1e-3, 1).Draw(t, "step"),
			StepPair: rapid.Float64Range(1e-8, 1e-4).Draw(t, "step pair"),
		}
		var samples []fedkv.SpeedSample
		for _, at := range []struct{ depth, tokens int }{{0, 16}, {0, 256}, {1024, 128}, {18, 1}, {1154, 1}} {
			samples = append(samples, fedkv.SpeedSample{Depth: at.depth, Tokens: at.tokens, Seconds: want.Prefill(shape, at.depth, at.tokens, at.tokens)})
		}
		got := fedkv.FitSpeed(shape, samples)
		for _, at := range []struct{ depth, tokens int }{{0, 64}, {512, 512}, {2048, 300}, {300, 1}, {4000, 1}} {
			a, b := got.Prefill(shape, at.depth, at.tokens, 512), want.Prefill(shape, at.depth, at.tokens, 512)
			if math.Abs(a-b) > 1e-3*b {
				t.Fatalf("%d tokens behind %d: %g s, want %g; %+v, want %+v", at.tokens, at.depth, a, b, got, want)
			}
		}
	})
	// noise that would make a part negative makes it 0
	got := fedkv.FitSpeed(shape, []fedkv.SpeedSample{{0, 16, 0.1}, {0, 256, 1}, {1024, 128, 0.1}, {18, 1, 0.1}, {1024, 1, 0.05}})
	if got.Token < 0 || got.Call < 0 || got.Pair != 0 || got.StepPair != 0 || got.Step <= 0 {
		t.Errorf("%+v", got)
	}
}

// Published figures come out again.
func TestRatesAreThoseOfThePrompt(t *testing.T) {
	s := fedkv.Rates(35, 9, shaped(tiny), fedkv.ModelSize{Width: tiny.Embed, FeedForward: tiny.FeedForward})
	if got := 512 / s.Prefill(shaped(tiny), 0, 512, 512); math.Abs(got-35) > 1 {
		t.Errorf("%.1f tokens a second of a prompt", got)
	}
	if got := 1 / s.Decode(shaped(tiny), 0); math.Abs(got-9) > 0.5 {
		t.Errorf("%.1f tokens a second of an answer", got)
	}
}

// A pipe keeps order, is never faster than its rate and than slow start, and wastes nothing once that is over.
func TestPipe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &fedkv.Pipe{Rate: rapid.Float64Range(1e3, 1e9).Draw(t, "rate"), RTT: rapid.Float64Range(0, 0.5).Draw(t, "rtt")}
		at, last, sum, began := 0.0, 0.0, 0, -1.0
		for range rapid.IntRange(1, 20).Draw(t, "payloads") {
			at += rapid.Float64Range(0, 0.1).Draw(t, "pause")
			n := rapid.IntRange(0, 1<<22).Draw(t, "bytes")
			if began < 0 {
				began = at
			}
			left, arrives := p.Send(at, n)
			sum += n
			if left < at || left < last || math.Abs(arrives-left-p.RTT/2) > 1e-9 {
				t.Fatalf("left at %g, given at %g, the one before at %g, arrives %g", left, at, last, arrives)
			}
			if p.RTT > 1e-5 {
				most := 0.0
				for round, window := 0, 32*1252.0; float64(round)*p.RTT < left-began; round++ {
					most += min(window, 8<<20, p.Rate*p.RTT)
					window *= 2
				}
				if float64(sum) > most*(1+1e-6)+p.Rate*1e-6+1 {
					t.Fatalf("%d bytes in %g s, slow start lets %g through", sum, left-began, most)
				}
			}
			last = left
		}
		if busy := float64(sum) / p.Rate; last-began < busy*(1-1e-9) {
			t.Fatalf("%d bytes in %g s at %g a second", sum, last-began, p.Rate)
		}
	})
	p := &fedkv.Pipe{Rate: 1e6, RTT: 0.01}
	p.Send(0, 1e6)
	from, _ := p.Send(10, 0)
	if to, _ := p.Send(10, 1e6); math.Abs(to-from-1) > 1e-6 {
		t.Errorf("a megabyte took %g s", to-from)
	}
}
