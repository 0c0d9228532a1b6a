package fedkv

import (
	"slices"
	"testing"
)

func TestShapeHoldsItsLimits(t *testing.T) {
	good := LayerShape{K: 192, V: 192}
	for _, test := range []struct {
		name   string
		layers []LayerShape
		valid  bool
	}{
		{"one layer", []LayerShape{good}, true},
		{"layers of different sizes", []LayerShape{good, {K: 1, V: MaxRowElements}}, true},
		{"the most layers", slices.Repeat([]LayerShape{good}, MaxLayers), true},
		{"no layer", nil, false},
		{"a layer too many", slices.Repeat([]LayerShape{good}, MaxLayers+1), false},
		{"no K", []LayerShape{{K: 0, V: 1}}, false},
		{"no V", []LayerShape{good, {K: 1, V: 0}}, false},
		{"negative", []LayerShape{{K: -1, V: 1}}, false},
		{"a row too long", []LayerShape{{K: MaxRowElements + 1, V: 1}}, false},
	} {
		if err := (Shape{Layers: test.layers}).Validate(); (err == nil) != test.valid {
			t.Errorf("%s: Validate() = %v", test.name, err)
		}
	}
}
