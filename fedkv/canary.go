package fedkv

import (
	"fmt"
	"math"
)

// A model file that is the same on two devices does not make two engines that compute the same: a kernel may be broken, a
// build may have lost an option, memory may be faulty. Such rows are finite and well-formed, and nothing downstream could
// tell them from good ones. So each side evaluates a few public tokens when it has loaded its model, and says in its Hello
// what came out, as random projections of K and V rows at some layers and of the last logits. Whoever differs by more than
// another CPU does is refused before it sends a row.
//
// It guards against mistakes, not against malice: who wants to lie copies the other's numbers.
const (
	// CanaryText is what is evaluated, as plain text: its first CanaryTokens tokens, or all of them if it has fewer.
	CanaryText = "The lighthouse keeper wrote down every ship that passed the harbour at night."
	// CanaryTokens go through the layers together.
	CanaryTokens = 8

	canaryFirst       = 1000
	canaryLayers      = 8 // of the model, at most, at equal distances
	canaryProjections = 8 // numbers of a vector
)

// What two engines may differ by: the distance between a vector's projections, in lengths of the longer one. Measured
// distances are in docs/design.md.
const (
	canaryTolerance = 0.5 // of the same weights on another processor
	canaryWeights   = 0.9 // of the same model in another quantisation
)

// Canary is what an engine made of the public tokens: float16, canaryProjections numbers of the last token's K row and V
// row at each of CanaryLayers, then of its logits. Empty: it does not say.
type Canary []byte

// CanaryFirst is the position of the first of the tokens: far enough from 0 for a mistake in the rotation of K rows to
// show in their slow pairs, too. A model that was not trained for so many tokens may have no such position.
func CanaryFirst(contextTrain int) int {
	if contextTrain > 0 && contextTrain < canaryFirst+CanaryTokens {
		return 0
	}
	return canaryFirst
}

// CanaryLayers are the layers of a model of that many whose rows are in its Canary, ascending.
func CanaryLayers(layers int) []int {
	n := min(layers, canaryLayers)
	list := make([]int, n)
	for i := 1; i < n; i++ {
		list[i] = i * (layers - 1) / (n - 1)
	}
	return list
}

// canarySize is the bytes of a Canary that is not empty.
func canarySize(layers int) int { return 2 * canaryProjections * (2*min(layers, canaryLayers) + 1) }

// Append appends the projections of one vector: sums of its elements with random signs, divided by the root of their
// number, so that differences between two vectors show wherever they are. It fails if float16 does not hold them.
func (c Canary) Append(vector []float32) (Canary, error) {
	var sums [canaryProjections]float64
	for i, v := range vector {
		signs := mix(uint64(i))
		for j := range sums {
			if signs>>j&1 == 0 {
				sums[j] -= float64(v)
			} else {
				sums[j] += float64(v)
			}
		}
	}
	for _, s := range sums {
		c = appendHalf(c, float32(s/math.Sqrt(float64(len(vector)))))
	}
	return c, F16.CheckFinite(c)
}

func (c Canary) validate(layers int) error {
	return first(
		check(len(c) == 0 || len(c) == canarySize(layers), "canary of %d bytes, must be 0 or %d", len(c), canarySize(layers)),
		F16.CheckFinite(c[:len(c)&^1]),
	)
}

// Distance is how far the canaries of two engines of one model are apart, at the vector where they are farthest, and which
// vector that is. Of canaries that are empty it is 0.
func (c Canary) Distance(o Canary, layers int) (worst float64, where string) {
	if len(c) == 0 || len(o) == 0 {
		return 0, ""
	}
	vector := func(c Canary, i int) (v [canaryProjections]float64) {
		for j := range v {
			v[j] = float64(half(c[2*(i*canaryProjections+j):]))
		}
		return v
	}
	length := func(v [canaryProjections]float64) float64 {
		sum := 0.0
		for _, x := range v {
			sum += float64(x * x)
		}
		return math.Sqrt(sum)
	}
	chosen := CanaryLayers(layers)
	for i := range 2*len(chosen) + 1 {
		a, b := vector(c, i), vector(o, i)
		longer := max(length(a), length(b))
		for j := range a {
			a[j] -= b[j]
		}
		if d := length(a) / longer; d > worst { // two vectors of zeros do not differ: 0/0 is not larger
			worst, where = d, "the logits"
			if i < 2*len(chosen) {
				where = fmt.Sprintf("the %c row of layer %d", "KV"[i%2], chosen[i/2])
			}
		}
	}
	return worst, where
}

// sameNumbers is the check of Compatible.
func (m Hello) sameNumbers(o Hello) error {
	most := canaryTolerance
	if !m.Model.SameWeights(o.Model) {
		most = canaryWeights
	}
	if d, where := m.Canary.Distance(o.Canary, m.Model.Layers); d > most {
		return Errorf(CodeCanary, "%s and %s compute different things from the same public words: %s differs by %.0f %%, other processors by less than %.0f %%; "+
			"install the same release of fedattn on both devices, and check their model files and memory", m.Name, o.Name, where, 100*d, 100*most)
	}
	return nil
}
