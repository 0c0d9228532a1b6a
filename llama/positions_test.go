//go:build cgo

package llama

import (
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node/lab"
)

// What it costs to evaluate segments right after the prefix and to rotate their K rows to where they stand, against
// evaluating them there: for RoPE on neighbours (SmolLM2) and on halves of a head with two frequencies (Gemma 3).
func TestCanonicalPositionsAgainstTrueOnes(t *testing.T) {
	for name, load := range map[string]func(testing.TB) *Model{"norm": model, "neox, windows": window} {
		t.Run(name, func(t *testing.T) {
			m := load(t)
			p := lab.Prompt{Prefix: tokens(t, m, 1, 16)}
			for i := range 4 {
				p.Segments = append(p.Segments, tokens(t, m, uint64(2+i), 40))
			}
			schedules, err := fedkv.ParseSchedules("gather", m.Layers())
			must(t, err)
			hello := fedkv.Hello{
				Protocol: fedkv.Protocol, Name: "lab", Engine: Commit(), Types: []fedkv.Type{fedkv.F16, fedkv.Q8_0, fedkv.Q4_0},
				Model: fedkv.Fingerprint{Architecture: "llama", Layers: m.Layers()},
			}
			run := func(at fedkv.Positions) []float32 {
				r, err := lab.Run(t.Context(), &Engine{Model: m}, lab.Memory, hello, p, lab.Setting{
					Schedules: schedules, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, m.Layers()),
					Positions: at, Timeout: 5 * time.Minute,
				})
				must(t, err)
				return r.Logits
			}
			r, err := measure.Compare(run(fedkv.InPlace), run(fedkv.Canonical), m.Vocabulary(), p.Own())
			must(t, err)
			t.Logf("KL of canonical against true positions: %.4f ± %.4f", r.KLMean, r.KLMeanSE)
			// other neighbours before a segment cost as much as gather itself does; a wrong rotation costs whole nats
			if !(r.KLMean > 0 && r.KLMean < 0.3) {
				t.Errorf("KL %.4f", r.KLMean)
			}
		})
	}
}
