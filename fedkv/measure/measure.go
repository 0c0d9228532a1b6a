// Package measure compares the next-token distributions of two runs over the same tokens, in the terms that
// llama-perplexity uses: KL divergence from the base run, how often both put the same token first, and perplexity.
// Start reading at Compare. The package is pure: it sees logits and tokens only.
package measure

import (
	"fmt"
	"math"
	"slices"
)

// Result compares a run with a base run over the same tokens. KL divergences are in nats per token.
type Result struct {
	Tokens        int     // compared positions
	KLMean        float64 // mean over tokens of KL(base ‖ run)
	KLMeanSkip8   float64 // the same without the first 8 tokens; 0 if there are no others
	KLMedian      float64
	KLP99         float64
	KLMax         float64
	SameTop       float64 // share of tokens at which both runs have the same most likely token
	PPL, PPLBase  float64 // perplexity of the tokens that follow; 0 if none does
	MaxLogitDelta float64 // largest |run - base| of any logit
}

// skip is how many tokens KLMeanSkip8 leaves out: a text cut in mid-sentence starts unlike anything in real use.
const skip = 8

// Compare takes logits [tokens][vocabulary], row after row, of the base run and of the other run, and the tokens that
// they were computed for. Row i predicts tokens[i+1].
func Compare(base, run []float32, vocabulary int, tokens []int32) (Result, error) {
	n := len(tokens)
	if n == 0 || vocabulary < 1 || len(base) != n*vocabulary || len(run) != n*vocabulary {
		return Result{}, fmt.Errorf("measure: %d and %d logits for %d tokens and a vocabulary of %d",
			len(base), len(run), n, vocabulary)
	}
	r := Result{Tokens: n}
	kl := make([]float64, n)
	p, q := make([]float64, vocabulary), make([]float64, vocabulary)
	var nll, nllBase float64
	for i := range n {
		b, o := base[i*vocabulary:(i+1)*vocabulary], run[i*vocabulary:(i+1)*vocabulary]
		topBase, top := logSoftmax(p, b), logSoftmax(q, o)
		if topBase == top {
			r.SameTop++
		}
		for t := range p {
			if prob := math.Exp(p[t]); prob > 0 {
				kl[i] += prob * (p[t] - q[t])
			}
			r.MaxLogitDelta = worse(r.MaxLogitDelta, math.Abs(float64(o[t])-float64(b[t])))
		}
		kl[i] = math.Max(kl[i], 0) // rounding may leave a tiny negative sum
		if i+1 < n {
			if next := tokens[i+1]; next < 0 || int(next) >= vocabulary {
				return Result{}, fmt.Errorf("measure: token %d is not in a vocabulary of %d", next, vocabulary)
			}
			nllBase -= p[tokens[i+1]]
			nll -= q[tokens[i+1]]
		}
	}
	r.SameTop /= float64(n)
	r.KLMean = mean(kl)
	if n > skip {
		r.KLMeanSkip8 = mean(kl[skip:])
	}
	slices.Sort(kl)
	r.KLMedian, r.KLP99, r.KLMax = quantile(kl, 0.5), quantile(kl, 0.99), kl[n-1]
	if n > 1 {
		r.PPL, r.PPLBase = math.Exp(nll/float64(n-1)), math.Exp(nllBase/float64(n-1))
	}
	return r, nil
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

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// quantile of sorted values, linear between neighbours.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
