package planner

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fedattn/fedkv"
	"fedattn/fedkv/profile"
)

var shape = func() (s fedkv.Shape) {
	for range 8 {
		s.Layers = append(s.Layers, fedkv.LayerShape{K: 64, V: 64, Heads: 4, KVHeads: 2})
	}
	return s
}()

// eight is the profile of a model of this shape.
func eight() *profile.Profile {
	rung := 0.2
	return &profile.Profile{
		Version: profile.Version, Model: profile.Model{Layers: 8},
		Gather: profile.Ladder{Wire: "q4_0+c+h/nf3+h", BytesPerToken: 512, KLD: 0.05, Steps: []profile.Step{
			{Layer: 3, BytesPerToken: 448}, {Layer: 5, BytesPerToken: 384, KLD: &rung},
		}},
		Presets: []profile.Preset{
			{Name: "gather", Contributors: "none", Publisher: "all", Wire: "q4_0+c+h/nf3+h", KLD: 0.04, BytesPerToken: 512},
			{Name: "light", Contributors: "1", Publisher: "all", Wire: "q4_0+c+h/nf3+h", KLD: 0.03, BytesPerToken: 512},
			{Name: "lockstep", Contributors: "all", Publisher: "all", Wire: "q8_0/q4_0", KLD: 0.004, BytesPerToken: 832},
		},
	}
}

func speed(rate float64) fedkv.Speed {
	return fedkv.Speed{Call: 1 / rate, Token: 1 / rate, Pair: 1e-4 / rate, Step: 4 / rate, StepPair: 1e-4 / rate}
}

func asked(tokens ...int) Question {
	q := Question{Case: fedkv.Case{Shape: shape, Prefix: 8, Answer: 50}, HomeOnly: map[int]bool{}}
	for range tokens {
		q.Case.Participants = append(q.Case.Participants, fedkv.Planned{Speed: speed(100), Way: fedkv.Way{RTT: time.Millisecond, Up: 1e7, Down: 1e7}})
	}
	for i, n := range tokens {
		q.Case.Participants[i].Tokens = n
	}
	return q
}

func candidates(t testing.TB, p *profile.Profile) []Candidate {
	t.Helper()
	list, err := Candidates(shape, p)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func compared(t testing.TB, q Question, list []Candidate) []Option {
	t.Helper()
	options, err := q.Compare(list)
	if err != nil {
		t.Fatal(err)
	}
	return options
}

func TestCandidates(t *testing.T) {
	names := func(list []Candidate) string {
		var out []string
		for _, c := range list {
			out = append(out, c.Schedule)
		}
		return strings.Join(out, " ")
	}
	if got := names(candidates(t, nil)); got != "gather gather lockstep lockstep home home:q8_0 paper:2 paper:4" {
		t.Errorf("without a profile: %s", got)
	}
	list := candidates(t, eight())
	if got := names(list); got != "gather light lockstep gather gather lockstep auto home home:q8_0 paper:2 paper:4" {
		t.Errorf("with a profile: %s", got)
	}
	for _, c := range list {
		switch c.Schedule {
		case "gather", "home":
			if !c.Measured || c.KLD != 0.04 {
				t.Errorf("%s %v: %v", c.Schedule, c.Setting.Wire, c.KLD)
			}
		case "auto": // 0.15 above the ladder's start, which is as large as the preset
			if !c.Measured || c.KLD < 0.189 || c.KLD > 0.191 || c.Setting.Schedules.Publisher.Count() != 6 {
				t.Errorf("the rung: %+v", c)
			}
		case "paper:2":
			if c.Measured {
				t.Errorf("nobody measured %s", c.Schedule)
			}
		}
	}
	odd := fedkv.Shape{Layers: []fedkv.LayerShape{{K: 20, V: 20}, {K: 20, V: 20}}} // quantised rows need multiples of 32
	list, err := Candidates(odd, nil)
	if err != nil || names(list) != "gather lockstep" || list[0].Setting.Wire.At(0) != exactWire {
		t.Errorf("%s, %v", names(list), err)
	}
}

// Pick is what its documentation says, of any options and limits.
func TestPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var options []Option
		for range rapid.IntRange(0, 8).Draw(t, "options") {
			o := Option{}
			o.Measured, o.KLD = rapid.Bool().Draw(t, "measured"), float64(rapid.IntRange(1, 4).Draw(t, "kld"))
			o.Cost.TTFT, o.Cost.Received = time.Duration(rapid.IntRange(1, 4).Draw(t, "ttft")), int64(rapid.IntRange(1, 4).Draw(t, "bytes"))
			o.Cost.Joules, o.Cost.Metered, o.Cost.Parts = float64(rapid.IntRange(1, 4).Draw(t, "joules")), 1, make([]fedkv.Part, 1)
			if rapid.IntRange(0, 4).Draw(t, "possible") == 0 {
				o.Impossible = "it cannot be"
			}
			options = append(options, o)
		}
		l := Limits{Deadline: time.Duration(rapid.IntRange(0, 4).Draw(t, "deadline")), Bytes: int64(rapid.IntRange(0, 4).Draw(t, "budget")),
			KLD: float64(rapid.IntRange(0, 4).Draw(t, "max-kld")), Joules: float64(rapid.IntRange(0, 4).Draw(t, "max-joules"))}
		keeps := func(o Option) bool {
			return o.Impossible == "" && (l.Deadline == 0 || o.Cost.TTFT <= l.Deadline) && (l.Bytes == 0 || o.Cost.Received <= l.Bytes) &&
				(l.KLD == 0 || o.Measured && o.KLD <= l.KLD) && (l.Joules == 0 || o.Cost.Joules <= l.Joules)
		}
		best := Pick(options, l)
		for i, o := range options {
			if (o.Broken(l) == "") != keeps(o) {
				t.Fatalf("%+v: %q", o, o.Broken(l))
			}
			if !keeps(o) {
				continue
			}
			if best < 0 {
				t.Fatalf("option %d keeps to %+v", i, l)
			}
			b := options[best]
			switch {
			case l.KLD > 0 && o.Cost.TTFT < b.Cost.TTFT:
				t.Fatalf("option %d is sooner", i)
			case l.KLD == 0 && o.Measured && (!b.Measured || o.KLD < b.KLD):
				t.Fatalf("option %d is better", i)
			case l.KLD == 0 && o.Measured == b.Measured && o.KLD == b.KLD && o.Measured && o.Cost.TTFT < b.Cost.TTFT:
				t.Fatalf("option %d is as good and sooner", i)
			}
		}
		if best >= 0 && !keeps(options[best]) {
			t.Fatal("the choice breaks a limit")
		}
	})
}

