package lab

import (
	"context"
	"encoding/json"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node/nodetest"
	"fedattn/fedkv/profile"
)

// A calibration has a figure for each layer, ladders on which every step saves bytes, and says the same twice.
func TestCalibrate(t *testing.T) {
	e := nodetest.NewEngine()
	layers := len(e.Shape().Layers)
	var windows []Window
	for i := range 2 {
		p, err := Cut(stream(80)[i*5:], 60, 5, 9, 3)
		if err != nil {
			t.Fatal(err)
		}
		base, err := Centralised(context.Background(), e, p, false)
		if err != nil {
			t.Fatal(err)
		}
		windows = append(windows, Window{p, base})
	}
	c := Calibration{
		Windows: windows, Start: fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q8_0}, Small: fedkv.WireTypes{K: fedkv.Q4_0, V: fedkv.Q4_0},
		Rungs: []float64{0.9, 0.6, 0.3}, Contributors: true,
	}
	var texts []string
	for range 2 {
		p, err := Calibrate(context.Background(), e, c)
		if err != nil {
			t.Fatal(err)
		}
		for name, list := range map[string][]float64{
			"publisher without": p.PublisherLeaveOneOut, "publisher with": p.PublisherSingle,
			"contributors without": p.ContributorsLeaveOneOut, "contributors with": p.ContributorsSingle,
		} {
			if len(list) != layers {
				t.Errorf("%s: %d figures for %d layers", name, len(list), layers)
			}
		}
		if !(p.PublisherAll < p.PublisherNone) {
			t.Errorf("rows of others do not help: %g with, %g without", p.PublisherAll, p.PublisherNone)
		}
		for name, ladder := range map[string]profile.Ladder{"gather": p.Gather, "lockstep": p.Lockstep} {
			before, measured := ladder.BytesPerToken, 0
			for i, s := range ladder.Steps {
				if !(s.BytesPerToken < before) {
					t.Errorf("%s: step %d goes from %g to %g bytes", name, i, before, s.BytesPerToken)
				}
				before = s.BytesPerToken
				if s.KLD != nil {
					measured++
				}
			}
			if measured == 0 {
				t.Errorf("%s: no rung was measured", name)
			}
		}
		for _, name := range []string{"gather", "lockstep", "lockstep-small", "light"} {
			if preset, ok := p.Preset(name); !ok || preset.KLD <= 0 || preset.BytesPerToken <= 0 {
				t.Errorf("preset %s: %+v, %t", name, preset, ok)
			}
		}
		last, err := p.Rung(fedkv.Gather, len(p.Gather.Steps))
		if err != nil {
			t.Fatal(err)
		}
		if n := last.Schedules.Publisher.Count(); n != 1 {
			t.Errorf("the last rung has %d sync layers, want 1", n)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := profile.Parse(text); err != nil {
			t.Error(err)
		}
		texts = append(texts, string(text))
	}
	if texts[0] != texts[1] {
		t.Error("two calibrations differ")
	}
	if n := e.OpenCaches(); n != 0 {
		t.Errorf("%d caches are still open", n)
	}
}
