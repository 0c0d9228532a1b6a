package profile

import (
	"math"

	"fedattn/fedkv"
)

// Expect is the KL divergence that a session with this setting is expected to have, or false if nothing like it was
// measured: a preset's own, or what a rung of a ladder has above the rung that is as large as the preset. A setting with
// a preset's schedules and rows that are nowhere smaller has at most the preset's, which then stands for it. What was measured
// had Source.Participants participants, and texts that were cut into pieces; separate documents lose less.
func (p *Profile) Expect(s Setting) (kld float64, ok bool) {
	for _, preset := range p.Presets {
		have, err := preset.Setting(p.Model.Layers)
		if err != nil || have.Schedules != s.Schedules {
			continue
		}
		switch {
		case have.Wire == s.Wire:
			return preset.KLD, true
		case bits(have.Wire, s.Wire) && (!ok || preset.KLD < kld):
			kld, ok = preset.KLD, true
		}
	}
	if ok {
		return kld, true
	}
	for _, regime := range []fedkv.Regime{fedkv.Gather, fedkv.Lockstep} {
		for n, step := range p.ladder(regime).Steps {
			if step.KLD == nil {
				continue
			}
			if rung, err := p.Rung(regime, n+1); err == nil && rung == s {
				return p.above(regime, *step.KLD), true
			}
		}
	}
	return 0, false
}

// above puts a figure of a ladder, which was measured on the profile's windows, on the scale of the presets.
func (p *Profile) above(regime fedkv.Regime, kld float64) float64 {
	preset, found := p.Preset(regime.String())
	if !found {
		return kld
	}
	ladder := p.ladder(regime)
	same, nearest := ladder.KLD, math.Abs(ladder.BytesPerToken-preset.BytesPerToken)
	for _, step := range ladder.Steps {
		if off := math.Abs(step.BytesPerToken - preset.BytesPerToken); step.KLD != nil && off < nearest {
			same, nearest = *step.KLD, off
		}
	}
	return preset.KLD + math.Max(0, kld-same)
}

// bits reports whether no row of wire has fewer bits than one of least has.
func bits(least, wire fedkv.Wire) bool {
	for l := range least.Len() {
		for _, of := range [][2]fedkv.Type{{least.At(l).K, wire.At(l).K}, {least.At(l).V, wire.At(l).V}} {
			const elements = 32 // of a group
			a, err1 := of[0].RowSize(elements)
			b, err2 := of[1].RowSize(elements)
			// more bits make up for a transform that is left out, but not fewer or as many
			if err1 != nil || err2 != nil || b < a || b == a && of[0] != of[1] {
				return false
			}
		}
	}
	return true
}

// Measured are the numbers of the steps of a ladder after which a setting was measured.
func (p *Profile) Measured(regime fedkv.Regime) (steps []int) {
	for n, step := range p.ladder(regime).Steps {
		if step.KLD != nil {
			steps = append(steps, n+1)
		}
	}
	return steps
}
