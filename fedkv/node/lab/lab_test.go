package lab

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Engine = (*nodetest.Engine)(nil)

func stream(n int) []fedkv.Token {
	tokens := make([]fedkv.Token, n)
	for i := range tokens {
		tokens[i] = fedkv.Token((i*i*7 + i*5 + 3) % 61)
	}
	return tokens
}

// A cut loses nothing, repeats nothing and leaves nobody empty.
func TestCutKeepsTheText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		participants := rapid.IntRange(1, 64).Draw(t, "participants")
		prefix := rapid.IntRange(0, 40).Draw(t, "prefix")
		own := rapid.IntRange(1, 40).Draw(t, "own")
		total := prefix + own
		if participants > 1 {
			total += rapid.IntRange(participants-1, 500).Draw(t, "others")
		}
		text := stream(total + rapid.IntRange(0, 10).Draw(t, "more"))
		p, err := Cut(text, total, prefix, own, participants)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Concat(append([][]fedkv.Token{p.Prefix}, p.Segments...)...); !slices.Equal(got, text[:total]) {
			t.Fatalf("%v became %v", text[:total], got)
		}
		if len(p.Prefix) != prefix || len(p.Segments) != participants || len(p.Own()) != own || p.Tokens() != total {
			t.Fatalf("%d prefix tokens, %d segments, %d own tokens, %d in all", len(p.Prefix), len(p.Segments), len(p.Own()), p.Tokens())
		}
		for i, s := range p.Segments[:participants-1] {
			even := (total - prefix - own) / (participants - 1)
			if len(s) < 1 || i < participants-2 && len(s) != even || i == participants-2 && len(s)-even > participants-2 {
				t.Fatalf("segment %d of %d has %d tokens, the even share is %d", i, participants, len(s), even)
			}
		}
	})
}

func TestCutsThatAreImpossible(t *testing.T) {
	for _, c := range []struct {
		tokens, total, prefix, own, participants int
		text                                     string
	}{
		{100, 100, 10, 10, 0, "1 to 64"},
		{1000, 1000, 10, 10, 65, "1 to 64"},
		{100, 100, -1, 10, 2, "at least one"},
		{100, 100, 10, 0, 2, "at least one"},
		{99, 100, 10, 10, 2, "99 tokens"},
		{100, 100, 10, 10, 1, "are not 100"},
		{100, 22, 10, 10, 4, "none for some"},
		{100, 15, 10, 10, 2, "none for some"},
	} {
		_, err := Cut(stream(c.tokens), c.total, c.prefix, c.own, c.participants)
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// prompt has a stretch of the text for each participant.
func prompt(t *testing.T, participants int) Prompt {
	t.Helper()
	n := 3 + 4 + 7*(participants-1)
	p, err := Cut(stream(n), n, 3, 4, participants)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newBench() Bench {
	e := nodetest.NewEngine()
	return Bench{Engine: e, Network: Memory, Self: e.Hello("lab", fedkv.RolePublisher), Log: zerolog.Nop()}
}

// Sums are in the order of positions, so micro-batches make no difference to this engine.
func TestCentralisedIsOneProcess(t *testing.T) {
	b, p := newBench(), prompt(t, 3)
	same, err := Centralised(t.Context(), b.Engine, p, true)
	if err != nil {
		t.Fatal(err)
	}
	one, err := Centralised(t.Context(), b.Engine, p, false)
	if err != nil {
		t.Fatal(err)
	}
	whole := nodetest.Oracle{
		Engine: b.Engine.(*nodetest.Engine), Segments: [][]fedkv.Token{slices.Concat(append([][]fedkv.Token{p.Prefix}, p.Segments...)...)},
		Schedules: mustSchedules(t, "gather"), Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, 6),
	}.Logits()
	want := slices.Concat(whole[len(whole)-len(p.Own()):]...)
	if !slices.Equal(same, want) || !slices.Equal(one, want) {
		t.Error("differs")
	}
}

func mustSchedules(t *testing.T, spec string) fedkv.Schedules {
	t.Helper()
	s, err := fedkv.ParseSchedules(spec, 6)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCentralisedMayBeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := nodetest.NewEngine()
		e.LayerTime = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		if _, err := Centralised(ctx, e, prompt(t, 2), true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it returns %v", err)
		}
		if e.OpenCaches() != 0 {
			t.Error("it leaves its cache behind")
		}
	})
}

