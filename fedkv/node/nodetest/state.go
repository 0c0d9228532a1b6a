package nodetest

import (
	"bytes"
	"encoding/gob"
	"fmt"

	"fedattn/fedkv/node"
)

var _ node.Restorable = (*cache)(nil)

// cells is what State copies: own cells only, which all layers have.
type cells struct {
	Sync   []int
	Tokens int
	K, V   [][][]float64 // [layer][token]
}

// State copies own cells, which have to be the only ones, from position 0 on.
func (c *cache) State() ([]byte, error) {
	leave, err := c.outside()
	if err != nil {
		return nil, err
	}
	defer leave()
	if len(c.remote) > 0 || c.plain {
		return nil, fmt.Errorf("nodetest: cells of others are not copied: %w", ErrState)
	}
	s := cells{Sync: c.spec.Sync.Layers(), Tokens: len(c.own), K: make([][][]float64, len(c.layers)), V: make([][][]float64, len(c.layers))}
	for layer, at := range c.layers {
		for pos := range s.Tokens {
			row, ok := at[pos]
			if !ok {
				return nil, fmt.Errorf("nodetest: no cell at position %d: %w", pos, ErrState)
			}
			s.K[layer], s.V[layer] = append(s.K[layer], row.k), append(s.V[layer], row.v)
		}
	}
	var b bytes.Buffer
	err = gob.NewEncoder(&b).Encode(s)
	return b.Bytes(), err
}

// SetState puts a copy into a cache without cells. Nothing goes through the layers, so that WriteRows still has to wait for
// their rotation; only CanShift knows.
func (c *cache) SetState(state []byte) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	var s cells
	if err := gob.NewDecoder(bytes.NewReader(state)).Decode(&s); err != nil {
		return err
	}
	if len(c.own)+len(c.remote) > 0 || c.plain || fmt.Sprint(s.Sync) != fmt.Sprint(c.spec.Sync.Layers()) || s.Tokens > c.spec.LocalCells {
		return fmt.Errorf("nodetest: the copy does not belong to this cache: %w", ErrState)
	}
	for pos := range s.Tokens {
		c.own[pos] = true
		for layer := range c.layers {
			c.layers[layer][pos] = cell{k: s.K[layer][pos], v: s.V[layer][pos]}
		}
	}
	c.restored = s.Tokens > 0
	return nil
}
