package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRepeated(t *testing.T) {
	for _, c := range []struct {
		values                   []float64
		median, stdev, low, high float64
	}{
		{nil, 0, 0, 0, 0},
		{[]float64{3}, 3, 0, 3, 3},
		{[]float64{4, 2}, 3, math.Sqrt2, 2, 4},
		{[]float64{9, 1, 2}, 2, math.Sqrt(19), 1, 9},
		{[]float64{5, 5, 5, 5, 5, 5}, 5, 0, 5, 5},
	} {
		given := slices.Clone(c.values)
		low, high := Interval(given)
		if m, s := Median(given), Stdev(given); m != c.median || math.Abs(s-c.stdev) > 1e-12 || low != c.low || high != c.high {
			t.Errorf("%v: median %v, deviation %v, interval %v to %v; want %+v", c.values, m, s, low, high, c)
		}
		if !slices.Equal(given, c.values) {
			t.Errorf("%v became %v", c.values, given)
		}
	}
	if got := Ratios([]float64{2, 3, 4, 5}, []float64{1, 0, 8}); !slices.Equal(got, []float64{2, 0.5}) {
		t.Errorf("ratios %v", got)
	}
}

// The interval has the median that samples are drawn around in about 95 of 100 cases, and is always the same one for the
// same values.
func TestInterval(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	const runs = 100
	inside := 0
	for range runs {
		values := make([]float64, 15)
		for i := range values {
			values[i] = 1.9 + 0.1*random.NormFloat64()
		}
		low, high := Interval(values)
		if again, _ := Interval(values); again != low {
			t.Fatal("the same values have two intervals")
		}
		if m := Median(values); low > m || high < m || low == high {
			t.Fatalf("interval %v to %v around a median of %v", low, high, m)
		}
		if low <= 1.9 && 1.9 <= high {
			inside++
		}
	}
	if share := float64(inside) / runs; share < 0.85 || share == 1 {
		t.Errorf("%.1f %% of the intervals have the true median", 100*share)
	}
}
