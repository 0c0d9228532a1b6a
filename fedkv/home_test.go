package fedkv

import (
	"math"
	"math/rand/v2"
	"testing"
)

// partialOver is attention of one head with these scores over rows, whose values are the columns of v.
func partialOver(scores []float64, v [][]float32) Partial {
	dim := 3
	p := Partial{Out: make([]float32, dim), LSE: []float32{float32(math.Inf(-1))}}
	sum := 0.0
	for _, s := range scores {
		sum += math.Exp(s)
	}
	if len(scores) == 0 {
		return p
	}
	for j := range dim {
		out := 0.0
		for i, s := range scores {
			out += math.Exp(s) / sum * float64(v[i][j])
		}
		p.Out[j] = float32(out)
	}
	p.LSE[0] = float32(math.Log(sum))
	return p
}

// Merging attention over parts is attention over all, however the rows are shared out, and parts without rows count for
// nothing.
func TestMergedPartsAreTheWhole(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		n := 1 + random.IntN(12)
		scores, values := make([]float64, n), make([][]float32, n)
		for i := range n {
			scores[i] = 20 * random.NormFloat64()
			values[i] = []float32{random.Float32(), random.Float32(), random.Float32()}
		}
		whole := partialOver(scores, values)
		var parts []Partial
		for first := 0; first < n || len(parts) < 2; {
			end := min(n, first+random.IntN(4))
			parts = append(parts, partialOver(scores[first:end], values[first:end]))
			first = end
		}
		got := parts[0]
		got.Merge(parts[1:]...)
		if d := math.Abs(float64(got.LSE[0] - whole.LSE[0])); d > 1e-4 {
			t.Fatalf("log of the sum %g, want %g", got.LSE[0], whole.LSE[0])
		}
		for j := range got.Out {
			if d := math.Abs(float64(got.Out[j] - whole.Out[j])); !(d < 1e-5) {
				t.Fatalf("output %v, want %v", got.Out, whole.Out)
			}
		}
	}
	nothing := partialOver(nil, nil)
	nothing.Merge(partialOver(nil, nil))
	if nothing.Out[0] != 0 || !math.IsInf(float64(nothing.LSE[0]), -1) {
		t.Errorf("nothing and nothing are %v", nothing)
	}
	Partial{}.Merge()
}

func TestHomeSizes(t *testing.T) {
	q, out, heads, ok := LayerShape{K: 192, V: 96, Heads: 9, KVHeads: 3}.HomeSizes()
	if q != 576 || out != 288 || heads != 9 || !ok {
		t.Errorf("%d, %d, %d, %v", q, out, heads, ok)
	}
	for _, s := range []LayerShape{{K: 192, V: 192}, {K: 192, V: 192, Heads: 9, KVHeads: 2}, {K: 191, V: 192, Heads: 9, KVHeads: 3},
		{K: 192, V: 191, Heads: 9, KVHeads: 3}, {K: 192, V: 192, Heads: -3, KVHeads: -3}} {
		if _, _, _, ok := s.HomeSizes(); ok {
			t.Errorf("%v tells its sizes", s)
		}
	}
}
