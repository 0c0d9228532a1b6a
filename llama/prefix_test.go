//go:build cgo

package llama

import (
	"slices"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node/lab"
)

// A session that begins with the copy of a prefix is the one that evaluates it, bit for bit, and the oracle holds: lockstep
// at every layer with f16 rows is one process.
func TestASessionWithAKeptPrefixIsTheSame(t *testing.T) {
	for name, load := range map[string]func(testing.TB) *Model{"norm": model, "neox, windows": window} {
		t.Run(name, func(t *testing.T) {
			m := load(t)
			p := lab.Prompt{Prefix: tokens(t, m, 1, 16)}
			for i, n := range []int{24, 9, 12} {
				p.Segments = append(p.Segments, tokens(t, m, uint64(2+i), n))
			}
			hello := fedkv.Hello{
				Protocol: fedkv.Protocol, Name: "lab", Engine: Commit(), Types: []fedkv.Type{fedkv.F16, fedkv.Q8_0, fedkv.Q4_0},
				Model: fedkv.Fingerprint{Architecture: "llama", Layers: m.Layers()},
			}
			for _, c := range []struct {
				spec  string
				types fedkv.WireTypes
				at    fedkv.Positions
			}{
				{"lockstep", f16, fedkv.InPlace},
				{"gather", fedkv.WireTypes{K: fedkv.Q8_0 | fedkv.Centred, V: fedkv.Q4_0}, fedkv.Canonical},
				{"contributors=none;publisher=2-", f16, fedkv.Canonical},
			} {
				schedules, err := fedkv.ParseSchedules(c.spec, m.Layers())
				must(t, err)
				engine := &Engine{Model: m}
				run := func() []float32 {
					r, err := lab.Run(t.Context(), engine, lab.Memory, hello, p, lab.Setting{
						Schedules: schedules, Wire: fedkv.Uniform(c.types, m.Layers()), Positions: c.at, Timeout: 5 * time.Minute,
					})
					must(t, err)
					return r.Logits
				}
				first, second := run(), run()
				if !slices.Equal(first, second) {
					r, err := measure.Compare(first, second, m.Vocabulary(), p.Own())
					must(t, err)
					t.Errorf("%s: KL %g after a copy", c.spec, r.KLMean)
				}
				if c.spec != "lockstep" {
					continue
				}
				alone, err := lab.Centralised(t.Context(), engine, p, true)
				must(t, err)
				if !slices.Equal(second, alone) {
					t.Errorf("%s: not one process", c.spec)
				}
			}
		})
	}
}

// A cache that begins with a copy has evaluated nothing, and knows whether rows can be rotated.
func TestACopyKnowsWhetherRowsRotate(t *testing.T) {
	m := model(t)
	engine := &Engine{Model: m}
	spec := fedkv.CacheSpec{Sync: schedule(t, m, "all"), LocalCells: 64, SyncCells: 64, MicroBatch: 8, Outputs: 1}
	open := func() cache {
		c, err := engine.Open(spec)
		must(t, err)
		t.Cleanup(func() { must(t, c.Close()) })
		return c.(cache)
	}
	first, second := open(), open()
	must(t, first.Eval(tokens(t, m, 1, 4), 0, 0, nil))
	if second.CanShift() == nil {
		t.Error("nothing was evaluated, and it knows")
	}
	state, err := first.State()
	must(t, err)
	must(t, second.SetState(state))
	must(t, second.CanShift())
	memory, err := second.Memory()
	must(t, err)
	if memory.SyncUsed != 4 {
		t.Errorf("%d cells in use", memory.SyncUsed)
	}
}
