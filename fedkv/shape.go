package fedkv

import "fmt"

// LayerShape is the size of one token's row at one layer: the number of elements of K and of V over all KV
// heads, that is kv heads × head dim. K and V may differ, and so may layers.
type LayerShape struct{ K, V int }

// Shape is what a session needs to know of a model: the row size of every layer, indexed by layer.
type Shape struct{ Layers []LayerShape }

// Validate reports the first layer that breaks the limits: 1..MaxLayers layers, rows of 1..MaxRowElements
// elements each.
func (s Shape) Validate() error {
	if n := len(s.Layers); n < 1 || n > MaxLayers {
		return fmt.Errorf("shape: %d layers, must be 1 to %d", n, MaxLayers)
	}
	for l, layer := range s.Layers {
		for _, row := range []struct {
			name     string
			elements int
		}{{"K", layer.K}, {"V", layer.V}} {
			if row.elements < 1 || row.elements > MaxRowElements {
				return fmt.Errorf("shape: layer %d has %s rows of %d elements, must be 1 to %d", l, row.name, row.elements, MaxRowElements)
			}
		}
	}
	return nil
}
