package fedkv

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// sampleCanary is well-formed for a model of 30 layers.
var sampleCanary = func() (c Canary) {
	for i := range canarySize(30) / 2 {
		c = appendHalf(c, float32(i%16-8)/4)
	}
	return c
}()

func TestCanaryLayers(t *testing.T) {
	for layers := 1; layers <= MaxLayers; layers++ {
		list := CanaryLayers(layers)
		if len(list) != min(layers, canaryLayers) || list[0] != 0 || layers > 1 && list[len(list)-1] != layers-1 {
			t.Fatalf("of %d layers: %v", layers, list)
		}
		for i := 1; i < len(list); i++ {
			if list[i] <= list[i-1] {
				t.Fatalf("of %d layers: %v", layers, list)
			}
		}
	}
}

// randomVector has elements around 0, as rows have them.
func randomVector(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// canaryOf has these vectors for a model of one layer: K, V, logits.
func canaryOf(t *testing.T, vectors ...[]float32) Canary {
	t.Helper()
	var c Canary
	for _, v := range vectors {
		var err error
		if c, err = c.Append(v); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// The distance of projections is that of the vectors, wherever these differ, within what eight numbers can tell.
func TestCanaryDistance(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	same := [][]float32{randomVector(r, 192), randomVector(r, 192), randomVector(r, 5000)}
	base := canaryOf(t, same...)
	if d, _ := base.Distance(base, 1); d != 0 {
		t.Errorf("from itself: %v", d)
	}
	if d, _ := base.Distance(nil, 1); d != 0 {
		t.Errorf("from nothing: %v", d)
	}
	for i, name := range []string{"the K row of layer 0", "the V row of layer 0", "the logits"} {
		for range 200 {
			share := 0.01 + r.Float64() // of the vector's length
			other := slices.Clone(same)
			other[i] = slices.Clone(same[i])
			for j, v := range randomVector(r, len(same[i])) {
				other[i][j] += float32(share) * v
			}
			want := share / math.Sqrt(1+share*share)
			d, where := base.Distance(canaryOf(t, other...), 1)
			back, _ := canaryOf(t, other...).Distance(base, 1)
			if where != name || d != back || d < want/5 || d > 5*want {
				t.Errorf("%s: %v and %v, want about %v at %s", where, d, back, want, name)
			}
		}
		// one element of many
		other := slices.Clone(same)
		other[i] = slices.Clone(same[i])
		other[i][len(other[i])-1] += float32(math.Sqrt(float64(len(other[i]))))
		if d, where := base.Distance(canaryOf(t, other...), 1); d < 0.3 || where != name {
			t.Errorf("one element of %s: %v, %s", name, d, where)
		}
	}
}

func TestACanaryIsFinite(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), math.MaxFloat32} {
		if _, err := Canary(nil).Append([]float32{1, bad, 1}); !errors.Is(err, ErrValue) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// Engines that compute something else are refused, by both sides; what another processor or another quantisation changes
// is not.
func TestCanariesThatDiffer(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	ours, theirs := sampleHello, sampleHello
	ours.Model.Layers, theirs.Model.Layers = 1, 1
	theirs.Name = "shed"
	k, v, logits := randomVector(r, 64), randomVector(r, 64), randomVector(r, 1000)
	ours.Canary = canaryOf(t, k, v, logits)
	scaled := func(by float32) Canary {
		w := slices.Clone(v)
		for i := range w {
			w[i] *= by
		}
		return canaryOf(t, k, w, logits)
	}
	for _, test := range []struct {
		theirs  Canary
		weights byte
		ok      bool
	}{
		{ours.Canary, 0, true},
		{nil, 0, true},
		{scaled(1 - 0.8*canaryTolerance), 0, true},
		{scaled(1 - 1.2*canaryTolerance), 0, false},
		{scaled(1 - 0.8*canaryWeights), 1, true},
		{scaled(1 - 1.2*canaryWeights), 1, false},
		{scaled(-1), 0, false},
		{scaled(-1), 1, false},
	} {
		theirs.Canary, theirs.Model.Weights = test.theirs, ours.Model.Weights
		theirs.Model.Weights[31] += test.weights
		for _, err := range []error{ours.Compatible(theirs), theirs.Compatible(ours)} {
			switch {
			case test.ok && err != nil:
				t.Errorf("refused: %v", err)
			case !test.ok && (!errors.Is(err, ErrCanary) || !strings.Contains(err.Error(), "the V row of layer 0") || !strings.Contains(err.Error(), "shed")):
				t.Errorf("got %v", err)
			}
		}
	}
}
