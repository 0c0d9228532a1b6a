package lab

import (
	"fmt"
	"slices"

	"fedattn/fedkv"
	"fedattn/fedkv/audit"
	"fedattn/fedkv/node"
)

// Exposed is what the publisher of a gather session has of a contributor's text: its rows of some layers, in wire types,
// as they stand in the publisher's cache once they are placed. Rows of tokens that are hidden are left out as well as
// those that the selection leaves out; hidden may be nil.
func Exposed(e node.Engine, prefix, text []fedkv.Token, layers []int, types fedkv.WireTypes, rows fedkv.Selection, hidden []bool) ([]audit.Exposure, error) {
	if len(prefix) == 0 || len(text) == 0 || rows.NeedsKeys() || rows.NeedsQueries() {
		return nil, fmt.Errorf("lab: rows of %d tokens after %d, selected by %v", len(text), len(prefix), rows.Kind)
	}
	model := len(e.Shape().Layers)
	sync, err := fedkv.NewSchedule(model, layers...)
	if err != nil {
		return nil, err
	}
	contributor, err := openFor(e, sync, prefix, len(text))
	if err != nil {
		return nil, err
	}
	defer contributor.Close()
	if err := contributor.Eval(text, len(prefix), 0, nil); err != nil {
		return nil, err
	}
	publisher, err := openFor(e, sync, prefix, len(text))
	if err != nil {
		return nil, err
	}
	defer publisher.Close()
	if err := publisher.Reserve(len(prefix), len(text)); err != nil {
		return nil, err
	}
	var all []audit.Exposure
	for _, l := range layers {
		sent := rows.Select(l, len(text), 0, len(text), nil, fedkv.Query{})
		exposure := audit.Exposure{Layer: l, K: make([][]float32, len(text)), V: make([][]float32, len(text))}
		var pos []int32
		for i := range text {
			if (sent == nil || sent[i]) && (hidden == nil || !hidden[i]) {
				pos = append(pos, int32(len(prefix)+i))
			}
		}
		if len(pos) > 0 {
			block, err := contributor.AppendRows(nil, l, pos, types)
			if err != nil {
				return nil, err
			}
			if err := publisher.WriteRows(l, pos, 0, types, block); err != nil {
				return nil, err
			}
			if err := placed(publisher, e.Shape().Layers[l], pos, len(prefix), &exposure); err != nil {
				return nil, err
			}
		}
		all = append(all, exposure)
	}
	return all, nil
}

// openFor is a cache that has evaluated the prefix and has room for a text.
func openFor(e node.Engine, sync fedkv.Schedule, prefix []fedkv.Token, text int) (node.Cache, error) {
	cells := len(prefix) + text
	c, err := e.Open(fedkv.CacheSpec{Sync: sync, LocalCells: cells, SyncCells: cells, MicroBatch: max(len(prefix), text), Outputs: 1})
	if err != nil {
		return nil, err
	}
	if err := c.Eval(prefix, 0, 0, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// placed reads rows back out of a cache.
func placed(c node.Cache, shape fedkv.LayerShape, pos []int32, first int, to *audit.Exposure) error {
	types := fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	b, err := c.AppendRows(nil, to.Layer, pos, types)
	if err != nil {
		return err
	}
	k, v := make([]float32, len(pos)*shape.K), make([]float32, len(pos)*shape.V)
	if err := fedkv.F16.DecodeRows(k, shape.K, b[:2*len(k)]); err != nil {
		return err
	}
	if err := fedkv.F16.DecodeRows(v, shape.V, b[2*len(k):]); err != nil {
		return err
	}
	for i, p := range pos {
		to.K[int(p)-first] = slices.Clone(k[i*shape.K:][:shape.K])
		to.V[int(p)-first] = slices.Clone(v[i*shape.V:][:shape.V])
	}
	return nil
}
