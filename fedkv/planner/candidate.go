// Package planner compares the ways in which a session could run, before it runs: schedules, wire types, how a text is
// shared out, and which quantisation of the model each device should load. What each takes is fedkv.Case.Cost, what it costs in
// quality the model's calibration profile. It is pure: no model, network or clock.
//
// Start reading at Candidates and Compare, then Pick, which chooses under limits, Auto, which chooses for a question, and
// Assign, which chooses quantisations.
package planner

import (
	"fedattn/fedkv"
	"fedattn/fedkv/profile"
)

// Candidate is a way to exchange rows.
type Candidate struct {
	Schedule string // as --schedule takes it
	Profile  bool   // wire types are those that the schedule has by its name
	Setting  profile.Setting
	Home     fedkv.Type // of queries and outputs, where rows stay home
	KLD      float64    // nats a token, expected of the whole session
	Measured bool       // whether KLD is known
	Rung     int        // bytes a token that a budget has to pay for this step of the ladder; 0: not of the ladder
}

// usualWire are the wire types of a model without a profile, and exact rows.
var usualWire, exactWire = fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}

// Candidates are what a model with this shape can do. p is nil if it has no profile.
func Candidates(shape fedkv.Shape, p *profile.Profile) (list []Candidate, err error) {
	layers := len(shape.Layers)
	add := func(schedule string, setting profile.Setting, home fedkv.Type, preset bool, rung int) {
		for l := range layers {
			if _, _, err := shape.Layers[l].BlockSize(setting.Wire.At(l), 1); err != nil {
				return // rows of these types do not exist in this model
			}
		}
		c := Candidate{Schedule: schedule, Setting: setting, Home: home, Profile: preset, Rung: rung}
		if p != nil {
			c.KLD, c.Measured = p.Expect(setting)
		}
		for _, o := range list {
			if o.Setting == setting && o.Home == home {
				return
			}
		}
		list = append(list, c)
	}
	plain := func(schedule string, types fedkv.WireTypes) (profile.Setting, error) {
		schedules, err := fedkv.ParseSchedules(schedule, layers)
		return profile.Setting{Schedules: schedules, Wire: fedkv.Uniform(types, layers)}, err
	}
	for _, name := range []string{"gather", "light", "lockstep", "lockstep-small"} {
		if p == nil {
			break
		}
		if preset, found := p.Preset(name); found {
			setting, err := preset.Setting(layers)
			if err != nil {
				return nil, err
			}
			add(name, setting, 0, true, 0)
		}
	}
	for _, name := range []string{"gather", "lockstep"} {
		for _, types := range []fedkv.WireTypes{usualWire, exactWire} {
			setting, err := plain(name, types)
			if err != nil {
				return nil, err
			}
			add(name, setting, 0, p == nil && types == usualWire, 0)
		}
	}
	if p != nil && p.Gather.Wire != "" {
		for _, n := range p.Measured(fedkv.Gather) {
			setting, err := p.Rung(fedkv.Gather, n)
			if err != nil {
				return nil, err
			}
			add("auto", setting, 0, false, int(p.Gather.Steps[n-1].BytesPerToken+1))
		}
	}
	if shareable(shape) {
		setting, err := plain("gather", exactWire)
		if err != nil {
			return nil, err
		}
		add("home", setting, fedkv.F16, true, 0)
		add("home:q8_0", setting, fedkv.Q8_0, true, 0)
	}
	for _, name := range []string{"H=2", "H=4"} {
		if setting, err := plain(name, usualWire); err == nil { // not of a model with fewer layers
			add("paper:"+name[2:], setting, 0, true, 0)
		}
	}
	return list, nil
}

// shareable reports whether rows can stay home.
func shareable(shape fedkv.Shape) bool {
	for _, l := range shape.Layers {
		if _, _, _, ok := l.HomeSizes(); !ok {
			return false
		}
	}
	return true
}
