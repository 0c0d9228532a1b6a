package lab

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

func mustAnalyze(t testing.TB, b Bench, c Case, p Prompt) Deviation {
	t.Helper()
	base, err := Observe(t.Context(), b.Engine, p)
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Analyze(t.Context(), c, base)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	if n := b.Engine.(*nodetest.Engine).OpenCaches(); n != 0 {
		t.Errorf("%d caches are left behind", n)
	}
	return d
}

func inPlace(participants int, contributors, publisher string) Case {
	c := Default(participants)
	c.Contributors, c.Publisher, c.WireK, c.WireV, c.Positions = contributors, publisher, "f16", "f16", "inplace"
	return c
}

// The oracle, at every layer and not only at the end. Contributors stop in the last layer, before its output.
func TestEveryLayerAllowedNothingDeviates(t *testing.T) {
	for _, participants := range []int{1, 2, 4} {
		d := mustAnalyze(t, newBench(), inPlace(participants, "all", "all"), prompt(t, participants))
		if want := make([]float64, 6); !slices.Equal(d.Publisher, want) {
			t.Errorf("%d participants: the publisher deviates by %v", participants, d.Publisher)
		}
		contributors := d.Contributors[:5]
		if participants == 1 {
			if !math.IsNaN(contributors[0]) {
				t.Error("one participant has contributors")
			}
			continue
		}
		if want := make([]float64, 5); !slices.Equal(contributors, want) || !math.IsNaN(d.Contributors[5]) {
			t.Errorf("%d participants: contributors deviate by %v", participants, d.Contributors)
		}
	}
}

