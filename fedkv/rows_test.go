package fedkv

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRowPolicy(t *testing.T) {
	for _, test := range []struct {
		spec string
		want RowPolicy
		text string
	}{
		{"all", RowPolicy{Kind: RowsAll}, "all"},
		{"random=0.5", RowPolicy{Kind: RowsRandom, Shares: []Share{5000}}, "random=0.5"},
		{"layer-random=1", RowPolicy{Kind: RowsLayerRandom, Shares: []Share{10000}}, "layer-random=1"},
		{"recent=.25", RowPolicy{Kind: RowsRecent, Shares: []Share{2500}}, "recent=0.25"},
		{"random=0.5:0.25:1", RowPolicy{Kind: RowsRandom, Shares: []Share{5000, 2500, 10000}}, "random=0.5:0.25:1"},
		{"norm=0.00001", RowPolicy{Kind: RowsNorm, Shares: []Share{1}}, "norm=0.0001"},
		{"diverse=0.1", RowPolicy{Kind: RowsDiverse, Shares: []Share{1000}}, "diverse=0.1"},
		{"query=0.5", RowPolicy{Kind: RowsQuery, Shares: []Share{5000}}, "query=0.5"},
		{"private=0.3333", RowPolicy{Kind: RowsPrivate, Shares: []Share{3333}}, "private=0.3333"},
	} {
		got, err := ParseRowPolicy(test.spec)
		if err != nil || got.Kind != test.want.Kind || !slices.Equal(got.Shares, test.want.Shares) || got.String() != test.text {
			t.Errorf("%q: %+v, %v", test.spec, got, err)
		}
		if again, err := ParseRowPolicy(got.String()); err != nil || again.String() != got.String() {
			t.Errorf("%q: %v reads back as %v, %v", test.spec, got, again, err)
		}
	}
	for _, spec := range []string{
		"", "some", "all=1", "all=", "random", "random=", "random=0", "random=1.5", "random=-1", "random=x", "random=NaN", "random=1e-1",
		"random=0.5:", "random=0.5:2", "private=0.5", "private=0.1:0.4", "query", "random=0x1p-1",
	} {
		if p, err := ParseRowPolicy(spec); !errors.Is(err, ErrPlan) {
			t.Errorf("%q: %+v, %v", spec, p, err)
		}
	}
	if (RowPolicy{}).Validate() != nil || (RowPolicy{}).String() != "all" || (RowPolicy{}).Of(3).Kind != RowsAll {
		t.Error("the zero policy is not all")
	}
	for name, p := range map[string]RowPolicy{
		"a kind of the future": {Kind: 9, Shares: []Share{1}},
		"no shares":            {Kind: RowsRandom},
		"no kind":              {Shares: []Share{1}},
		"shares of all":        {Kind: RowsAll, Shares: []Share{1}},
		"a share of nothing":   {Kind: RowsRandom, Shares: []Share{0}},
		"a share above all":    {Kind: RowsRandom, Shares: []Share{10001}},
		"too many layers":      {Kind: RowsRandom, Shares: []Share{1}, Layers: make([]Share, MaxLayers+1)},
		"too many origins":     {Kind: RowsRandom, Shares: slices.Repeat([]Share{1}, MaxParticipants)},
	} {
		if err := p.Validate(); !errors.Is(err, ErrPlan) {
			t.Errorf("%s is valid", name)
		}
	}
}

func TestShareOfAContributorAndALayer(t *testing.T) {
	p := RowPolicy{Kind: RowsRandom, Shares: []Share{5000, 100}, Layers: []Share{WholeShare, 5000, 1}}
	for origin, want := range [][]Share{{5000, 2500, 1}, {100, 50, 1}, {100, 50, 1}} {
		s := p.Of(origin)
		if !slices.Equal(s.Shares, want) || s.validateFor(3) != nil || s.validateFor(4) == nil {
			t.Errorf("origin %d: %v, want %v", origin, s.Shares, want)
		}
	}
}

// drawSelection is any selection that is not all rows.
func drawSelection(t *rapid.T) Selection {
	s := Selection{
		Kind: rapid.SampledFrom([]RowKind{RowsRandom, RowsLayerRandom, RowsRecent, RowsNorm, RowsDiverse, RowsQuery, RowsPrivate}).Draw(t, "kind"),
		Seed: rapid.Uint64().Draw(t, "seed"),
	}
	most := 10000
	if s.Kind == RowsPrivate {
		most = 3333
	}
	for range rapid.SampledFrom([]int{1, 3}).Draw(t, "shares") {
		s.Shares = append(s.Shares, Share(rapid.IntRange(1, most).Draw(t, "share")))
	}
	return s
}

func marked(keep []bool) (rows []int) {
	for i, k := range keep {
		if k {
			rows = append(rows, i)
		}
	}
	return rows
}

