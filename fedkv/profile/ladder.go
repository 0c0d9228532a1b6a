package profile

import (
	"fmt"

	"fedattn/fedkv"
)

// Ladder is a way from good to small: the setting that it starts with, and savings in the order in which they are made,
// the one that buys a byte for the least KL divergence first.
type Ladder struct {
	Wire          string  `json:"wire"`            // of every layer at the start, where all are the publisher's sync layers
	BytesPerToken float64 `json:"bytes_per_token"` // at the start
	KLD           float64 `json:"kld"`             // at the start
	Steps         []Step  `json:"steps"`
}

// Step is one saving at one layer: other wire types, or none, which makes it a local layer.
type Step struct {
	Layer         int      `json:"layer"`
	Types         string   `json:"types,omitempty"` // K/V; empty: the layer is left out
	BytesPerToken float64  `json:"bytes_per_token"` // that the publisher receives after the step
	KLD           *float64 `json:"kld,omitempty"`   // where it was measured
}

// at is the publisher's schedule and the wire types after the first n steps.
func (l Ladder) at(n, layers int) (fedkv.Schedule, fedkv.Wire, error) {
	if l.Wire == "" {
		return fedkv.Schedule{}, fedkv.Wire{}, nil
	}
	wire, err := fedkv.ParseWire(l.Wire, layers)
	if err != nil {
		return fedkv.Schedule{}, wire, err
	}
	out := map[int]bool{}
	for _, s := range l.Steps[:n] {
		if s.Layer < 0 || s.Layer >= layers {
			return fedkv.Schedule{}, wire, fmt.Errorf("a step at layer %d of %d", s.Layer, layers)
		}
		if s.Types == "" {
			out[s.Layer] = true
			continue
		}
		types, err := fedkv.ParseWireTypes(s.Types)
		if err != nil {
			return fedkv.Schedule{}, wire, err
		}
		wire = wire.With(s.Layer, types)
	}
	var keep []int
	for layer := range layers {
		if !out[layer] {
			keep = append(keep, layer)
		}
	}
	schedule, err := fedkv.NewSchedule(layers, keep...)
	return schedule, wire, err
}

// Rung is the setting after the first n steps; the contributors' sync layers are none in gather and all in lockstep.
func (p *Profile) Rung(regime fedkv.Regime, n int) (Setting, error) {
	layers := p.Model.Layers
	ladder, spec := p.ladder(regime), "none"
	if regime == fedkv.Lockstep {
		spec = "all"
	}
	publisher, wire, err := ladder.at(n, layers)
	if err != nil {
		return Setting{}, err
	}
	contributors, err := fedkv.ParseSchedule(spec, layers)
	return Setting{fedkv.Schedules{Contributors: contributors, Publisher: publisher}, wire}, err
}

func (p *Profile) ladder(regime fedkv.Regime) Ladder {
	if regime == fedkv.Lockstep {
		return p.Lockstep
	}
	return p.Gather
}

// Within is the setting of the first rung that needs at most so many bytes for each of the contributors' tokens. It is
// an error if the last rung needs more, or the profile has no ladder of this regime.
func (p *Profile) Within(regime fedkv.Regime, bytesPerToken float64) (Setting, error) {
	ladder := p.ladder(regime)
	if ladder.Wire == "" {
		return Setting{}, fmt.Errorf("the profile has no %v ladder; make one with fedattn calibrate", regime)
	}
	least := ladder.BytesPerToken
	if least <= bytesPerToken {
		return p.Rung(regime, 0)
	}
	for n, s := range ladder.Steps {
		if s.BytesPerToken <= bytesPerToken {
			return p.Rung(regime, n+1)
		}
		least = s.BytesPerToken
	}
	return Setting{}, fmt.Errorf("%.0f bytes a token are too few, the smallest setting of the profile needs %.0f", bytesPerToken, least)
}
