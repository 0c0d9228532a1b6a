package simulate

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fedattn/fedkv"
)

var shape = func() (s fedkv.Shape) {
	for range 6 {
		s.Layers = append(s.Layers, fedkv.LayerShape{K: 64, V: 64})
	}
	return s
}()

func schedules(t failer, spec string) fedkv.Schedules {
	s, err := fedkv.ParseSchedules(spec, len(shape.Layers))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type failer interface{ Fatal(args ...any) }

func device(tokens int, rate float64, way fedkv.Way) Device {
	return Device{Tokens: tokens, Way: way, Speed: fedkv.Speed{
		Call: 2 / rate, Token: 1 / rate, Pair: 1e-3 / rate, Step: 4 / rate, StepPair: 1e-3 / rate, Watts: 5,
	}}
}

func some(t failer, spec string, n int) Config {
	c := Config{Shape: shape, Schedules: schedules(t, spec), Prefix: 8, Answer: 10,
		Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, len(shape.Layers)), Publisher: device(12, 300, fedkv.Way{})}
	for i := range n {
		c.Contributors = append(c.Contributors, device(20+7*i, 100+20*float64(i), fedkv.Way{RTT: time.Duration(1+i) * time.Millisecond, Up: 1e6}))
	}
	return c
}

func run(t failer, c Config) Result {
	r, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Where nothing goes wrong, the machines in virtual time take what the formula says, to the byte, and in gather to the
// millisecond; in lockstep blocks of several senders are in each other's way, which the formula does not see.
func TestTheFormulaAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom([]string{"gather", "lockstep", "contributors=none;publisher=1-4", "contributors=2-;publisher=all", "contributors=1;publisher=all"}).Draw(t, "schedule")
		c := Config{Shape: shape, Schedules: schedules(t, spec), Prefix: rapid.IntRange(0, 20).Draw(t, "prefix"), Answer: 10,
			Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, len(shape.Layers)), MicroBatch: rapid.IntRange(5, 50).Draw(t, "batch")}
		at := fedkv.Case{Shape: c.Shape, Schedules: c.Schedules, Wire: c.Wire, Prefix: c.Prefix, Answer: c.Answer, MicroBatch: c.MicroBatch}
		for range rapid.IntRange(1, 5).Draw(t, "contributors") {
			d := device(rapid.IntRange(1, 100).Draw(t, "tokens"), rapid.Float64Range(20, 2000).Draw(t, "rate"), fedkv.Way{
				RTT: time.Duration(rapid.IntRange(0, 50).Draw(t, "rtt")) * time.Millisecond, Up: rapid.Float64Range(1e5, 1e8).Draw(t, "up")})
			c.Contributors = append(c.Contributors, d)
			at.Participants = append(at.Participants, fedkv.Planned{Tokens: d.Tokens, Speed: d.Speed, Way: d.Way})
		}
		c.Publisher = device(rapid.IntRange(1, min(c.MicroBatch, 30)).Draw(t, "own"), rapid.Float64Range(20, 2000).Draw(t, "rate"), fedkv.Way{})
		at.Participants = append(at.Participants, fedkv.Planned{Tokens: c.Publisher.Tokens, Speed: c.Publisher.Speed})
		want, err := at.Cost()
		if err != nil {
			t.Fatal(err)
		}
		got := run(t, c)
		if got.Received != want.Received || got.Sent != want.Sent || got.Missing != 0 {
			t.Fatalf("%d received and %d sent, want %d and %d; %d missing", got.Received, got.Sent, want.Received, want.Sent, got.Missing)
		}
		tolerance := 0.002*want.TTFT.Seconds() + 2e-3 // messages have bytes
		if c.Schedules.Regime() == fedkv.Lockstep {
			tolerance = 0.1*want.TTFT.Seconds() + 2e-3
		}
		if math.Abs(got.TTFT.Seconds()-want.TTFT.Seconds()) > tolerance {
			t.Fatalf("%s: %v, the formula says %v", spec, got.TTFT, want.TTFT)
		}
		if math.Abs((got.Total-got.TTFT).Seconds()-(want.Total-want.TTFT).Seconds()) > 1e-3 {
			t.Fatalf("the answer takes %v, the formula says %v", got.Total-got.TTFT, want.Total-want.TTFT)
		}
	})
}

