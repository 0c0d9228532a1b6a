package profile

import (
	"encoding/json"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// four is a profile of a model with four layers.
func four() *Profile {
	return &Profile{
		Version: Version, Model: Model{Architecture: "llama", Layers: 4, Weights: "w"},
		Gather: Ladder{Wire: "q8_0/q8_0", BytesPerToken: 100, Steps: []Step{
			{Layer: 2, Types: "q8_0/q4_0", BytesPerToken: 90}, {Layer: 0, BytesPerToken: 65},
			{Layer: 2, Types: "q4_0/q4_0", BytesPerToken: 60}, {Layer: 2, BytesPerToken: 50},
		}},
		Presets: []Preset{{Name: "light", Contributors: "1", Publisher: "all", Wire: "q8_0/q4_0"}},
	}
}

func TestWithin(t *testing.T) {
	p := four()
	for _, c := range []struct {
		bytes          float64
		schedules, typ string
	}{
		{1000, "gather", "q8_0/q8_0"},
		{100, "gather", "q8_0/q8_0"},
		{99, "gather", "q8_0/q8_0,2=q8_0/q4_0"},
		{70, "contributors=none;publisher=1-3", "q8_0/q8_0,2=q8_0/q4_0"},
		{60, "contributors=none;publisher=1-3", "q8_0/q8_0,2=q4_0/q4_0"},
		{50, "contributors=none;publisher=1,3", "q8_0/q8_0,2=q4_0/q4_0"},
	} {
		s, err := p.Within(fedkv.Gather, c.bytes)
		if err != nil {
			t.Errorf("%g bytes: %v", c.bytes, err)
			continue
		}
		wire, err := fedkv.ParseWire(c.typ, 4)
		if err != nil {
			t.Fatal(err)
		}
		if s.Schedules.String() != c.schedules || s.Wire != wire {
			t.Errorf("%g bytes: %v %v, want %s %s", c.bytes, s.Schedules, s.Wire, c.schedules, c.typ)
		}
	}
	if _, err := p.Within(fedkv.Gather, 49); err == nil || !strings.Contains(err.Error(), "needs 50") {
		t.Errorf("49 bytes: %v", err)
	}
	if _, err := p.Within(fedkv.Lockstep, 1000); err == nil || !strings.Contains(err.Error(), "calibrate") {
		t.Errorf("no ladder: %v", err)
	}
}

func TestProfilesThatAreNone(t *testing.T) {
	for what, change := range map[string]func(p *Profile){
		"another version":      func(p *Profile) { p.Version++ },
		"no layers":            func(p *Profile) { p.Model.Layers = 0 },
		"a figure too few":     func(p *Profile) { p.PublisherSingle = make([]float64, 3) },
		"a divergence below 0": func(p *Profile) { p.PublisherSingle = []float64{1, 2, 3, -1} },
		"a step off the model": func(p *Profile) { p.Gather.Steps[1].Layer = 4 },
		"unknown types":        func(p *Profile) { p.Gather.Steps[0].Types = "q9_9/q4_0" },
		"a preset's schedule":  func(p *Profile) { p.Presets[0].Publisher = "0-4" },
		"a preset's wire":      func(p *Profile) { p.Presets[0].Wire = "q4_0" + "/" },
	} {
		p := four()
		change(p)
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(text); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	text, err := json.Marshal(four())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(text); err != nil {
		t.Error(err)
	}
	if _, err := Parse([]byte("{")); err == nil {
		t.Error("half a profile is accepted")
	}
}

func TestAProfileSuitsOtherWeightsOfItsModel(t *testing.T) {
	ours, other := four().Model, four().Model
	other.Weights = "x"
	if !ours.Suits(other) {
		t.Error("other weights do not suit")
	}
	other.Rope = "y"
	if ours.Suits(other) {
		t.Error("another model suits")
	}
}
