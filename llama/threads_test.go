//go:build cgo

package llama

import (
	"errors"
	"testing"
)

// Threads change in the middle of a context's life, and what it evaluates does not.
func TestUseThreads(t *testing.T) {
	m := model(t)
	defer m.UseThreads(m.Threads())
	c, next := federated(t, m, "H=3")
	want := nextLogits(t, c, 42, next)
	c, next = federated(t, m, "H=3")
	m.UseThreads(1)
	if d := maxDiff(nextLogits(t, c, 42, next), want); !(d < 0.05) || c.inUse != 1 {
		t.Errorf("with %d threads from now on: max |Δ logit| = %g", c.inUse, d)
	}
	for n, used := range map[int]int32{-1: 1, 0: 1, 1: 1, 100 * m.Threads(): int32(m.Threads())} {
		if m.UseThreads(n); m.inUse.Load() != used {
			t.Errorf("told to use %d threads, it uses %d", n, m.inUse.Load())
		}
	}
}

func TestGPULayersWithoutAGPU(t *testing.T) {
	m, err := Load(model(t).Path(), ModelParams{GPULayers: 99})
	if err == nil {
		m.Close()
		t.Skip("this build has a GPU")
	}
	if !errors.Is(err, ErrNoGPU) {
		t.Errorf("without a GPU: %v", err)
	}
}
