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
// evaluating them there, for each rule of RoPE that can be had from the two test models: on neighbours (SmolLM2), on halves
// of a head with two frequencies (Gemma 3), with positions scaled linearly, and by YaRN, which scales rows, too.
func TestCanonicalPositionsAgainstTrueOnes(t *testing.T) {
	const factor = 0.5
	for _, c := range []struct {
		model, rope string
		load        func(testing.TB) *Model
		as          ModelParams
		segments, n int // the last segment is the publisher's; of n tokens each
	}{
		{"SmolLM2-135M", "norm", model, ModelParams{}, 4, 40},
		{"SmolLM2-135M", "norm, linear scaling", model, ModelParams{ropeScale: factor}, 3, 16},
		{"SmolLM2-135M", "norm, YaRN", model, ModelParams{ropeScale: factor, yarnFrom: 64}, 3, 16},
		{"gemma-3-270m", "neox, windows", window, ModelParams{}, 4, 40},
		{"gemma-3-270m", "neox, windows, YaRN", window, ModelParams{ropeScale: factor, yarnFrom: 64}, 3, 16},
	} {
		t.Run(c.model+" "+c.rope, func(t *testing.T) {
			m := c.load(t)
			if c.as != (ModelParams{}) { // a model of its own: a context with YaRN changes what its model was trained for
				var err error
				m, err = Load(m.path, ModelParams{Threads: 1, ropeScale: c.as.ropeScale, yarnFrom: c.as.yarnFrom})
				must(t, err)
				defer m.Close()
			}
			p := lab.Prompt{Prefix: tokens(t, m, 1, 16)}
			for i := range c.segments {
				p.Segments = append(p.Segments, tokens(t, m, uint64(2+i), c.n))
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
			t.Logf("%s, RoPE %s: KL of canonical against true positions %.4f ± %.4f", c.model, c.rope, r.KLMean, r.KLMeanSE)
			// other neighbours before a segment cost as much as gather itself does; a wrong rotation costs whole nats
			if !(r.KLMean > 0 && r.KLMean < 0.3) {
				t.Errorf("KL %.4f", r.KLMean)
			}
		})
	}
}
