// Package profile keeps what calibration found out about a model: which layers matter when rows are exchanged, what
// each saving costs, and the settings that come of it. It is pure: no model, network or clock.
//
// Start reading at Profile, then Ladder.Within.
package profile

import (
	"encoding/json"
	"fmt"
	"math"

	"fedattn/fedkv"
)

// Version is the format that this package writes and reads.
const Version = 1

// Profile is a model's calibration. KL divergences are nats per token of the publisher's segment, from a run in which
// one process evaluates everything, mean over the windows of the text.
type Profile struct {
	Version int    `json:"version"`
	Model   Model  `json:"model"`
	Source  Source `json:"source"`

	// Publisher's sync layers, contributors alone (gather): without one layer, and with one layer only, by layer.
	PublisherAll         float64   `json:"publisher_all"` // every layer is a sync layer
	PublisherNone        float64   `json:"publisher_none"`
	PublisherLeaveOneOut []float64 `json:"publisher_leave_one_out"`
	PublisherSingle      []float64 `json:"publisher_single"`

	// Contributors' sync layers, every layer of the publisher in sync (lockstep), on the first window only.
	ContributorsAll         float64   `json:"contributors_all,omitempty"`
	ContributorsLeaveOneOut []float64 `json:"contributors_leave_one_out,omitempty"`
	ContributorsSingle      []float64 `json:"contributors_single,omitempty"`

	// Ladders, by regime. Presets are named settings, measured.
	Gather   Ladder   `json:"gather"`
	Lockstep Ladder   `json:"lockstep"`
	Presets  []Preset `json:"presets"`
}

// Model binds a profile to what it was measured on. A file with other weights of the same model has the same profile.
type Model struct {
	Architecture string `json:"architecture"`
	Layers       int    `json:"layers"`
	Shape        string `json:"shape"` // these are digests in hexadecimal
	Rope         string `json:"rope"`
	Tokenizer    string `json:"tokenizer"`
	Weights      string `json:"weights"`
}

// ModelOf is a fingerprint as profiles hold it.
func ModelOf(f fedkv.Fingerprint) Model {
	return Model{f.Architecture, f.Layers, f.Shape.String(), f.Rope.String(), f.Tokenizer.String(), f.Weights.String()}
}

// Suits reports whether a profile of m is one of o's too.
func (m Model) Suits(o Model) bool {
	m.Weights, o.Weights = "", ""
	return m == o
}

// Source says what was measured.
type Source struct {
	Text            string `json:"text"` // SHA-256 of its first tokens' text
	Windows         int    `json:"windows"`
	Tokens          int    `json:"tokens"` // of each window
	PublisherTokens int    `json:"publisher_tokens"`
	PrefixTokens    int    `json:"prefix_tokens"`
	Participants    int    `json:"participants"`
}

// Preset is a named setting and what it costs.
type Preset struct {
	Name          string  `json:"name"`
	Contributors  string  `json:"contributors"` // schedule
	Publisher     string  `json:"publisher"`    // schedule
	Wire          string  `json:"wire"`
	KLD           float64 `json:"kld"`
	BytesPerToken float64 `json:"bytes_per_token"` // that the publisher receives for each of the contributors' tokens
}

// Parse reads a profile and checks it.
func Parse(text []byte) (*Profile, error) {
	var p Profile
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("not a profile: %w", err)
	}
	if p.Version != Version {
		return nil, fmt.Errorf("a profile of version %d, this is for version %d; make a new one with fedattn calibrate", p.Version, Version)
	}
	layers := p.Model.Layers
	if layers < 1 || layers > fedkv.MaxLayers {
		return nil, fmt.Errorf("a profile of a model with %d layers", layers)
	}
	for name, list := range map[string][]float64{
		"publisher_leave_one_out": p.PublisherLeaveOneOut, "publisher_single": p.PublisherSingle,
		"contributors_leave_one_out": p.ContributorsLeaveOneOut, "contributors_single": p.ContributorsSingle,
	} {
		if len(list) != layers && len(list) != 0 {
			return nil, fmt.Errorf("%s has %d entries, the model has %d layers", name, len(list), layers)
		}
		for _, v := range list {
			if math.IsNaN(v) || v < 0 {
				return nil, fmt.Errorf("%s has a KL divergence of %v", name, v)
			}
		}
	}
	for _, ladder := range []Ladder{p.Gather, p.Lockstep} {
		if _, _, err := ladder.at(len(ladder.Steps), layers); err != nil {
			return nil, err
		}
	}
	for _, preset := range p.Presets {
		if _, err := preset.Setting(layers); err != nil {
			return nil, fmt.Errorf("preset %s: %w", preset.Name, err)
		}
	}
	return &p, nil
}

// Setting is what a session needs of a profile.
type Setting struct {
	Schedules fedkv.Schedules
	Wire      fedkv.Wire
}

// Setting resolves a preset for the model's layers.
func (p Preset) Setting(layers int) (s Setting, err error) {
	s.Schedules, err = fedkv.ParseSchedules("contributors="+p.Contributors+";publisher="+p.Publisher, layers)
	if err == nil {
		s.Wire, err = fedkv.ParseWire(p.Wire, layers)
	}
	return s, err
}

// Preset finds a named setting.
func (p *Profile) Preset(name string) (Preset, bool) {
	for _, preset := range p.Presets {
		if preset.Name == name {
			return preset, true
		}
	}
	return Preset{}, false
}