func TestItIsDeterministic(t *testing.T) {
	for _, spec := range []string{"gather", "lockstep"} {
		c := some(t, spec, 12)
		c.Contributors[3].Gone = 300 * time.Millisecond
		c.GatherBy, c.SetupBy = 20*time.Second, 5*time.Second
		if a, b := run(t, c), run(t, c); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %+v and %+v", spec, a, b)
		}
	}
}

// The ways to distribute rows in lockstep bring the same rows; through the publisher every one crosses two links, and along a
// tree nobody sends more than two copies of anything.
func TestDistributions(t *testing.T) {
	c := some(t, "lockstep", 9)
	mesh := run(t, c)
	c.Distribution = Relay
	relay := run(t, c)
	c.Distribution = Tree
	tree := run(t, c)
	if mesh.Received != relay.Received || mesh.Received != tree.Received || mesh.Sent != tree.Sent {
		t.Errorf("received %d, %d, %d; sent %d, %d", mesh.Received, relay.Received, tree.Received, mesh.Sent, tree.Sent)
	}
	if want := 2*(mesh.Sent-mesh.Received) + mesh.Received; relay.Sent <= want {
		t.Errorf("relayed %d, more than %d", relay.Sent, want)
	}
	c = some(t, "lockstep", 20) // thin links: in a mesh the first contributor has twenty recipients
	for i := range c.Contributors {
		c.Contributors[i].Way.Up = 2e4
	}
	slow := run(t, c)
	c.Distribution = Tree
	fast := run(t, c)
	t.Logf("mesh %v, tree %v", slow.TTFT, fast.TTFT)
	c.Distribution = Relay
	c.Publisher.Way = fedkv.Way{Up: 2e4, Down: 2e4}
	if worst := run(t, c); worst.TTFT < slow.TTFT {
		t.Errorf("through one thin link %v, over a mesh %v", worst.TTFT, slow.TTFT)
	}
}

// Whoever disappears is missed: nobody waits longer than until its silence is noticed, or until the rows are due.
func TestChurn(t *testing.T) {
	for _, spec := range []string{"gather", "lockstep"} {
		c := some(t, spec, 6)
		whole := run(t, c)
		c.Contributors[2].Gone = whole.Ready + 20*time.Millisecond
		lost := run(t, c)
		if lost.Missing != 1 || lost.Present != 5 {
			t.Errorf("%s: %d missing", spec, lost.Missing)
		}
		if lost.TTFT > whole.TTFT+3*time.Second {
			t.Errorf("%s: %v, without a loss %v", spec, lost.TTFT, whole.TTFT)
		}
		c = some(t, spec, 6)
		c.Contributors[2].Speed = c.Contributors[2].Speed.Scaled(1e-4, 1)
		c.SetupBy, c.GatherBy = time.Second, 8*time.Second
		late := run(t, c)
		if late.Missing != 1 || late.TTFT < 4*time.Second || late.TTFT > 9*time.Second {
			t.Errorf("%s: a straggler: %d missing, %v", spec, late.Missing, late.TTFT)
		}
	}
}

// More contributors than a session has are asked in several in gather, and cannot be in lockstep.
func TestMoreThanASession(t *testing.T) {
	c := some(t, "gather", 0)
	for range 200 {
		c.Contributors = append(c.Contributors, device(10, 1000, fedkv.Way{RTT: time.Millisecond, Up: 1e6}))
	}
	r := run(t, c)
	if r.Sessions != 4 || r.Present != 200 {
		t.Errorf("%d sessions, %d present", r.Sessions, r.Present)
	}
	c.Schedules = schedules(t, "lockstep")
	if _, err := Run(c); err == nil || !strings.Contains(err.Error(), "at most 63") {
		t.Errorf("lockstep: %v", err)
	}
	c = some(t, "gather", 0)
	if r := run(t, c); r.TTFT == 0 || r.Received != 0 {
		t.Errorf("alone: %+v", r)
	}
}
