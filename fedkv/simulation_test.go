package fedkv_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
)

// simulation is a session of 2 to 8 participants that follows from a seed, in which deliveries are lost, blocks come twice
// and in any order, contributors are cut off and die.
func simulation(t testing.TB, seed uint64) fedkvtest.Federation {
	r := rand.New(rand.NewPCG(seed, 5))
	specs := []string{"gather", "lockstep", "H=2", "contributors=none;publisher=1-4", "contributors=2-;publisher=all", "contributors=0-3;publisher=2-"}
	f := federation(t, specs[r.IntN(len(specs))])
	f.Segments, f.Batch = nil, r.IntN(4)
	if r.IntN(3) == 0 {
		f.Model = sliding
	}
	if f.Schedules.Regime() == fedkv.Gather && r.IntN(2) == 0 {
		f.Positions = fedkv.Canonical
	}
	participants := 2 + r.IntN(7)
	for range participants {
		f.Segments = append(f.Segments, text(r.IntN(1000), 1+r.IntN(5)))
	}
	loss, repeats := 0.3*r.Float64(), 0.5*r.Float64()
	f.Loses = func() bool { return r.Float64() < loss }
	f.Repeats = func() bool { return r.Float64() < repeats }
	f.Choose = func(n int) int { return r.IntN(n) }
	f.Dies = map[int]int{}
	for i := range participants - 1 {
		switch r.IntN(5) {
		case 0:
			f.Dies[i] = r.IntN(12)
		case 1:
			from := r.IntN(60)
			f.Partitions = append(f.Partitions, fedkvtest.Partition{Contributor: i, From: from, To: from + 1 + r.IntN(60)})
		}
	}
	return f
}

// simulated is the outcome of a seed, and the hash of all that happened.
func simulated(t testing.TB, seed uint64) (f fedkvtest.Federation, result *fedkvtest.Result, hash string, err error) {
	f = simulation(t, seed)
	sum := sha256.New()
	f.Trace = func(line string) { fmt.Fprintln(sum, line) }
	result, err = f.Run()
	fmt.Fprint(sum, err)
	if err == nil {
		for _, row := range result.Logits {
			for _, v := range row {
				fmt.Fprintf(sum, "%x ", math.Float64bits(v))
			}
		}
	}
	return f, result, hex.EncodeToString(sum.Sum(nil)), err
}

// law is what a session's logits have to be: in gather those of a session without the missing in which nothing goes wrong,
// in lockstep those of one pass with the columns of the missing hidden from where they went missing.
func law(f fedkvtest.Federation, r *fedkvtest.Result) ([][]float64, error) {
	if f.Schedules.Regime() == fedkv.Lockstep {
		l := r.Committed
		var tokens []fedkv.Token
		tokens = append(tokens, f.Prefix...)
		for _, s := range l.Segments {
			tokens = append(tokens, f.Segments[s.Origin]...)
		}
		return f.Model.Run(tokens, func(layer, q, k int) bool {
			to, _ := l.Owner(q)
			from, _ := l.Owner(k)
			hidden := slices.ContainsFunc(r.Hidden, func(h fedkvtest.Hidden) bool {
				return h.Receiver == to && h.Origin == from && layer >= h.Layer
			})
			return !hidden && fedkv.Visible(l, f.Schedules, f.Local, f.Model.Shape(), layer, q, k)
		})[len(tokens)-len(f.Segments[len(f.Segments)-1]):], nil
	}
	calm := f
	calm.Dies, calm.Choose, calm.Loses, calm.Repeats, calm.Partitions, calm.Trace = nil, nil, nil, nil, nil, nil
	if f.Positions == fedkv.InPlace { // the missing leave a gap: the same faults, and nothing else
		calm.Dies = f.Dies
	} else {
		calm.Segments = nil
		for i, s := range f.Segments {
			if !slices.ContainsFunc(r.Missing, func(m fedkv.Missing) bool { return m.Origin == i }) {
				calm.Segments = append(calm.Segments, s)
			}
		}
	}
	want, err := calm.Run()
	if err != nil {
		return nil, err
	}
	return want.Logits, nil
}

// Whatever the network does, a session is what its laws say, and the same seed gives the same events.
// FEDATTN_T5_N is how many (make test-faults, make test-release).
func TestSimulations(t *testing.T) {
	trials := fedkvtest.NewTrials(t, "T5", 60)
	lost, repeated, died, cut := 0, 0, 0, 0
	for i := range trials.N {
		seed := trials.Seed + uint64(i)
		f, result, hash, err := simulated(t, seed)
		fired := false
		if result != nil {
			lost, repeated, died, cut = lost+result.Lost, repeated+result.Repeated, died+len(result.Missing), cut+len(f.Partitions)
			fired = result.Lost+result.Repeated+len(result.Missing)+len(f.Partitions) > 0
		}
		if err == nil {
			var want [][]float64
			if want, err = law(f, result); err == nil && !slices.EqualFunc(want, result.Logits, slices.Equal[[]float64]) {
				err = fmt.Errorf("the logits are not the law's; missing: %v", result.Missing)
			}
		}
		if _, _, again, _ := simulated(t, seed); err == nil && again != hash {
			err = fmt.Errorf("another trace: %s and %s", hash, again)
		}
		trials.Run(t, "a simulation", fired, err)
	}
	trials.Note("%d deliveries lost, %d blocks repeated, %d contributors missing, %d partitions", lost, repeated, died, cut)
	trials.Report(t)
}
