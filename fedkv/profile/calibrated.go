package profile

import (
	"embed"
	"fmt"
	"path"
)

//go:embed calibrated
var calibrated embed.FS

// Of is the profile that comes with this package for a model, or false if none does.
func Of(m Model) (*Profile, bool, error) {
	entries, err := calibrated.ReadDir("calibrated")
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		if path.Ext(e.Name()) != ".json" {
			continue
		}
		text, err := calibrated.ReadFile("calibrated/" + e.Name())
		if err != nil {
			return nil, false, err
		}
		p, err := Parse(text)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", e.Name(), err)
		}
		if p.Model.Suits(m) {
			return p, true, nil
		}
	}
	return nil, false, nil
}