// independent is the deviation of one participant that knows of no other, without any session.
func independent(t *testing.T, base *States, segment int, sync string) []float64 {
	t.Helper()
	p := base.prompt
	e := nodetest.NewEngine()
	s, err := fedkv.ParseSchedule(sync, 6)
	if err != nil {
		t.Fatal(err)
	}
	own, offset := p.Segments[segment], len(p.Prefix)
	for _, s := range p.Segments[:segment] {
		offset += len(s)
	}
	cells := len(p.Prefix) + len(own)
	c, err := e.Open(fedkv.CacheSpec{Sync: s, LocalCells: cells, SyncCells: cells, MicroBatch: cells, Outputs: len(own)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Eval(p.Prefix, 0, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.SetNext(offset); err != nil && segment > 0 {
		t.Fatal(err)
	}
	out := make([]float64, 6)
	if err := c.(Observable).SetOutputHook(func(layer, _, _ int, rows []float32) {
		var difference, norm float64
		for i, want := range base.rows[layer][segment] {
			difference += math.Pow(float64(rows[i])-float64(want), 2)
			norm += math.Pow(float64(want), 2)
		}
		out[layer] = math.Sqrt(difference / norm)
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.Eval(own, offset, len(own), nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// A publisher that receives nothing is a participant alone; so is a contributor in gather.
func TestWithoutExchangeEverybodyIsAlone(t *testing.T) {
	p := prompt(t, 3)
	b := newBench()
	base, err := Observe(t.Context(), b.Engine, p)
	if err != nil {
		t.Fatal(err)
	}
	nothing := mustAnalyze(t, b, inPlace(3, "none", "none"), p)
	if want := independent(t, base, 2, "none"); !slices.Equal(nothing.Publisher, want) {
		t.Errorf("the publisher alone: %v, expected %v", nothing.Publisher, want)
	}
	for l, v := range nothing.Contributors {
		if !math.IsNaN(v) {
			t.Errorf("layer %d: a contributor whom nobody needs evaluates", l)
		}
	}

	gather := mustAnalyze(t, b, inPlace(3, "none", "all"), p)
	first, second := independent(t, base, 0, "none"), independent(t, base, 1, "none")
	for l := range 5 {
		norm := func(segment int) (sum float64) {
			for _, v := range base.rows[l][segment] {
				sum += float64(v) * float64(v)
			}
			return sum
		}
		want := math.Sqrt((math.Pow(first[l], 2)*norm(0) + math.Pow(second[l], 2)*norm(1)) / (norm(0) + norm(1)))
		if first[l] != 0 || math.Abs(gather.Contributors[l]-want) > 1e-12 || want == 0 {
			t.Errorf("layer %d: contributors deviate by %v, alone by %v", l, gather.Contributors[l], want)
		}
	}
}

// In gather nothing of the publisher can deviate at the first layer: the rows there come from the embedding alone.
func TestWhereDeviationBegins(t *testing.T) {
	gather := mustAnalyze(t, newBench(), inPlace(3, "none", "all"), prompt(t, 3))
	if gather.Publisher[0] != 0 || gather.Publisher[1] == 0 || gather.Contributors[0] == 0 {
		t.Errorf("gather: publisher %v, contributors %v", gather.Publisher, gather.Contributors)
	}
	late := mustAnalyze(t, newBench(), inPlace(3, "3-", "3-"), prompt(t, 3))
	if late.Publisher[0] == 0 {
		t.Errorf("local layers first: %v", late.Publisher)
	}
	// contributors are needed up to layer 2 only, where they compute K and V
	early := mustAnalyze(t, newBench(), inPlace(3, "none", "0-2"), prompt(t, 3))
	for l, v := range early.Contributors {
		if math.IsNaN(v) != (l >= 2) {
			t.Errorf("needed up to layer 2, contributors at layer %d: %v", l, v)
		}
	}
}

// Equal texts at equal positions cannot be told apart, and need not be.
func TestEqualSegments(t *testing.T) {
	text := stream(9)
	p := Prompt{Prefix: text[:3], Segments: [][]fedkv.Token{text[3:9], text[3:9], text[3:9]}}
	c := inPlace(3, "none", "all")
	c.Positions = "canonical"
	a, b := mustAnalyze(t, newBench(), c, p), mustAnalyze(t, newBench(), c, p)
	if !slices.Equal(a.Publisher, b.Publisher) || !slices.Equal(a.Contributors[:5], b.Contributors[:5]) || a.Contributors[0] == 0 {
		t.Errorf("%v and %v", a, b)
	}
}

// blind is an engine whose caches show nothing.
type blind struct{ Engine }

func (b blind) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := b.Engine.Open(spec)
	return struct{ node.Cache }{c}, err
}

func TestAnalyzeFails(t *testing.T) {
	b, p := newBench(), prompt(t, 2)
	if _, err := Observe(t.Context(), blind{b.Engine}, p); err == nil || !strings.Contains(err.Error(), "does not show") {
		t.Errorf("an engine that shows nothing: %v", err)
	}
	base, err := Observe(t.Context(), b.Engine, p)
	if err != nil {
		t.Fatal(err)
	}
	b.Engine = blind{b.Engine}
	if _, err := b.Analyze(t.Context(), inPlace(2, "none", "all"), base); err == nil || !strings.Contains(err.Error(), "does not show") {
		t.Errorf("participants that show nothing: %v", err)
	}
	if _, err := newBench().Analyze(t.Context(), inPlace(2, "none", "9"), base); err == nil {
		t.Error("a layer that does not exist is analysed")
	}
	e := nodetest.NewEngine()
	e.LayerTime = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Observe(ctx, e, p); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("stopped: %v", err)
	}
	if n := e.OpenCaches(); n != 0 {
		t.Errorf("%d caches are left behind", n)
	}
}

// A recursion that is a line is found, whatever its coefficients.
func TestFitFindsTheRecursion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		coefficient := rapid.Float64Range(0.1, 2)
		want := map[string][2]float64{
			LocalLayer: {coefficient.Draw(t, "local slope"), coefficient.Draw(t, "local intercept")},
			SyncLayer:  {coefficient.Draw(t, "sync slope"), coefficient.Draw(t, "sync intercept")},
		}
		s, err := fedkv.ParseSchedule("H=3", 24)
		if err != nil {
			t.Fatal(err)
		}
		var d Deviation
		e := 0.0
		for l := range s.Len() {
			k := want[kindOf(s, l)]
			e = k[0]*e + k[1]
			d.Publisher = append(d.Publisher, e)
		}
		found := fits(rolePublisher, s, []Deviation{d}, Deviation.publisherStep)
		if len(found) != 2 || found[0].Points != 16 || found[1].Points != 8 {
			t.Fatalf("%+v", found)
		}
		for _, f := range found {
			k := want[f.Kind]
			// a recursion near its fixed point has points that are all but equal
			if math.Abs(*f.R2-1) < 1e-6 && (math.Abs(f.Slope-k[0]) > 1e-5*k[0] || math.Abs(f.Intercept-k[1]) > 1e-5*e) {
				t.Errorf("%+v, expected %v", f, k)
			}
		}
	})
}

func TestFitsThatDoNotExist(t *testing.T) {
	for _, c := range []struct{ x, y []float64 }{
		{nil, nil}, {[]float64{1, 2}, []float64{1, 2}}, {[]float64{1, 1, 1}, []float64{1, 2, 3}},
	} {
		if f, ok := leastSquares(c.x, c.y); ok {
			t.Errorf("%v has the line %+v", c, f)
		}
	}
	if f, ok := leastSquares([]float64{1, 2, 3}, []float64{5, 5, 5}); !ok || f.Slope != 0 || f.Intercept != 5 || f.R2 != nil {
		t.Errorf("a level line: %+v", f)
	}
	f, ok := leastSquares([]float64{0, 1, 2, 3}, []float64{1, 0, 1, 0}) // by hand
	if !ok || math.Abs(f.Slope+0.2) > 1e-15 || math.Abs(f.Intercept-0.8) > 1e-15 || math.Abs(*f.R2-0.2) > 1e-15 {
		t.Errorf("%+v", f)
	}
}

func TestSummarise(t *testing.T) {
	p := prompt(t, 2)
	nan := math.NaN()
	windows := []Deviation{
		{Publisher: []float64{0, 0.2, 0.1, 0.4}, Contributors: []float64{0.1, 0.2, 0.2, nan}, reach: []int{20, 20, 10, 0}},
		{Publisher: []float64{0, 0.4, 0.3, 0.4}, Contributors: []float64{0.3, 0.2, 0.4, nan}, reach: []int{20, 20, 10, 0}},
	}
	a, err := Summarise(inPlace(2, "none", "0,2"), p, windows)
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got *float64, want float64) {
		t.Helper()
		if got == nil && !math.IsNaN(want) || got != nil && !(math.Abs(*got-want) < 1e-12) {
			t.Errorf("%s: %v, expected %v", what, got, want)
		}
	}
	wantKinds := []string{SyncLayer, LocalLayer, SyncLayer, LocalLayer}
	for l, want := range []struct{ deviation, se, growth, contributors, growthContributors float64 }{
		{0, 0, nan, 0.2, nan},
		{0.3, 0.1, nan, 0.2, 1},
		{0.2, 0.1, 2.0 / 3, 0.3, nan}, // other contributors than before
		{0.4, 0, 2, nan, nan},
	} {
		d := a.Layers[l]
		near("deviation", &d.DeviationPublisher, want.deviation)
		near("standard error", d.DeviationPublisherSE, want.se)
		near("growth", d.Growth, want.growth)
		near("contributors", d.DeviationContributors, want.contributors)
		near("their growth", d.GrowthContributors, want.growthContributors)
		if d.Layer != l || d.Kind != wantKinds[l] || d.KindContributors != LocalLayer {
			t.Errorf("%+v", d)
		}
	}
	if a.Windows != 2 || a.Tokens != 14 || a.PublisherTokens != 4 || a.PrefixTokens != 3 {
		t.Errorf("%+v", a)
	}
	one, err := Summarise(inPlace(2, "none", "all"), p, windows[:1])
	if err != nil || one.Layers[1].DeviationPublisherSE != nil {
		t.Errorf("one window has a standard error: %+v, %v", one, err)
	}
	if _, err := Summarise(inPlace(2, "none", "all"), p, nil); err == nil {
		t.Error("nothing is summarised")
	}
}
