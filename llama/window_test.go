//go:build cgo

package llama

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"fedattn/fedkv"
)

// windowModel loads a model of which most layers attend to a sliding window of 512 tokens.
var windowModel = sync.OnceValues(func() (*Model, error) {
	path := os.Getenv("FEDATTN_TEST_WINDOW_MODEL")
	if path == "" {
		path = filepath.Join("..", "models", "gemma-3-270m-q4_k_m.gguf")
	}
	return Load(path, ModelParams{Threads: 1})
})

func window(t testing.TB) *Model {
	t.Helper()
	m, err := windowModel()
	if err != nil {
		t.Fatalf("the model with sliding windows is missing (`make models` brings it): %v", err)
	}
	return m
}

// The stream is longer than the window: the last segment's first tokens see neither the prefix nor the beginning of
// the first segment at most layers.
func TestLockstepWithSlidingWindowsIsBitIdenticalToOneProcess(t *testing.T) {
	m := window(t)
	prefix := tokens(t, m, 1, 16)
	segments := [][]fedkv.Token{tokens(t, m, 2, 300), tokens(t, m, 3, 290), tokens(t, m, 4, 40)}
	want := centralised(t, m, append([][]fedkv.Token{prefix}, segments...)...)
	got, _ := lockstep(t, m, f16, schedule(t, m, "all"), prefix, segments...)
	if d := maxDiff(got, want); d != 0 {
		t.Errorf("max |Δ logit| = %g, want 0", d)
	}
}

// Layers with and without a window turn K by different angles; each by its own rule.
func TestRowsOfEveryLayerKindAreRotatedByTheirOwnRule(t *testing.T) {
	m := window(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20)
	const shift = 100
	canonical := contributor(t, m, prefix, own, len(prefix))
	there := publisher(t, m, prefix, 200)
	for layer := range m.Layers() {
		rows, err := canonical.AppendRows(nil, layer, fedkv.Span(len(prefix), len(own)), f16)
		must(t, err)
		must(t, there.WriteRows(layer, fedkv.Span(len(prefix)+shift, len(own)), shift, f16, rows))
		moved, err := there.AppendRows(nil, layer, fedkv.Span(len(prefix)+shift, len(own)), f16)
		must(t, err)
		// back again: the rotation's inverse, but for rounding to f16
		must(t, there.WriteRows(layer, fedkv.Span(len(prefix), len(own)), -shift, f16, moved))
		back, err := there.AppendRows(nil, layer, fedkv.Span(len(prefix), len(own)), f16)
		must(t, err)
		k, _, err := m.Shape().Layers[layer].BlockSize(f16, len(own))
		must(t, err)
		before, after := floats(t, fedkv.F16, rows[:k], m.Shape().Layers[layer].K), floats(t, fedkv.F16, back[:k], m.Shape().Layers[layer].K)
		if d := maxDiff(after, before); d > largest(before)*0x1p-9 {
			t.Errorf("layer %d: max |Δ K| = %g after a rotation there and back", layer, d)
		}
	}
	// layer 0 depends on token and position only, so the two kinds can be held to rows evaluated in place there
	inPlace := contributor(t, m, prefix, own, len(prefix)+shift)
	want, err := inPlace.AppendRows(nil, 0, fedkv.Span(len(prefix)+shift, len(own)), f16)
	must(t, err)
	got, err := there.AppendRows(nil, 0, fedkv.Span(len(prefix)+shift, len(own)), f16)
	must(t, err)
	k, _, err := m.Shape().Layers[0].BlockSize(f16, len(own))
	must(t, err)
	g, w := floats(t, fedkv.F16, got[:k], m.Shape().Layers[0].K), floats(t, fedkv.F16, want[:k], m.Shape().Layers[0].K)
	if d := maxDiff(g, w); d > largest(w)*0x1p-9 {
		t.Errorf("layer 0: max |Δ K| = %g between rotated and in place", d)
	}
}

// Without the window's own cache split like the other one, local layers would see remote tokens.
func TestLocalWindowLayersDoNotSeeOthers(t *testing.T) {
	m := window(t)
	prefix, a, b := tokens(t, m, 1, 16), tokens(t, m, 2, 60), tokens(t, m, 3, 30)
	alone := func(spec string) ([]float32, Memory) {
		return lockstep(t, m, f16, schedule(t, m, spec), prefix, a, b)
	}
	everything := centralised(t, m, prefix, a, b)
	for _, spec := range []string{"none", "5,11,17"} {
		got, mem := alone(spec)
		if d := maxDiff(got, everything); d < 0.1 {
			t.Errorf("%s: max |Δ logit| = %g: local layers see others", spec, d)
		}
		if want := len(prefix) + len(b); mem.LocalUsed != want {
			t.Errorf("%s: %d local cells in use, want %d", spec, mem.LocalUsed, want)
		}
	}
}

func largest(v []float32) float64 { return maxDiff(v, make([]float32, len(v))) }
