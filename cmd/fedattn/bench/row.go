package bench

import (
	"slices"
	"time"

	"fedattn/fedkv/measure"
)

// Sample is one run of a test.
type Sample struct {
	Took   time.Duration
	Tokens int
	TTFTMS float64 // until the first token; 0 if the test has none
	WaitMS float64 // of that, for rows to come (gather): the contributors' prefill and the rest of their way
	SyncMS float64 // of that, placing rows; in lockstep waiting for them too
	Bytes  int64   // of rows, or of queries and answers, that came over links
	Joules float64 // 0: not known
}

// Rate is tokens a second.
func (s Sample) Rate() float64 {
	if s.Took <= 0 {
		return 0
	}
	return float64(s.Tokens) / s.Took.Seconds()
}

// Row is a test and what was measured, turn by turn.
type Row struct {
	Test
	Subject *Subject
	Backend string
	Began   time.Time
	Samples []Sample
	// Speedups are this test's rates by those of the same work on one device, in the same turns. By llama.cpp's own
	// program if it was measured. Empty for that itself.
	Speedups []float64
	// PredictedMS is what the cost model says of the time to the first token; 0: nothing.
	PredictedMS float64
}

// Subject is what all tests of a run have in common.
type Subject struct {
	Build      string // llama.cpp's commit
	CPU        string
	ModelFile  string
	ModelType  string // llama.cpp's description, such as "llama 135M Q4_1"
	ModelSize  int64  // bytes of all tensors
	Parameters int64
	Threads    int // of each device
	Batch      int
	MicroBatch int
	GPULayers  int
	CPUMask    string // of the asking device
}

// each is a figure of every sample.
func (r *Row) each(f func(Sample) float64) []float64 {
	values := make([]float64, len(r.Samples))
	for i, s := range r.Samples {
		values[i] = f(s)
	}
	return values
}

// mean is the mean of a figure over the samples; 0 if there are none.
func (r *Row) mean(f func(Sample) float64) float64 {
	mean, _ := measure.MeanSE(r.each(f))
	return mean
}

func nanoseconds(s Sample) float64 { return float64(s.Took) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// joulesPerToken is 0 if they are not known.
func (r *Row) joulesPerToken() float64 {
	return r.mean(func(s Sample) float64 { return s.Joules / float64(max(s.Tokens, 1)) })
}

// compare fills in the rows' speed-ups.
func compare(rows []*Row) {
	for _, r := range rows {
		for _, by := range []Program{LlamaCPP, Own} {
			i := slices.IndexFunc(rows, func(o *Row) bool { return o.Test == r.alone(by) && o.Subject == r.Subject })
			if i < 0 {
				continue
			}
			if rows[i] != r {
				r.Speedups = measure.Ratios(r.each(Sample.Rate), rows[i].each(Sample.Rate))
			}
			break
		}
	}
}
