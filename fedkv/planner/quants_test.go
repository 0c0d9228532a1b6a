package planner

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestQuants(t *testing.T) {
	all, err := Quants()
	if err != nil || len(all) < 8 {
		t.Fatalf("%d quantisations, %v", len(all), err)
	}
	for i, k := range all {
		if k.Name == "" || k.Bits <= 0 || k.Prefill <= 0 || k.Decode <= 0 || k.KLD < 0 {
			t.Errorf("%+v", k)
		}
		if i > 0 && (k.Bits >= all[i-1].Bits || k.KLD <= all[i-1].KLD) {
			t.Errorf("%s is out of order", k.Name)
		}
	}
	some, err := QuantsNamed([]string{"q4_k_m", " Q8_0", "Q4_K_M"})
	if err != nil || len(some) != 2 || some[0].Name != "Q4_K_M" {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := QuantsNamed([]string{"Q9"}); err == nil {
		t.Error("Q9 is known")
	}
}

// The search finds what trying everything finds.
func TestAssignFindsTheBest(t *testing.T) {
	all, err := Quants()
	if err != nil {
		t.Fatal(err)
	}
	list := candidates(t, eight())
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 2).Draw(t, "contributors")
		var tokens []int
		for range n {
			tokens = append(tokens, rapid.IntRange(10, 400).Draw(t, "tokens"))
		}
		q := asked(append(tokens, 20)...)
		for i := range q.Case.Participants {
			p := &q.Case.Participants[i]
			p.Speed = speed(rapid.Float64Range(20, 500).Draw(t, "rate"))
			p.Model.Weights = 1e9
			p.Speed.Watts = 5
			q.Memory = append(q.Memory, int64(rapid.Float64Range(5e8, 2e9).Draw(t, "memory")))
		}
		quants := []Quant{all[5], all[rapid.IntRange(0, 4).Draw(t, "better")], all[rapid.IntRange(6, 9).Draw(t, "worse")]}
		some := []Candidate{list[0], list[rapid.IntRange(1, len(list)-1).Draw(t, "another")]}
		if rapid.IntRange(0, 9).Draw(t, "text") == 0 {
			q.Text = rapid.IntRange(1, 300).Draw(t, "shared")
		}
		var l Limits
		if rapid.Bool().Draw(t, "deadline") {
			l.Deadline = time.Duration(rapid.Float64Range(0.5, 20).Draw(t, "seconds") * float64(time.Second))
		}
		if rapid.Bool().Draw(t, "energy") {
			l.Joules = rapid.Float64Range(5, 400).Draw(t, "joules")
		}
		if rapid.Bool().Draw(t, "bytes") {
			l.Bytes = int64(rapid.IntRange(10_000, 1_000_000).Draw(t, "budget"))
		}
		if rapid.Bool().Draw(t, "quality") {
			l.KLD = rapid.Float64Range(0.01, 0.5).Draw(t, "max-kld")
		}
		got, found, err := q.Assign(some, quants, l)
		if err != nil {
			t.Fatal(err)
		}
		want, exists := exhaustive(t, q, some, quants, l)
		if found != exists || !got.Proved {
			t.Fatalf("found %v, want %v; proved %v", found, exists, got.Proved)
		}
		if !found {
			return
		}
		if l.KLD > 0 && got.Cost.TTFT != want.Cost.TTFT || l.KLD == 0 && (got.Measured != want.Measured || got.Measured && math.Abs(got.KLD-want.KLD) > 1e-12) {
			t.Fatalf("%v: %v, %g; want %v, %g", got.Quants, got.Cost.TTFT, got.KLD, want.Cost.TTFT, want.KLD)
		}
		if l.broken(got.Option) != "" || len(got.Quants) != n+1 || slices.Contains(got.Quants, "") {
			t.Fatalf("%v breaks a limit: %s", got.Quants, l.broken(got.Option))
		}
	})
}

func exhaustive(t *rapid.T, q Question, candidates []Candidate, quants []Quant, l Limits) (best Option, found bool) {
	s := search{Question: q, quants: quants, limits: l}
	splits := []Split{Documents}
	if q.Text > 0 {
		splits = []Split{Alone, Even, BySpeed}
	}
	n := len(q.Case.Participants)
	for _, c := range candidates {
		for _, split := range splits {
			for code := range int(math.Pow(float64(len(quants)), float64(n))) {
				var chosen []Quant
				for range n {
					chosen = append(chosen, quants[code%len(quants)])
					code /= len(quants)
				}
				o, err := s.with(c, split, chosen)
				if err != nil {
					t.Fatal(err)
				}
				if l.broken(o) == "" && (!found || better(o, best, l.KLD > 0)) {
					best, found = o, true
				}
			}
		}
	}
	return best, found
}
