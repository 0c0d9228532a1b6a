package measure

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestARunEqualToItsBaseHasNoDivergence(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 20*50)
	tokens := make([]int32, 20)
	for i := range logits {
		logits[i] = float32(r.NormFloat64() * 5)
	}
	for i := range tokens {
		tokens[i] = int32(r.IntN(50))
	}
	got, err := Compare(logits, logits, 50, tokens)
	if err != nil {
		t.Fatal(err)
	}
	if got.KLMean != 0 || got.KLMax != 0 || got.SameTop != 1 || got.MaxLogitDelta != 0 || got.PPL != got.PPLBase {
		t.Errorf("%+v", got)
	}
}

// Two tokens, two words: everything can be computed by hand.
func TestFiguresByHand(t *testing.T) {
	ln := func(x float64) float32 { return float32(math.Log(x)) }
	base := []float32{ln(0.75), ln(0.25), ln(0.5), ln(0.5)}
	run := []float32{ln(0.25), ln(0.75), ln(0.5), ln(0.5)}
	got, err := Compare(base, run, 2, []int32{1, 0})
	if err != nil {
		t.Fatal(err)
	}
	kl := 0.75*math.Log(3) + 0.25*math.Log(1.0/3)
	near := func(name string, got, want float64) {
		if math.Abs(got-want) > 1e-6 {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	near("KLMean", got.KLMean, kl/2)
	near("KLMax", got.KLMax, kl)
	near("KLMedian", got.KLMedian, kl/2)
	near("SameTop", got.SameTop, 0.5)
	near("PPLBase", got.PPLBase, 1/0.75)
	near("PPL", got.PPL, 4)
	near("MaxLogitDelta", got.MaxLogitDelta, math.Log(3))
}

func TestLogitsAreInvariantToAConstant(t *testing.T) {
	base, run := []float32{1, 2, 3}, []float32{101, 102, 103}
	got, err := Compare(base, run, 3, []int32{0})
	if err != nil || got.KLMean > 1e-12 || got.SameTop != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNaNIsNotHidden(t *testing.T) {
	nan := float32(math.NaN())
	got, err := Compare([]float32{1, 2}, []float32{1, nan}, 2, []int32{0})
	if err != nil || !math.IsNaN(got.MaxLogitDelta) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLengthsMustFit(t *testing.T) {
	for _, c := range []struct {
		base, run []float32
		vocab     int
		tokens    []int32
	}{
		{nil, nil, 2, nil},
		{make([]float32, 2), make([]float32, 4), 2, []int32{0}},
		{make([]float32, 4), make([]float32, 4), 2, []int32{0, 7}},
	} {
		if _, err := Compare(c.base, c.run, c.vocab, c.tokens); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}
