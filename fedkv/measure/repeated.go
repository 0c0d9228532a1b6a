package measure

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Machines are busy and their clocks change. So what is compared runs in turn, A B A B, ratios are taken turn by turn, and
// what is said of them is a median and an interval.

// Median of values in any order, the mean of the two in the middle of an even number; 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return quantile(slices.Sorted(slices.Values(values)), 0.5)
}

// Stdev is the standard deviation of a sample; 0 of fewer than two values.
func Stdev(values []float64) float64 {
	_, se := MeanSE(values)
	return se * math.Sqrt(float64(len(values)))
}

// Ratios are of two lists of what was measured in the same turns, turn by turn. The longer one's rest does not count, nor
// do turns in which the divisor is 0.
func Ratios(of, to []float64) []float64 {
	var out []float64
	for i := range min(len(of), len(to)) {
		if to[i] != 0 {
			out = append(out, of[i]/to[i])
		}
	}
	return out
}

const (
	fewForBootstrap = 5 // fewer values are all that is known of how others would be
	resamples       = 2000
)

// Interval is where the median of such values is with a confidence of 95 %, by resampling them (percentile bootstrap, of
// the same seed always). Of fewer than five it is the least and the largest, and both are 0 of none.
func Interval(values []float64) (low, high float64) {
	if len(values) == 0 {
		return 0, 0
	}
	if len(values) < fewForBootstrap {
		return slices.Min(values), slices.Max(values)
	}
	random := rand.New(rand.NewPCG(1, uint64(len(values))))
	medians, sample := make([]float64, resamples), make([]float64, len(values))
	for i := range medians {
		for k := range sample {
			sample[k] = values[random.IntN(len(values))]
		}
		slices.Sort(sample)
		medians[i] = quantile(sample, 0.5)
	}
	slices.Sort(medians)
	return quantile(medians, 0.025), quantile(medians, 0.975)
}