// Every case is the session that it says, bit for bit.
func TestRunIsTheOracles(t *testing.T) {
	for _, c := range []Case{
		{Contributors: "none", Publisher: "all", WireK: "q8_0", WireV: "q4_0", Rows: AllRows, Positions: "canonical"},
		{Contributors: "none", Publisher: "2-", WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "inplace"},
		{Contributors: "all", Publisher: "all", WireK: "q8_0", WireV: "q4_0", Rows: AllRows, Positions: "inplace"},
		{Contributors: "H=2", Publisher: "H=3", WireK: "q5_1", WireV: "q4_1", Rows: AllRows, Positions: "inplace"},
		{Contributors: "none", Publisher: "none", WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "canonical"},
		{Contributors: "none", Publisher: "all", WireK: "q4_0,0-1=q8_0", WireV: "q8_0,3=f16,5=f16", Positions: "canonical"},
		{Contributors: "none", Publisher: "all", WireK: "q8_0", WireV: "q4_0", Rows: "random=0.5", Positions: "canonical", Seed: 5},
		{Contributors: "1-3", Publisher: "all", WireK: "q8_0", WireV: "f16", Rows: "layer-random=0.4", Positions: "inplace", Seed: 6},
	} {
		for _, participants := range []int{1, 2, 4} {
			b, p := newBench(), prompt(t, participants)
			setting, err := c.Setting(6, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			for _, setting.MicroBatch = range []int{0, 2} {
				result, err := Run(t.Context(), b.Engine, Memory, b.Self, p, setting)
				if err != nil {
					t.Fatalf("%+v: %v", c, err)
				}
				want := nodetest.Oracle{
					Engine: b.Engine.(*nodetest.Engine), Prefix: p.Prefix, Segments: p.Segments, Schedules: setting.Schedules,
					Wire: setting.Wire, Rows: setting.Rows, Positions: setting.Positions,
				}.Logits()
				if !slices.Equal(result.Logits, slices.Concat(want...)) {
					t.Errorf("%d participants, %+v, micro-batches of %d: differs", participants, c, setting.MicroBatch)
				}
				if result.Report.Present() != participants-1 {
					t.Errorf("%d contributors are there", result.Report.Present())
				}
			}
			if n := b.Engine.(*nodetest.Engine).OpenCaches(); n != 0 {
				t.Errorf("%d caches are left behind", n)
			}
		}
	}
}

func TestMeasure(t *testing.T) {
	b, p := newBench(), prompt(t, 3)
	base, err := Centralised(t.Context(), b.Engine, p, true)
	if err != nil {
		t.Fatal(err)
	}
	exact, err := b.Measure(t.Context(), Case{Participants: 3, Contributors: "all", Publisher: "all", WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "inplace"}, p, base)
	if err != nil {
		t.Fatal(err)
	}
	if exact.KLDMean != 0 || exact.MaxAbsLogitDiff != 0 || exact.SameTop != 1 || exact.PPL != exact.PPLBase {
		t.Errorf("lossless: %+v", exact)
	}
	line, err := b.Measure(t.Context(), Default(3), p, base)
	if err != nil {
		t.Fatal(err)
	}
	const layers, row = 6, 64/32*34 + 64/32*18
	if line.KLDMean <= 0 || line.MaxAbsLogitDiff <= 0 || line.Tokens != 21 || line.PublisherTokens != 4 || line.PrefixTokens != 3 ||
		line.KVBytes != 14*layers*row || line.KVBytesPublisher != line.KVBytes || line.KVBytesPerToken != layers*row || line.Barriers != 1 {
		t.Errorf("default: %+v", line)
	}
}

func TestCasesThatAreImpossible(t *testing.T) {
	b, p := newBench(), prompt(t, 2)
	for _, change := range []func(*Case){
		func(c *Case) { c.Contributors = "7" },
		func(c *Case) { c.WireK = "q9" },
		func(c *Case) { c.Rows = "some" },
		func(c *Case) { c.WireV = "q4_0,6=f16" },
		func(c *Case) { c.Positions = "somewhere" },
		func(c *Case) { c.Contributors = "all" }, // canonical lockstep
	} {
		c := Default(2)
		change(&c)
		if _, err := b.Measure(t.Context(), c, p, nil); err == nil {
			t.Errorf("%+v is measured", c)
		}
	}
}

func TestDeviation(t *testing.T) {
	for _, c := range []struct{ kl, reference, want float64 }{
		{0.11, 0.1, 0.1}, {0.05, 0.1, -0.5}, {0, 0, 0}, {0.1, 0, math.Inf(1)},
	} {
		if got := (Line{KLDMean: c.kl}).Deviation(c.reference); math.Abs(got-c.want) > 1e-9 && got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestVerifyTellsFourThings(t *testing.T) {
	for _, participants := range []int{1, 2, 4} {
		var names []string
		err := newBench().Verify(t.Context(), prompt(t, participants), func(c Check) {
			names = append(names, c.Name)
			if !c.Passed() {
				t.Errorf("%d participants: %s fails", participants, c.Name)
			}
		})
		if err != nil {
			t.Error(err)
		}
		if want := []string{"lockstep-h1-f16", "gather-h1-f16", "default-over-network", "default"}; !slices.Equal(names, want) {
			t.Errorf("it tells %v", names)
		}
	}
}

// bent is a network that changes a bit of every block: the smallest mistake that a transport could make.
func bent(n int) ([]Device, func(), error) {
	devices, closeAll, err := Memory(n)
	for i := range devices {
		devices[i].Peers = nodetest.Through(devices[i].Peers, func(l node.Link) node.Link {
			return &nodetest.Watched{Link: l, Rows: func(_ fedkv.BlockHeader, rows []byte) []byte {
				rows = slices.Clone(rows)
				rows[len(rows)-3] ^= 1
				return rows
			}}
		})
	}
	return devices, closeAll, err
}

func TestVerifyCatchesOneBit(t *testing.T) {
	b := newBench()
	b.Network = bent
	var failed []string
	err := b.Verify(t.Context(), prompt(t, 3), func(c Check) {
		if !c.Passed() {
			failed = append(failed, c.Name)
		}
	})
	if want := []string{"lockstep-h1-f16", "default-over-network"}; !slices.Equal(failed, want) {
		t.Errorf("it catches %v", failed)
	}
	if err == nil || !strings.Contains(err.Error(), "lockstep-h1-f16") {
		t.Errorf("it returns %v", err)
	}
}

// A measurement without somebody would be a measurement of something else.
func TestRunFailsIfAnybodyIsMissing(t *testing.T) {
	broken := func(n int) ([]Device, func(), error) {
		devices, closeAll, err := Memory(n)
		devices[0].Peers = nodetest.Through(devices[0].Peers, func(l node.Link) node.Link {
			return &nodetest.Watched{Link: l, BeforeBlock: func(fedkv.BlockHeader) { _ = l.Close(fedkv.CodeLost, "the connection broke") }}
		})
		return devices, closeAll, err
	}
	for _, spec := range []string{"gather", "lockstep"} {
		b := newBench()
		s := Setting{
			Schedules: mustSchedules(t, spec), Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, 6), Positions: fedkv.InPlace,
			Timeout: time.Minute,
		}
		_, err := Run(t.Context(), b.Engine, broken, b.Self, prompt(t, 3), s)
		if err == nil || !strings.Contains(err.Error(), "participant-1") || !strings.Contains(err.Error(), "the connection broke") {
			t.Errorf("%s: %v", spec, err)
		}
		if n := b.Engine.(*nodetest.Engine).OpenCaches(); n != 0 {
			t.Errorf("%d caches are left behind", n)
		}
	}
	failing := func(int) ([]Device, func(), error) { return nil, nil, errors.New("no socket") }
	if _, err := Run(t.Context(), newBench().Engine, failing, fedkv.Hello{}, prompt(t, 2), Setting{}); err == nil || err.Error() != "no socket" {
		t.Errorf("without a network: %v", err)
	}
}

func TestRunMayBeStopped(t *testing.T) {
	for _, after := range []time.Duration{time.Second, 200 * time.Second, 300 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench()
			b.Engine.(*nodetest.Engine).LayerTime = 20 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			s, err := Default(3).Setting(6, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			started := time.Now()
			_, err = Run(ctx, b.Engine, Memory, b.Self, prompt(t, 3), s)
			if err == nil || time.Since(started) > after+2*time.Second {
				t.Errorf("%v after %v", err, time.Since(started))
			}
		})
	}
}

// Bytes count every copy: in lockstep, a contributor's rows go to all who come later.
func TestBytesOfEveryCopy(t *testing.T) {
	const row = 2 * 64 * 2 // K and V of one token at one layer, float16
	for _, c := range []struct {
		spec           string
		participants   int
		all, publisher int64 // rows
		barriers       int
	}{
		{"gather", 4, 21 * 6, 21 * 6, 1},
		{"contributors=none;publisher=2-", 4, 21 * 4, 21 * 4, 1},
		{"lockstep", 4, (3 + 2 + 1) * 7 * 6, 21 * 6, 6},
		{"lockstep", 2, 7 * 6, 7 * 6, 1},
		{"H=3", 4, (3 + 2 + 1) * 7 * 2, 21 * 2, 2},
		{"contributors=1-2;publisher=all", 4, (2+1)*7*2 + 21*6, 21 * 6, 3},
		{"none", 4, 0, 0, 0},
		{"lockstep", 1, 0, 0, 0},
	} {
		b, p := newBench(), prompt(t, c.participants)
		s := mustSchedules(t, c.spec)
		line, err := b.Measure(t.Context(), Case{
			Participants: c.participants, Contributors: s.Contributors.String(), Publisher: s.Publisher.String(),
			WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "inplace",
		}, p, make([]float32, len(p.Own())*b.Engine.Vocabulary()))
		if err != nil {
			t.Fatal(err)
		}
		want := Traffic{KVBytes: c.all * row, KVBytesPublisher: c.publisher * row, Barriers: c.barriers}
		if n := p.Contributed(); n > 0 {
			want.KVBytesPerToken = float64(want.KVBytesPublisher) / float64(n)
		}
		if line.Traffic != want {
			t.Errorf("%s, %d participants: %+v, want %+v", c.spec, c.participants, line.Traffic, want)
		}
	}
}

// The waits of a plan are those that the contributors' machines are told, and the publisher's one.
func TestBarriers(t *testing.T) {
	for _, c := range []struct {
		spec                       string
		layers, participants, want int
	}{
		{"lockstep", 30, 8, 30}, {"H=8", 24, 4, 3}, {"head=8", 24, 4, 3}, {"gather", 30, 8, 1}, {"none", 30, 8, 0}, {"all", 30, 2, 1},
		{"contributors=2-11;publisher=all", 24, 3, 11}, {"contributors=5;publisher=none", 24, 4, 0}, {"contributors=1,5;publisher=none", 24, 4, 1},
		{"contributors=all;publisher=0-3", 24, 3, 4}, {"contributors=all;publisher=0-3", 24, 4, 24},
	} {
		s, err := fedkv.ParseSchedules(c.spec, c.layers)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Barriers(c.participants); got != c.want {
			t.Errorf("%s, %d layers, %d participants: %d, want %d", c.spec, c.layers, c.participants, got, c.want)
		}
	}
}

// A line over windows is the mean of the windows' lines, and measuring again gives the same line.
func TestWindowsArePooled(t *testing.T) {
	b := newBench()
	texts, err := Windows(nil, stream(200), 30, 3)
	if err != nil {
		t.Fatal(err)
	}
	var windows []Window
	var lines []Line
	for _, text := range texts {
		p, err := Cut(text, 30, 3, 10, 3)
		if err != nil {
			t.Fatal(err)
		}
		base, err := Centralised(t.Context(), b.Engine, p, false)
		if err != nil {
			t.Fatal(err)
		}
		windows = append(windows, Window{p, base})
		line, err := b.Measure(t.Context(), Default(3), p, base)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	all, err := b.MeasureWindows(t.Context(), Default(3), windows)
	if err != nil {
		t.Fatal(err)
	}
	mean, largest, ppl := 0.0, 0.0, 1.0
	for _, l := range lines {
		mean += l.KLDMean / 3
		largest = max(largest, l.KLDMax)
		ppl *= math.Cbrt(l.PPL)
	}
	if math.Abs(all.KLDMean-mean) > 1e-12 || all.KLDMax != largest || math.Abs(all.PPL/ppl-1) > 1e-12 || all.Windows != 3 || all.KLDMeanSE <= 0 {
		t.Errorf("%+v, windows: %+v", all.Line, lines)
	}
	if all.KVBytes != lines[0].KVBytes || len(all.Series) != 3 || all.Tokens != 30 {
		t.Errorf("%+v", all.Line)
	}
	again, err := b.MeasureWindows(t.Context(), Default(3), windows)
	if err != nil {
		t.Fatal(err)
	}
	again.Seconds = all.Seconds
	if again.Line != all.Line {
		t.Errorf("%+v, then %+v", all.Line, again.Line)
	}
	one, err := b.Centralised(windows, 7, 2)
	if err != nil || one.KLDMean != 0 || one.PPL != all.PPLBase || one.PPLBase != all.PPLBase || one.Seed != 7 || one.Seconds != 2 || one.SameTop != 1 {
		t.Errorf("%+v, %v", one, err)
	}
}

// What a case says of its types is read back to the same types.
func TestWireNames(t *testing.T) {
	for _, c := range []struct{ spec, k, v string }{
		{"q8_0/q4_0", "q8_0", "q4_0"}, {"f16", "f16", "f16"}, {"q4_0+h/q4_0,0-1=q8_0,5=f16", "q4_0+h,0-1=q8_0,5=f16", "q4_0,0-1=q8_0,5=f16"},
		{"q8_0/q4_0,1=q8_0/f16", "q8_0", "q4_0,1=f16"},
	} {
		wire, err := fedkv.ParseWire(c.spec, 6)
		if err != nil {
			t.Fatal(err)
		}
		k, v := WireNames(wire)
		if k != c.k || v != c.v {
			t.Errorf("%s: K %s, V %s", c.spec, k, v)
		}
		if got, err := (Case{WireK: k, WireV: v}).wire(6); err != nil || got != wire {
			t.Errorf("%s becomes %v, %v", c.spec, got, err)
		}
	}
}
