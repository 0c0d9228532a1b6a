//go:build cgo

package llama

import (
	"math"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// queriesAt is what own tokens after a prefix look for if they stand at pos, [layer][token × elements], and their logits.
func queriesAt(t *testing.T, m *Model, prefix, own []fedkv.Token, pos, microBatch int, watch bool) (rows [][]float32, logits []float32) {
	t.Helper()
	c, err := m.NewContext(fedkv.CacheSpec{
		Sync: schedule(t, m, "none"), LocalCells: 256, SyncCells: 256, MicroBatch: microBatch, Outputs: len(own),
	})
	must(t, err)
	defer c.Close()
	must(t, c.Eval(prefix, 0, 0, nil))
	if pos > len(prefix) {
		must(t, c.SetNext(pos))
	}
	rows = make([][]float32, m.Layers())
	if watch {
		next := make([]int, m.Layers())
		must(t, c.SetQueryHook(func(layer, first, n, heads int, part []float32) {
			if elements := m.Shape().Layers[layer].K; len(part) != n*elements || heads < 1 || elements%heads != 0 || first != pos+next[layer] {
				t.Errorf("layer %d: %d values of %d tokens from %d, %d heads", layer, len(part), n, first, heads)
			}
			next[layer] += n
			rows[layer] = append(rows[layer], part...)
		}))
	}
	must(t, c.Eval(own, pos, len(own), nil))
	return rows, allLogits(t, c, len(own))
}

func distance(a, b []float32) float64 {
	var d, all float64
	for i, v := range a {
		d += math.Pow(float64(v-b[i]), 2)
		all += math.Pow(float64(v), 2)
	}
	return math.Sqrt(d / all)
}

// Every layer shows the queries of every token, at position 0 wherever they stand and however they are cut, and watching
// changes no bit.
func TestQueriesHaveNoPosition(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20)
	near, watched := queriesAt(t, m, prefix, own, len(prefix), 32, true)
	_, plain := queriesAt(t, m, prefix, own, len(prefix), 32, false)
	if !equalBits(watched, plain) {
		t.Error("watching changes logits")
	}
	far, _ := queriesAt(t, m, prefix, own, 200, 32, true)
	cut, _ := queriesAt(t, m, prefix, own, len(prefix), 7, true)
	for layer, rows := range near {
		elements := m.Shape().Layers[layer].K
		if len(rows) != len(own)*elements {
			t.Fatalf("layer %d shows %d values of %d tokens", layer, len(rows), len(own))
		}
		if d := distance(rows, cut[layer]); d > 0.02 {
			t.Errorf("layer %d: off by %g if the segment is cut", layer, d)
		}
	}
	// what a token looks for at the first layer depends on the token alone
	if d := distance(near[0], far[0]); d > 1e-3 {
		t.Errorf("off by %g at other positions", d)
	}
	elements := m.Shape().Layers[0].K
	token := func(i int) []float32 { return near[0][i*elements:][:elements] }
	for i := range own {
		for j := range i {
			if same := distance(token(i), token(j)) < 1e-3; same != (own[i] == own[j]) {
				t.Errorf("tokens %d and %d (%d, %d) look for the same: %v", i, j, own[i], own[j], same)
			}
		}
	}
}

func TestQueryHookIsHeldToItsRules(t *testing.T) {
	m := model(t)
	c, err := m.NewPlainContext(64, 32, 1)
	must(t, err)
	defer c.Close()
	if err := c.SetQueryHook(func(int, int, int, int, []float32) {}); err == nil || !strings.Contains(err.Error(), "not a federated one") {
		t.Error(err)
	}
	f := alone(t, m, "all", 64, 32, 1)
	defer f.Close()
	own := tokens(t, m, 3, 4)
	var inside error
	var seen []int
	must(t, f.SetQueryHook(func(layer, _, _, _ int, _ []float32) {
		inside = f.SetQueryHook(nil)
		seen = append(seen, layer)
	}))
	must(t, f.Eval(own, 0, 1, nil))
	if inside == nil || !strings.Contains(inside.Error(), "inside a hook") {
		t.Error(inside)
	}
	if want := schedule(t, m, "all").Layers(); !slices.Equal(seen, want) {
		t.Errorf("layers %v were shown", seen)
	}
	must(t, f.SetQueryHook(func(int, int, int, int, []float32) { panic("here") }))
	if err := f.Eval(own, 4, 1, nil); err == nil || !strings.Contains(err.Error(), "panic in a query hook") {
		t.Error(err)
	}
	must(t, f.SetQueryHook(nil))
	must(t, f.Eval(own, 8, 1, nil))
	if len(seen) != m.Layers() {
		t.Error("shown after the end")
	}
}
