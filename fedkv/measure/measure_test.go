package measure

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
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

func TestStandardErrors(t *testing.T) {
	for _, c := range []struct {
		values   []float64
		mean, se float64
	}{
		{nil, 0, 0}, {[]float64{3}, 3, 0}, {[]float64{1, 3}, 2, 1}, {[]float64{2, 4, 4, 4, 5, 5, 7, 9}, 5, math.Sqrt(32.0 / 7 / 8)},
	} {
		mean, se := MeanSE(c.values)
		if mean != c.mean || math.Abs(se-c.se) > 1e-15 {
			t.Errorf("%v: %v ± %v, want %v ± %v", c.values, mean, se, c.mean, c.se)
		}
	}
}

// windows of random runs that differ from their base by noise.
func windows(t *testing.T, lengths ...int) (all []Series) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	const vocabulary = 30
	for _, n := range lengths {
		base, run, tokens := make([]float32, n*vocabulary), make([]float32, n*vocabulary), make([]int32, n)
		for i := range base {
			base[i] = float32(3 * r.NormFloat64())
			run[i] = base[i] + float32(0.3*r.NormFloat64())
		}
		for i := range tokens {
			tokens[i] = int32(r.IntN(vocabulary))
		}
		s, err := Each(base, run, vocabulary, tokens)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func TestPoolIsOverWindows(t *testing.T) {
	all := windows(t, 20, 20, 20)
	var means []float64
	nll := 0.0
	for _, s := range all {
		one := Pool(s)
		means = append(means, one.KLMean)
		m, _ := MeanSE(s.NLL)
		nll += m / 3
	}
	got := Pool(all...)
	mean, se := MeanSE(means)
	if got.Windows != 3 || got.Tokens != 60 || got.KLMean != mean || got.KLMeanSE != se || se == 0 {
		t.Errorf("%+v, want %v ± %v", got, mean, se)
	}
	if math.Abs(got.PPL-math.Exp(nll)) > 1e-12 || got.PPLSE <= 0 || got.SameTopSE <= 0 || got.KLMeanSkip8SE <= 0 {
		t.Errorf("%+v, want a perplexity of %v", got, math.Exp(nll))
	}
	if one := Pool(all[0]); one.KLMeanSE == 0 {
		t.Error("one window has no error over its tokens")
	}
	// too short for what comes after the first 8
	if short := Pool(windows(t, 5)...); short.KLMeanSkip8 != 0 || short.KLMean == 0 {
		t.Errorf("%+v", short)
	}
}

// The labels are llama-perplexity's, and the figures those of Pool.
func TestStatistics(t *testing.T) {
	all := windows(t, 150)
	text := Statistics(all...)
	figures := map[string]float64{}
	for line := range strings.Lines(text) {
		if label, value, ok := strings.Cut(line, ": "); ok {
			var v float64
			if _, err := fmt.Sscan(strings.TrimRight(strings.Fields(value)[0], "%"), &v); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			figures[strings.TrimRight(label, " ")] = v
		}
	}
	r := Pool(all...)
	for label, want := range map[string]float64{
		"Mean PPL(Q)": r.PPL, "Mean PPL(base)": r.PPLBase, "Mean ln(PPL(Q)/PPL(base))": math.Log(r.PPL / r.PPLBase),
		"Mean PPL(Q)/PPL(base)": r.PPL / r.PPLBase, "Mean PPL(Q)-PPL(base)": r.PPL - r.PPLBase, "Mean    KLD": r.KLMean, "Maximum KLD": r.KLMax,
		"99.0%   KLD": r.KLP99, "Median  KLD": r.KLMedian, "Same top p": 100 * r.SameTop,
	} {
		if got, ok := figures[label]; !ok || math.Abs(got-want) > 6e-4 {
			t.Errorf("%s: %v, want %v", label, got, want)
		}
	}
	for _, label := range []string{
		"Cor(ln(PPL(Q)), ln(PPL(base)))", "99.9%   KLD", "95.0%   KLD", "90.0%   KLD", "10.0%   KLD", " 5.0%   KLD", " 1.0%   KLD", " 0.1%   KLD",
		"Minimum KLD", "Mean    Δp", "Maximum Δp", "99.9%   Δp", "75.0%   Δp", "Median  Δp", "25.0%   Δp", " 0.1%   Δp", "Minimum Δp", "RMS Δp",
	} {
		if _, ok := figures[label]; !ok {
			t.Errorf("there is no %q in\n%s", label, text)
		}
	}
	for _, heading := range []string{"Perplexity", "KL divergence", "Token probability"} {
		if !strings.Contains(text, "====== "+heading+" statistics ======\n") {
			t.Errorf("there is no heading %q", heading)
		}
	}
	same := windows(t, 12)[0]
	same.NLL = same.NLLBase
	if text := Statistics(same); strings.Contains(text, "NaN") || !strings.Contains(text, "Cor(ln(PPL(Q)), ln(PPL(base))): 100.00%") {
		t.Errorf("a run with itself:\n%s", text)
	}
	if text := Statistics(windows(t, 1)...); text != "" {
		t.Errorf("one token alone: %q", text)
	}
}
