//go:build cgo

package llama

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// watched records what leaves the layers: rows by layer, [tokens × embedding], in the order of positions.
type watched struct {
	first []int // position of each layer's first row
	rows  [][]float32
}

func watch(t testing.TB, c *Context) *watched {
	t.Helper()
	w := &watched{first: make([]int, c.model.Layers()), rows: make([][]float32, c.model.Layers())}
	must(t, c.SetOutputHook(func(layer, first, n int, rows []float32) {
		if len(w.rows[layer]) == 0 {
			w.first[layer] = first
		}
		w.rows[layer] = append(w.rows[layer], rows...)
	}))
	return w
}

// alone is a context in which one participant holds everything.
func alone(t testing.TB, m *Model, sync string, cells, microBatch, outputs int) *Context {
	t.Helper()
	c, err := m.NewContext(fedkv.CacheSpec{
		Sync: schedule(t, m, sync), LocalCells: cells, SyncCells: cells, MicroBatch: microBatch, Outputs: outputs,
	})
	must(t, err)
	return c
}

func TestEveryLayerShowsItsOutputAndNothingChanges(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 16), tokens(t, m, 2, 40)
	want := centralised(t, m, prefix, own)

	c := alone(t, m, "H=3", 56, 40, 40)
	defer c.Close()
	must(t, c.Eval(prefix, 0, 0, nil))
	w := watch(t, c)
	must(t, c.Eval(own, 16, 40, nil))
	if d := maxDiff(allLogits(t, c, 40), want); d != 0 {
		t.Errorf("watching changes logits by %g", d)
	}
	embedding := len(w.rows[0]) / 40
	for layer, rows := range w.rows {
		if len(rows) != 40*embedding || embedding == 0 || w.first[layer] != 16 {
			t.Errorf("layer %d: %d values from position %d, expected 40 rows of %d from 16", layer, len(rows), w.first[layer], embedding)
		}
		if layer > 0 && slices.Equal(rows, w.rows[layer-1]) {
			t.Errorf("layer %d changes nothing", layer)
		}
	}
	must(t, c.SetOutputHook(nil))
	must(t, c.Truncate(16))
	before := len(w.rows[0])
	must(t, c.Eval(own, 16, 1, nil))
	if len(w.rows[0]) != before {
		t.Error("the hook is called after it was removed")
	}
}

// Rows come once for each micro-batch, with its positions; the last layer has those of kept logits only.
func TestOutputsOfMicroBatches(t *testing.T) {
	m := model(t)
	own := tokens(t, m, 2, 50)
	c := alone(t, m, "all", 50, 20, 15)
	defer c.Close()
	var calls []string
	must(t, c.SetOutputHook(func(layer, first, n int, _ []float32) {
		if layer == 0 || layer == m.Layers()-1 {
			calls = append(calls, fmt.Sprintf("%d:[%d,+%d)", layer, first, n))
		}
	}))
	must(t, c.Eval(own, 0, 15, nil))
	if got, want := strings.Join(calls, " "), "0:[0,+20) 0:[20,+20) 29:[35,+5) 0:[40,+10) 29:[40,+10)"; got != want {
		t.Errorf("calls %s, expected %s", got, want)
	}
}

// A pass that stops shows the layers before the one at which it stops.
func TestAStoppedPassShowsTheLayersBefore(t *testing.T) {
	m := model(t)
	own := tokens(t, m, 2, 20)
	c := alone(t, m, "all", 20, 20, 1)
	defer c.Close()
	w := watch(t, c)
	must(t, c.Eval(own, 0, 0, &Hook{Layers: schedule(t, m, "7"), OnLayer: func(int, int, int) (bool, error) { return true, nil }}))
	for layer, rows := range w.rows {
		if seen := len(rows) > 0; seen != (layer < 7) {
			t.Errorf("layer %d: seen %v", layer, seen)
		}
	}
}

func TestOutputsNeedAFederatedContext(t *testing.T) {
	m := model(t)
	c, err := m.NewPlainContext(16, 16, 1)
	must(t, err)
	defer c.Close()
	if err := c.SetOutputHook(func(int, int, int, []float32) {}); err == nil || !strings.Contains(err.Error(), "not a federated one") {
		t.Errorf("a plain context: %v", err)
	}
}

func TestAPanicInAnOutputHookIsAnError(t *testing.T) {
	m := model(t)
	c := alone(t, m, "all", 16, 16, 1)
	defer c.Close()
	must(t, c.SetOutputHook(func(layer, _, _ int, _ []float32) {
		if err := c.SetOutputHook(nil); err == nil || !strings.Contains(err.Error(), "inside a hook") {
			t.Errorf("in a hook: %v", err)
		}
		panic("no")
	}))
	if err := c.Eval(tokens(t, m, 1, 16), 0, 1, nil); err == nil || !strings.Contains(err.Error(), "panic in an output hook: no") {
		t.Errorf("%v", err)
	}
	must(t, c.SetOutputHook(nil))
	must(t, c.Truncate(0))
	must(t, c.Eval(tokens(t, m, 1, 16), 0, 1, nil))
}
