// Package audit reads texts back out of what devices give away, as a peer could that has the same model. It exists to know
// what is given away, and what a defence is worth: an attack that fails here says little, one that succeeds says enough.
//
//	Lookup    rows of layer 0 depend on their own token only: the nearest row of the vocabulary is the token
//	Search    rows of any layer depend on their own token and those before: candidates that the model thinks likely are
//	          evaluated behind the text that is known so far, and the one whose rows are nearest is the next token
//	Probe     a linear map from rows to tokens, learnt from public text; it needs no forward pass to read
//
// Attacks get what the receiver of a session gets: rows of one layer as they stand in its cache (Exposure). They know the
// model, the prefix, the layer, and which tokens' rows they have. They are deterministic. Start reading at Search.
package audit

import (
	"fmt"
	"math"

	"fedattn/fedkv"
)

// Rows are K and V rows of some tokens at a layer, [tokens][elements], as the layer's attention would read them: K rotated
// to its position.
type Rows struct{ K, V []float32 }

// Trials evaluates continuations of a known text side by side.
type Trials interface {
	// Know makes text the known one and returns the logits of what follows it, [vocabulary].
	Know(text []fedkv.Token) (next []float32, err error)
	// Try evaluates continuations of the known text, all of one length, and returns for each of the layers the rows of each
	// continuation's last token; other layers are empty. The known text stays.
	Try(continuations [][]fedkv.Token, layers fedkv.Schedule) (byLayer []Rows, err error)
}

// Exposure is what a peer has of a text at one layer: a row of K and of V for every token whose rows were sent, and nil for
// the others.
type Exposure struct {
	Layer int
	K, V  [][]float32
}

// Sent counts the tokens whose rows were sent.
func (e Exposure) Sent() int {
	n := 0
	for _, k := range e.K {
		if k != nil {
			n++
		}
	}
	return n
}

// Reading is what an attack makes of an exposure: a token for each of the text, -1 where it has no idea.
type Reading []fedkv.Token

// Recovered counts the tokens that are right, of all and of those whose rows were sent.
func (r Reading) Recovered(e Exposure, text []fedkv.Token) (all, sent int) {
	for i, t := range text {
		if i >= len(r) || r[i] != t {
			continue
		}
		all++
		if e.K[i] != nil {
			sent++
		}
	}
	return all, sent
}

// valid reports exposures that are not all of one text.
func valid(exposures []Exposure, layers int) error {
	for _, e := range exposures {
		if len(e.K) != len(exposures[0].K) || len(e.V) != len(e.K) {
			return fmt.Errorf("audit: rows of %d and of %d tokens", len(exposures[0].K), len(e.K))
		}
		if e.Layer < 0 || e.Layer >= layers {
			return fmt.Errorf("audit: layer %d of a model of %d", e.Layer, layers)
		}
	}
	return nil
}

// scale is how far apart candidates' rows are, so that distances of K and of V count alike: the mean square of their
// difference from their mean. It is never 0.
type scale struct{ k, v float64 }

func newScale(r Rows, n int) scale { return scale{spread(r.K, n), spread(r.V, n)} }

func spread(rows []float32, n int) float64 {
	if n < 2 || len(rows) == 0 {
		return 1
	}
	elements := len(rows) / n
	total := 0.0
	for j := range elements {
		sum, squares := 0.0, 0.0
		for i := j; i < len(rows); i += elements {
			sum += float64(rows[i])
			squares += float64(rows[i]) * float64(rows[i])
		}
		total += squares - sum*sum/float64(n)
	}
	return math.Max(total/float64(n), math.SmallestNonzeroFloat32)
}

// distance of candidate i's rows from those that were sent.
func (s scale) distance(r Rows, i int, k, v []float32) float64 {
	return apart(r.K[i*len(k):], k)/s.k + apart(r.V[i*len(v):], v)/s.v
}

func apart(a, b []float32) float64 {
	sum := 0.0
	for j, y := range b {
		d := float64(a[j]) - float64(y)
		sum += d * d
	}
	return sum
}
