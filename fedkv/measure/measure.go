// Package measure compares the next-token distributions of two runs over the same tokens, in the terms that
// llama-perplexity uses: KL divergence from the base run, how often both put the same token first, and perplexity.
// Start reading at Each, which gives the figures of every token, then Pool, which sums them up. What is measured again
// and again, times above all, is summed up in repeated.go. The package is pure: it sees numbers only.
package measure

import (
	"fmt"
	"math"
	"slices"
)

// Series are the figures of each compared token of one window of a text. KL divergences and likelihoods are in nats.
type Series struct {
	KL      []float64 // KL(base ‖ run)
	SameTop []bool    // both runs have the same most likely token

	// Of the token that follows, so the last compared token has none: negative log-likelihoods.
	NLL, NLLBase []float64

	MaxLogitDelta float64 // largest |run - base| of any logit
}

// Each takes logits [tokens][vocabulary], row after row, of the base run and of the other run, and the tokens that
// they were computed for. Row i predicts tokens[i+1].
func Each(base, run []float32, vocabulary int, tokens []int32) (Series, error) {
	n := len(tokens)
	if n == 0 || vocabulary < 1 || len(base) != n*vocabulary || len(run) != n*vocabulary {
		return Series{}, fmt.Errorf("measure: %d and %d logits for %d tokens and a vocabulary of %d",
			len(base), len(run), n, vocabulary)
	}
	s := Series{KL: make([]float64, n), SameTop: make([]bool, n)}
	p, q := make([]float64, vocabulary), make([]float64, vocabulary)
	for i := range n {
		b, o := base[i*vocabulary:(i+1)*vocabulary], run[i*vocabulary:(i+1)*vocabulary]
		s.SameTop[i] = logSoftmax(p, b) == logSoftmax(q, o)
		sum := 0.0
		for t := range p {
			if prob := math.Exp(p[t]); prob > 0 {
				sum += float64(prob * (p[t] - q[t]))
			}
			s.MaxLogitDelta = worse(s.MaxLogitDelta, math.Abs(float64(o[t])-float64(b[t])))
		}
		s.KL[i] = math.Max(sum, 0) // rounding may leave a tiny negative sum
		if i+1 < n {
			next := tokens[i+1]
			if next < 0 || int(next) >= vocabulary {
				return Series{}, fmt.Errorf("measure: token %d is not in a vocabulary of %d", next, vocabulary)
			}
			s.NLLBase = append(s.NLLBase, -p[next])
			s.NLL = append(s.NLL, -q[next])
		}
	}
	return s, nil
}

// Result compares a run with a base run over the same windows of tokens. KL divergences are in nats per token. Means
// are means of the windows' means; quantiles and largest values are of all windows' tokens together. Standard errors
// (SE) are those of the mean over windows, or over the tokens if there is one window.
type Result struct {
	Windows       int
	Tokens        int     // compared positions, of all windows
	KLMean        float64 // mean over tokens of KL(base ‖ run)
	KLMeanSE      float64
	KLMeanSkip8   float64 // the same without the first 8 tokens of each window; 0 if there are no others
	KLMeanSkip8SE float64
	KLMedian      float64
	KLP99         float64
	KLMax         float64
	SameTop       float64 // share of tokens at which both runs have the same most likely token
	SameTopSE     float64
	PPL, PPLBase  float64 // perplexity of the tokens that follow; 0 if none does
	PPLSE         float64
	MaxLogitDelta float64 // largest |run - base| of any logit
}

// skip is how many tokens KLMeanSkip8 leaves out: a text cut in mid-sentence starts unlike anything in real use.
const skip = 8

// Compare is Pool of one window's Each.
func Compare(base, run []float32, vocabulary int, tokens []int32) (Result, error) {
	s, err := Each(base, run, vocabulary, tokens)
	if err != nil {
		return Result{}, err
	}
	return Pool(s), nil
}

// Pool sums up at least one window.
func Pool(windows ...Series) Result {
	r := Result{Windows: len(windows)}
	var all []float64
	var kl, late, top, nll, base [][]float64
	for _, s := range windows {
		all = append(all, s.KL...)
		kl = append(kl, s.KL)
		late = append(late, s.KL[min(skip, len(s.KL)):])
		top = append(top, ones(s.SameTop))
		nll, base = append(nll, s.NLL), append(base, s.NLLBase)
		r.MaxLogitDelta = worse(r.MaxLogitDelta, s.MaxLogitDelta)
	}
	r.Tokens = len(all)
	r.KLMean, r.KLMeanSE = overWindows(kl)
	r.KLMeanSkip8, r.KLMeanSkip8SE = overWindows(late)
	r.SameTop, r.SameTopSE = overWindows(top)
	slices.Sort(all)
	r.KLMedian, r.KLP99, r.KLMax = quantile(all, 0.5), quantile(all, 0.99), all[len(all)-1]
	if len(windows[0].NLL) > 0 {
		mean, se := overWindows(nll)
		r.PPL = math.Exp(mean)
		r.PPLSE = r.PPL * se
		mean, _ = overWindows(base)
		r.PPLBase = math.Exp(mean)
	}
	return r
}

func ones(set []bool) []float64 {
	v := make([]float64, len(set))
	for i, is := range set {
		if is {
			v[i] = 1
		}
	}
	return v
}

// overWindows is the mean of the windows' means and its standard error. Windows without values do not count.
func overWindows(windows [][]float64) (mean, se float64) {
	var means []float64
	for _, w := range windows {
		if len(w) > 0 {
			m, _ := MeanSE(w)
			means = append(means, m)
		}
	}
	switch len(means) {
	case 0:
		return 0, 0
	case 1:
		for _, w := range windows {
			if len(w) > 0 {
				return MeanSE(w)
			}
		}
	}
	return MeanSE(means)
}

// MeanSE is the mean of values and the standard error of the mean, s/√n with the sample's standard deviation s. It is 0
// for one value, which says nothing of how others would be. No values have the mean 0.
func MeanSE(values []float64) (mean, se float64) {
	n := float64(len(values))
	if n == 0 {
		return 0, 0
	}
	for _, x := range values {
		mean += x
	}
	mean /= n
	if n == 1 {
		return mean, 0
	}
	sum := 0.0
	for _, x := range values {
		sum += float64((x - mean) * (x - mean))
	}
	return mean, math.Sqrt(sum / (n - 1) / n)
}

// worse is the larger of two, and NaN if one of them is.
func worse(a, b float64) float64 {
	if math.IsNaN(b) || b > a {
		return b
	}
	return a
}

// logSoftmax writes log-probabilities to dst and returns the index of the largest logit, the first of equals.
func logSoftmax(dst []float64, logits []float32) (top int) {
	for t, x := range logits {
		if x > logits[top] {
			top = t
		}
	}
	largest, sum := float64(logits[top]), 0.0
	for t, x := range logits {
		dst[t] = float64(x) - largest
		sum += math.Exp(dst[t])
	}
	logSum := math.Log(sum)
	for t := range dst {
		dst[t] -= logSum
	}
	return top
}

// quantile of sorted values, linear between neighbours.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