func TestAuto(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(q *Question)
		p      *profile.Profile
		want   string
		why    string
	}{
		{"a network as they are", func(*Question) {}, eight(), "gather", "nothing as good"},
		{"without a profile", func(*Question) {}, nil, "gather", "nothing as good"},
		{"rows that stay home", func(q *Question) { q.HomeOnly[0] = true }, eight(), "home:q8_0", "not gather, since rows of participant 0 stay home"},
		{"a thin link and little to say", func(q *Question) {
			q.Case.Answer = 4
			q.Case.Participants[0].Way.Up, q.Case.Participants[0].Way.Down = 2e4, 2e4
		}, eight(), "home:q8_0", "gather: first token after"},
		{"a thin link and much to say", func(q *Question) {
			q.Case.Answer = 5000
			q.Case.Participants[0].Way = fedkv.Way{RTT: 100 * time.Millisecond, Up: 1e5, Down: 1e5}
		}, eight(), "gather", "nothing as good"},
		{"no room for others' rows", func(q *Question) { q.Room = 500 }, eight(), "home:q8_0", "the context has room for 500 of others' 700 tokens"},
		{"no memory for others' rows", func(q *Question) { q.Memory = []int64{0, 0, 27e6} }, eight(), "home:q8_0", "MB of memory"},
	} {
		q := asked(400, 300, 20)
		c.change(&q)
		o, why, err := q.Auto(candidates(t, c.p))
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if o.Schedule != c.want || !strings.Contains(why, c.why) || strings.Contains(why, "\n") {
			t.Errorf("%s: %s, %s", c.what, o.Schedule, why)
		}
	}
	q := asked(400, 20)
	q.Memory = []int64{1}
	if _, _, err := q.Auto(candidates(t, eight())); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("nothing is possible: %v", err)
	}
}

// A text goes where it is evaluated soonest, and nobody's own text moves.
func TestSplits(t *testing.T) {
	q := asked(100, 100, 20)
	q.Case.Participants[1].Speed = speed(400)
	q.Text = 1000
	var alone, even, fast Option
	for _, o := range compared(t, q, candidates(t, eight())[:1]) {
		switch o.Split {
		case Alone:
			alone = o
		case Even:
			even = o
		case BySpeed:
			fast = o
		}
		sum := 0
		for i, n := range o.Tokens {
			sum += n
			if n < []int{100, 100, 20}[i] {
				t.Errorf("%s: %v", o.Split, o.Tokens)
			}
		}
		if sum != 1220 || len(o.Cost.Parts) != 3 {
			t.Errorf("%s: %v, %d parts", o.Split, o.Tokens, len(o.Cost.Parts))
		}
	}
	if !(fast.Cost.TTFT < even.Cost.TTFT && even.Cost.TTFT < alone.Cost.TTFT) {
		t.Errorf("by speed %v, even %v, alone %v", fast.Cost.TTFT, even.Cost.TTFT, alone.Cost.TTFT)
	}
	if fast.Tokens[1] < 2*fast.Tokens[0] {
		t.Errorf("a device four times as fast gets %v", fast.Tokens)
	}
	q = asked(0, 20) // a helper without a text of its own
	q.Text = 500
	for _, o := range compared(t, q, candidates(t, eight())) {
		if o.Tokens[0]+o.Tokens[1] != 520 {
			t.Errorf("%s: %v", o.Split, o.Tokens)
		}
	}
}
