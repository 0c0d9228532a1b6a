package fedkvtest

import (
	"math"
	"slices"
	"testing"

	"fedattn/fedkv"
)

func largest(a, b [][]float64) (most float64) {
	for i := range a {
		for j := range a[i] {
			most = max(most, math.Abs(a[i][j]-b[i][j]))
		}
	}
	return most
}

func TestTinyFollowsFromItsConfiguration(t *testing.T) {
	tokens := []fedkv.Token{5, 17, 3, 60}
	config := Small()
	out := NewTiny(config).Centralised(tokens)
	if d := largest(out, NewTiny(config).Centralised(tokens)); d != 0 {
		t.Errorf("the same configuration differs by %g", d)
	}
	config.Seed++
	if d := largest(out, NewTiny(config).Centralised(tokens)); d < 0.1 {
		t.Errorf("another seed differs by %g only", d)
	}
}

func TestTinyRowsHaveItsShape(t *testing.T) {
	m := NewTiny(Small())
	if err := m.Shape().Validate(); err != nil {
		t.Fatal(err)
	}
	p := m.Begin([]fedkv.Token{1, 2}, []int{0, 1})
	for l, shape := range m.Shape().Layers {
		rows := p.Rows()
		if p.Layer() != l || len(rows.K) != 2 || len(rows.K[1]) != shape.K || len(rows.V[1]) != shape.V {
			t.Fatalf("layer %d: %d rows of %d and %d elements, shape %v", p.Layer(), len(rows.K), len(rows.K[1]), len(rows.V[1]), shape)
		}
		p.Attend(rows, func(q, k int) bool { return k <= q })
	}
}

func TestTinyIsCausal(t *testing.T) {
	m := NewTiny(Small())
	a := m.Centralised([]fedkv.Token{5, 17, 3, 60})
	b := m.Centralised([]fedkv.Token{5, 17, 3, 8})
	if d := largest(a[:3], b[:3]); d != 0 {
		t.Errorf("a later token changes earlier ones by %g", d)
	}
	if d := largest(a[3:], b[3:]); d == 0 {
		t.Error("a token does not matter")
	}
}

func TestTinyKnowsOnlyDifferencesOfPositions(t *testing.T) {
	m := NewTiny(Small())
	run := func(at int) [][]float64 {
		p := m.Begin([]fedkv.Token{5, 17, 3}, []int{at, at + 1, at + 2})
		for range m.Layers {
			p.Attend(p.Rows(), func(q, k int) bool { return k <= q })
		}
		return p.Logits()
	}
	if d := largest(run(0), run(1000)); d > 1e-9 {
		t.Errorf("the same text elsewhere differs by %g", d)
	}
	same := m.Begin([]fedkv.Token{5, 17}, []int{0, 0})
	for range m.Layers {
		same.Attend(same.Rows(), func(q, k int) bool { return k <= q })
	}
	if d := largest(run(0)[1:2], same.Logits()[1:]); d < 1e-3 {
		t.Errorf("a position matters by %g only", d)
	}
}

func TestShiftIsEvaluationElsewhere(t *testing.T) {
	m := NewTiny(Small())
	tokens := []fedkv.Token{5, 17}
	here, there := m.Begin(tokens, []int{3, 4}).Rows(), m.Begin(tokens, []int{10, 11}).Rows()
	before := slices.Clone(here.K[0])
	if d := largest(here.Shift(7, m.HeadDim).K, there.K); d > 1e-12 {
		t.Errorf("shifted rows differ by %g", d)
	}
	if d := largest(there.Shift(-7, m.HeadDim).K, here.K); d > 1e-12 {
		t.Errorf("rows shifted back differ by %g", d)
	}
	if !slices.Equal(before, here.K[0]) {
		t.Error("Shift changed the rows that it was given")
	}
	if d := largest(here.V, there.V); d != 0 {
		t.Errorf("V knows its position: %g", d)
	}
}

func TestAttentionToOneRowIsItsValue(t *testing.T) {
	rows := Rows{K: [][]float64{{1, 0}, {0, 1}}, V: [][]float64{{3, 4}, {5, 6}}}
	if got, _ := attend([]float64{0.3, 0.7}, rows, 0, func(k int) bool { return k == 1 }); !slices.Equal(got, []float64{5, 6}) {
		t.Errorf("one row is seen: %v", got)
	}
	// Equal scores share equally.
	if got, sum := attend([]float64{0, 0}, rows, 0, func(int) bool { return true }); !slices.Equal(got, []float64{4, 5}) || sum != math.Log(2) {
		t.Errorf("two equal rows are seen: %v, %g", got, sum)
	}
	if got, sum := attend([]float64{0, 0}, rows, 0, func(int) bool { return false }); !slices.Equal(got, []float64{0, 0}) || !math.IsInf(sum, -1) {
		t.Errorf("no row is seen: %v, %g", got, sum)
	}
}

// A Federation must notice what it is there to notice: rows that get lost, or land in the wrong place, change
// the outcome.
func TestFederationNoticesPlantedFaults(t *testing.T) {
	m := NewTiny(Small())
	s, err := fedkv.ParseSchedules("lockstep", m.Layers)
	if err != nil {
		t.Fatal(err)
	}
	f := Federation{
		Model: m, Schedules: s, Positions: fedkv.InPlace, Prefix: []fedkv.Token{1},
		Segments: [][]fedkv.Token{{2, 3}, {4, 5, 6}, {7, 8}},
	}
	good, err := f.Run()
	if err != nil {
		t.Fatal(err)
	}
	f.Dies = map[int]int{0: 3}
	lost, err := f.Run()
	if err != nil {
		t.Fatal(err)
	}
	if len(lost.Missing) != 1 || largest(good.Logits, lost.Logits) == 0 {
		t.Errorf("a lost contributor leaves the same answer; missing %v", lost.Missing)
	}
	f.Dies, f.Segments[0][1] = nil, 9
	other, err := f.Run()
	if err != nil {
		t.Fatal(err)
	}
	if largest(good.Logits, other.Logits) == 0 {
		t.Error("a contributor's text does not matter")
	}
}
