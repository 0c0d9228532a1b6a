package nodetest

import (
	"fmt"
	"math"
	"slices"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
)

var _ node.HomeCache = (*cache)(nil)

// SetHome shares attention in the evaluations to come.
func (c *cache) SetHome(home *node.Home) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	c.home = home
	return nil
}

// share is attention at a layer that goes over rows of other devices too.
func (c *cache) share(layer, pos int, pass *fedkvtest.Pass, rows fedkvtest.Rows, see func(q, k int) bool) error {
	m := c.engine.Model
	queries := pass.HeadQueries()
	n := len(queries)
	c.inHook = true
	err := c.home.Ask(layer, pos, n, narrow(queries))
	c.inHook = false
	if err != nil {
		return err
	}
	heads, sums := make([][]float64, n), make([][]float64, n)
	for q := range queries {
		heads[q], sums[q] = m.Heard(queries[q], rows, func(k int) bool { return see(q, k) })
	}
	own := fedkv.Partial{Out: narrow(heads), LSE: narrow(sums)}
	before := slices.Clone(own.Out)
	c.inHook = true
	err = c.home.Merge(layer, pos, n, own)
	c.inHook = false
	if err != nil {
		return err
	}
	for q := range heads {
		for i := range heads[q] {
			if v := own.Out[q*len(heads[q])+i]; v != before[q*len(heads[q])+i] { // what was only looked at stays exact
				heads[q][i] = float64(v)
			}
		}
	}
	pass.Finish(heads)
	return nil
}

func narrow(rows [][]float64) (out []float32) {
	for _, row := range rows {
		for _, v := range row {
			out = append(out, float32(v))
		}
	}
	return out
}

// kept is rows outside of any cache.
type kept struct {
	model  *fedkvtest.Tiny
	at     []int32
	layers map[int]fedkvtest.Rows
}

// KeepRows copies rows of the layers at positions.
func (c *cache) KeepRows(layers fedkv.Schedule, at []int32) (node.KeptRows, error) {
	leave, err := c.outside()
	if err != nil {
		return nil, err
	}
	defer leave()
	k := &kept{c.engine.Model, slices.Clone(at), map[int]fedkvtest.Rows{}}
	for _, l := range layers.Layers() {
		var rows fedkvtest.Rows
		for _, pos := range at {
			cell, ok := c.layers[l][int(pos)]
			if !ok || cell.empty {
				return nil, fmt.Errorf("nodetest: no row at position %d of layer %d: %w", pos, l, ErrState)
			}
			rows.K, rows.V = append(rows.K, cell.k), append(rows.V, cell.v)
		}
		k.layers[l] = rows
	}
	c.engine.open.Add(1)
	return &closing{kept: k, engine: c.engine}, nil
}

// closing counts rows among what is open.
type closing struct {
	*kept
	engine *Engine
	closed bool
}

func (c *closing) Close() error {
	if !c.closed {
		c.closed = true
		c.engine.open.Add(-1)
	}
	return nil
}

func (k *kept) Bytes() (n int64) {
	for _, rows := range k.layers {
		for i := range rows.K {
			n += 8 * int64(len(rows.K[i])+len(rows.V[i]))
		}
	}
	return n
}

func (k *kept) Attend(layer, shift, first, n int, queries []float32, p fedkv.Partial) error {
	rows, ok := k.layers[layer]
	if !ok || n < 1 || len(queries)%n != 0 || int(k.at[len(k.at)-1])+shift >= first {
		return fmt.Errorf("nodetest: %d queries at position %d of layer %d: %w", n, first, layer, ErrState)
	}
	rows = rows.Shift(shift, k.model.HeadDim)
	size := len(queries) / n
	for i := range n {
		query := make([]float64, size)
		for j := range query {
			query[j] = float64(queries[i*size+j])
			if math.IsNaN(query[j]) {
				return fmt.Errorf("nodetest: a query is not a number: %w", ErrState)
			}
		}
		heads, sums := k.model.Heard(query, rows, func(row int) bool { return k.model.Reaches(layer, first+i, int(k.at[row])+shift) })
		copy(p.Out[i*len(heads):], narrow([][]float64{heads}))
		copy(p.LSE[i*len(sums):], narrow([][]float64{sums}))
	}
	return nil
}
