package main

import (
	"encoding/json"
	"errors"
	"strings"
)

// profile is what the figures need of a profile that `fedattn calibrate` writes: mean KL divergence by layer.
type profile struct {
	PublisherAll            float64   `json:"publisher_all"`           // every layer is a sync layer
	PublisherNone           float64   `json:"publisher_none"`          // no layer is
	PublisherLeaveOneOut    []float64 `json:"publisher_leave_one_out"` // all layers but this one are
	PublisherSingle         []float64 `json:"publisher_single"`        // only this layer is
	ContributorsLeaveOneOut []float64 `json:"contributors_leave_one_out"`
	ContributorsSingle      []float64 `json:"contributors_single"`
}

// importanceFigures show which layers matter. The model's name is the file's.
func importanceFigures(name string, content []byte) ([]figure, error) {
	var p profile
	if err := json.Unmarshal(content, &p); err != nil {
		return nil, err
	}
	if len(p.PublisherLeaveOneOut) == 0 && len(p.PublisherSingle) == 0 {
		return nil, errors.New("no layer was measured")
	}
	model := strings.TrimSuffix(name, ".json")
	var out []figure
	for _, f := range []struct {
		kind, title             string
		publisher, contributors []float64
		reference               reference
	}{
		{"leave-one-out", "every layer but one", p.PublisherLeaveOneOut, p.ContributorsLeaveOneOut, reference{"publisher, every layer", p.PublisherAll}},
		{"single", "one layer only", p.PublisherSingle, p.ContributorsSingle, reference{"publisher, no layer", p.PublisherNone}},
	} {
		if len(f.publisher) == 0 {
			continue
		}
		out = append(out, figure{
			name: "importance-" + f.kind + "-" + model, title: "Layer importance, " + model + ": exchange at " + f.title,
			x: "layer", y: "mean KL divergence", wholeX: true,
			series:     []series{byLayer("publisher", f.publisher), byLayer("contributors", f.contributors)},
			references: []reference{f.reference},
		})
	}
	return out, nil
}

func byLayer(name string, kl []float64) series {
	s := series{name: name, line: true}
	for layer, v := range kl {
		s.points = append(s.points, point{x: float64(layer), y: v})
	}
	return s
}
