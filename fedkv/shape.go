package fedkv

import "fmt"

// LayerShape is what a session needs to know of one layer.
type LayerShape struct {
	// K and V are the elements of one token's row over all KV heads: kv heads × head dim. They may differ, and so
	// may layers.
	K, V int
	// Window is how far attention reaches: the token at position q sees positions above q - Window. 0: everything.
	Window int
	// Heads and KVHeads are the heads of a query and those that a K row has, 0 where the engine does not tell. Only
	// attention over rows that stay home needs them.
	Heads, KVHeads int
}

// FirstRow is the first row of a segment that a participant whose own segment begins at position can see: rows before
// it are outside the window of all its tokens. It is owner.Tokens if none can be seen.
func (s LayerShape) FirstRow(owner Segment, position int) int {
	if s.Window == 0 {
		return 0
	}
	return min(max(0, position-s.Window+1-owner.Offset), owner.Tokens)
}

// Shape is what a session needs to know of a model, indexed by layer.
type Shape struct{ Layers []LayerShape }

// Window is that of a layer, 0 if there is none.
func (s Shape) Window(layer int) int {
	if layer < 0 || layer >= len(s.Layers) {
		return 0
	}
	return s.Layers[layer].Window
}

// windowed reports whether one of these layers has a window.
func (s Shape) windowed(layers Schedule) bool {
	for _, l := range layers.Layers() {
		if s.Window(l) > 0 {
			return true
		}
	}
	return false
}

// FirstRows is FirstRow of every layer.
func (s Shape) FirstRows(owner Segment, position int) []int {
	rows := make([]int, len(s.Layers))
	for l, layer := range s.Layers {
		rows[l] = layer.FirstRow(owner, position)
	}
	return rows
}

// Validate reports the first layer that breaks the limits: 1..MaxLayers layers, rows of 1..MaxRowElements
// elements each, windows that are not negative.
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
		if layer.Window < 0 {
			return fmt.Errorf("shape: layer %d has a window of %d tokens", l, layer.Window)
		}
	}
	return nil
}
