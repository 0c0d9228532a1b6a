//go:build cgo

package llama

import (
	"math"
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
)

// The laws of lab's analysis, on a real model: with every layer a sync layer and rows as they are, nothing that leaves
// any layer of any participant differs from one process in a single bit. Without exchange the publisher is a
// participant alone.
func TestHiddenStatesOfSessions(t *testing.T) {
	m := model(t)
	engine := &Engine{Model: m}
	p := lab.Prompt{Prefix: tokens(t, m, 1, 8), Segments: [][]fedkv.Token{tokens(t, m, 2, 40), tokens(t, m, 3, 23), tokens(t, m, 4, 17)}}
	hello := fedkv.Hello{
		Protocol: fedkv.Protocol, Name: "lab", Engine: Commit(), Types: []fedkv.Type{fedkv.F16, fedkv.Q8_0, fedkv.Q4_0},
		Model: fedkv.Fingerprint{Architecture: "llama", Layers: m.Layers()},
	}
	bench := lab.Bench{Engine: engine, Network: lab.Memory, Self: hello}
	base, err := lab.Observe(t.Context(), engine, p)
	must(t, err)
	analyze := func(contributors, publisher string) lab.Deviation {
		t.Helper()
		c := lab.Default(3)
		c.Contributors, c.Publisher, c.WireK, c.WireV, c.Positions = contributors, publisher, "f16", "f16", "inplace"
		d, err := bench.Analyze(t.Context(), c, base)
		must(t, err)
		return d
	}
	zero := make([]float64, m.Layers())
	exact := analyze("all", "all")
	if last := m.Layers() - 1; !slices.Equal(exact.Publisher, zero) || !slices.Equal(exact.Contributors[:last], zero[:last]) ||
		!math.IsNaN(exact.Contributors[last]) {
		t.Errorf("every layer a sync layer: publisher %v, contributors %v", exact.Publisher, exact.Contributors)
	}

	// by hand: the same stream of tokens in one cache, and the publisher's own in another
	offset, own := 8+40+23, p.Segments[2]
	whole := alone(t, m, "all", offset+17, 40, 17)
	defer whole.Close()
	must(t, whole.Eval(p.Prefix, 0, 0, nil))
	must(t, whole.Eval(p.Segments[0], 8, 0, nil))
	must(t, whole.Eval(p.Segments[1], 48, 0, nil))
	want := watch(t, whole)
	must(t, whole.Eval(own, offset, 17, nil))
	single := alone(t, m, "none", 8+17, 17, 17)
	defer single.Close()
	must(t, single.Eval(p.Prefix, 0, 0, nil))
	must(t, single.SetNext(offset))
	got := watch(t, single)
	must(t, single.Eval(own, offset, 17, nil))
	nothing := analyze("none", "none")
	for l := range zero {
		var difference, norm float64
		for i, w := range want.rows[l] {
			difference += math.Pow(float64(got.rows[l][i])-float64(w), 2)
			norm += math.Pow(float64(w), 2)
		}
		if d := math.Sqrt(difference / norm); math.Abs(d-nothing.Publisher[l]) > 1e-12 || d < 1e-3 {
			t.Errorf("layer %d: alone the publisher deviates by %g, in a session without exchange by %g", l, d, nothing.Publisher[l])
		}
	}
}