// However a segment is cut, the share of it is kept, at least one row; and kinds that look at no keys keep the same
// rows.
func TestSelectLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSelection(t)
		if err := s.validateFor(3); err != nil {
			t.Fatal(err)
		}
		const elements = 4
		tokens := rapid.IntRange(1, 60).Draw(t, "tokens")
		keys := gaussians(s.Seed, tokens, elements)
		query := Query{Heads: 2, Vectors: gaussians(s.Seed+1, 2, elements)}
		fixed := map[int][]int{}
		for layer := range 3 {
			whole := s.Select(layer, tokens, 0, tokens, keys, query)
			var parts []bool
			for first := 0; first < tokens; {
				n := rapid.IntRange(1, tokens-first).Draw(t, "n")
				part := s.Select(layer, tokens, first, n, keys[first*elements:][:n*elements], query)
				if part == nil {
					part = slices.Repeat([]bool{true}, n)
				}
				parts = append(parts, part...)
				first += n
			}
			share := s.share(layer)
			if whole == nil {
				whole = slices.Repeat([]bool{true}, tokens)
				if share != WholeShare {
					t.Fatal("all rows are kept of a part")
				}
			}
			want := max(1, int(math.Floor(float64(share)*float64(tokens)/10000+0.5)))
			if s.Kind == RowsPrivate {
				want = min(want, (tokens+2)/3)
			}
			for name, keep := range map[string][]bool{"whole": whole, "parts": parts} {
				if len(keep) != tokens || len(marked(keep)) != want {
					t.Fatalf("%s: %v of %d rows, want %d", name, marked(keep), tokens, want)
				}
			}
			if !s.NeedsKeys() && !slices.Equal(whole, parts) {
				t.Fatalf("cut, %v instead of %v", marked(parts), marked(whole))
			}
			fixed[layer] = marked(whole)
		}
		// A fixed subset: layers with a smaller share see a part of what those with a larger one see.
		if s.Kind == RowsRandom || s.Kind == RowsPrivate {
			largest := slices.MaxFunc([]int{0, 1, 2}, func(a, b int) int { return len(fixed[a]) - len(fixed[b]) })
			for layer, rows := range fixed {
				for i, row := range rows {
					if !slices.Contains(fixed[largest], row) {
						t.Fatalf("layer %d keeps row %d, layer %d does not", layer, row, largest)
					}
					if s.Kind == RowsPrivate && i > 0 && row-rows[i-1] < 3 {
						t.Fatalf("neighbours %d and %d", rows[i-1], row)
					}
				}
			}
		}
	})
}

func TestSelectKeepsWhatItsKindSays(t *testing.T) {
	keys := []float32{3, 0, 0.1, 0, -1, 0, 2, 0.2, 5, 0}
	for _, test := range []struct {
		kind RowKind
		n    int
		want []int
	}{
		{RowsNorm, 5, []int{1, 2}},
		{RowsDiverse, 5, []int{2, 3}}, // one points backwards, one a little aside
		{RowsRecent, 10, []int{0, 1, 8, 9}},
		{RowsRecent, 40, []int{0, 1, 2, 3, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39}},
		{RowsRecent, 2, []int{1}},
	} {
		s := Selection{Kind: test.kind, Shares: []Share{4000}}
		if got := marked(s.Select(0, test.n, 0, test.n, keys, Query{})); !slices.Equal(got, test.want) {
			t.Errorf("%v of %d rows: %v, want %v", test.kind, test.n, got, test.want)
		}
	}
}

// Seeds and, where the kind says so, layers make a difference; nothing else does.
func TestSelectDrawsByItsSeed(t *testing.T) {
	rows := func(kind RowKind, seed uint64, layer int) []int {
		return marked(Selection{kind, seed, []Share{2000}}.Select(layer, 100, 0, 100, nil, Query{}))
	}
	for _, kind := range []RowKind{RowsRandom, RowsLayerRandom, RowsPrivate} {
		if !slices.Equal(rows(kind, 1, 0), rows(kind, 1, 0)) || slices.Equal(rows(kind, 1, 0), rows(kind, 2, 0)) {
			t.Errorf("%v does not follow its seed", kind)
		}
		if same := slices.Equal(rows(kind, 1, 0), rows(kind, 1, 1)); same != (kind != RowsLayerRandom) {
			t.Errorf("%v: two layers have the same rows: %v", kind, same)
		}
	}
	// Every row has its chance.
	seen := map[int]int{}
	for seed := range uint64(400) {
		for _, row := range rows(RowsPrivate, seed, 0) {
			seen[row]++
		}
	}
	for row := range 100 {
		if seen[row] < 40 || seen[row] > 160 {
			t.Errorf("private keeps row %d in %d of 400 sessions, 80 would be its share", row, seen[row])
		}
	}
}
