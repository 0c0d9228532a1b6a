package nodetest

import (
	"fmt"
	"math"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
)

// half is the type of the cache.
var half = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}

// throughTypes is what rows look like after a journey in wire types.
func throughTypes(rows fedkvtest.Rows, types fedkv.WireTypes) fedkvtest.Rows {
	out := fedkvtest.Rows{K: make([][]float64, len(rows.K)), V: make([][]float64, len(rows.V))}
	for i := range rows.K {
		out.K[i], out.V[i] = throughType(rows.K[i], types.K), throughType(rows.V[i], types.V)
	}
	return out
}

func throughType(row []float64, t fedkv.Type) []float64 {
	out := make([]float64, len(row))
	if err := decode(out, encode(nil, row, t), t); err != nil {
		panic(err) // both sides are ours, and Open's shapes suit every type
	}
	return out
}

func encode(dst []byte, row []float64, t fedkv.Type) []byte {
	narrow := make([]float32, len(row))
	for i, v := range row {
		narrow[i] = float32(v)
	}
	return t.AppendRow(dst, narrow)
}

func decode(dst []float64, src []byte, t fedkv.Type) error {
	narrow := make([]float32, len(dst))
	if err := t.DecodeRow(narrow, src); err != nil {
		return err
	}
	for i, v := range narrow {
		if math.IsNaN(float64(v)) || math.Abs(float64(v)) >= 65520 {
			return fedkv.Errorf(fedkv.CodeValue, "element %d is not finite in float16", i)
		}
		dst[i] = float64(v)
	}
	return nil
}

// placed is what a cache holds of rows that came over the wire as they are in rows: K rotated by shift positions, both
// rounded to float16.
func (e *Engine) placed(rows fedkvtest.Rows, shift int) fedkvtest.Rows {
	if shift != 0 {
		rows = rows.Shift(shift, e.Model.HeadDim)
	}
	return throughTypes(rows, half)
}

// Reserve makes remote cells, whose rows are zero until written.
func (c *cache) Reserve(first, n int) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case c.plain || first < 0 || n < 1:
		return fmt.Errorf("nodetest: reserve %d cells at %d: %w", n, first, ErrState)
	case len(c.own)+len(c.remote)+n > c.spec.SyncCells:
		return fmt.Errorf("nodetest: reserve %d cells at %d: %w", n, first, ErrFull)
	}
	for pos := first; pos < first+n; pos++ {
		if c.own[pos] || c.remote[pos] {
			return fmt.Errorf("nodetest: position %d has a cell", pos)
		}
	}
	for pos := first; pos < first+n; pos++ {
		c.remote[pos] = true
		for _, l := range c.spec.Sync.Layers() {
			shape := c.engine.Model.Shape().Layers[l]
			c.layers[l][pos] = cell{make([]float64, shape.K), make([]float64, shape.V)}
		}
	}
	return nil
}

// CanShift is an error for a rigid model, and before anything was evaluated.
func (c *cache) CanShift() error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	for layer, turned := range c.turned {
		if !turned {
			return fmt.Errorf("nodetest: the rotation of layer %d is not known yet: %w", layer, ErrState)
		}
	}
	return c.rigid()
}

func (c *cache) rigid() error {
	if c.engine.Rigid {
		return fmt.Errorf("nodetest: K rows of this model cannot be rotated")
	}
	return nil
}

// rows are the cells of a layer at pos.
func (c *cache) rows(layer int, pos []int32) ([]cell, error) {
	if c.plain || layer < 0 || layer >= len(c.layers) || len(pos) < 1 {
		return nil, fmt.Errorf("nodetest: %d rows of layer %d", len(pos), layer)
	}
	cells := make([]cell, len(pos))
	for i, p := range pos {
		var ok bool
		if cells[i], ok = c.layers[layer][int(p)]; !ok || i > 0 && pos[i-1] >= p {
			return nil, fmt.Errorf("nodetest: position %d has no cell at layer %d, or comes twice", p, layer)
		}
	}
	return cells, nil
}

// AppendRows appends a layer's rows in wire types.
func (c *cache) AppendRows(dst []byte, layer int, pos []int32, types fedkv.WireTypes) ([]byte, error) {
	leave, err := c.enter()
	if err != nil {
		return dst, err
	}
	defer leave()
	cells, err := c.rows(layer, pos)
	if err != nil {
		return dst, err
	}
	for _, cell := range cells {
		dst = encode(dst, cell.k, types.K)
	}
	for _, cell := range cells {
		dst = encode(dst, cell.v, types.V)
	}
	return dst, nil
}

// WriteRows places rows of others at a sync layer.
func (c *cache) WriteRows(layer int, pos []int32, shift int, types fedkv.WireTypes, rows []byte) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if _, err := c.rows(layer, pos); err != nil {
		return err
	}
	n := len(pos)
	switch {
	case !c.spec.Sync.Sync(layer):
		return fmt.Errorf("nodetest: layer %d is no sync layer", layer)
	case shift != 0 && !c.turned[layer]:
		return fmt.Errorf("nodetest: the rotation of layer %d is not known yet: %w", layer, ErrState)
	case shift != 0 && c.engine.Rigid:
		return c.rigid()
	}
	shape := c.engine.Model.Shape().Layers[layer]
	k, v, err := shape.BlockSize(types, n)
	if err != nil {
		return err
	}
	if len(rows) != k+v {
		return fmt.Errorf("nodetest: %d bytes for %d rows of layer %d, expected %d", len(rows), n, layer, k+v)
	}
	came := fedkvtest.Rows{K: make([][]float64, n), V: make([][]float64, n)}
	for i := range n {
		came.K[i], came.V[i] = make([]float64, shape.K), make([]float64, shape.V)
		if err := decode(came.K[i], rows[k/n*i:][:k/n], types.K); err != nil {
			return err
		}
		if err := decode(came.V[i], rows[k:][v/n*i:][:v/n], types.V); err != nil {
			return err
		}
	}
	came = c.engine.placed(came, shift)
	for i, p := range pos {
		c.layers[layer][int(p)] = cell{came.K[i], came.V[i]}
	}
	return nil
}

// Mask hides remote cells from the layers to come, and forgets them.
func (c *cache) Mask(first, n int) error {
	if !c.inHook {
		return fmt.Errorf("nodetest: mask outside a hook: %w", ErrState)
	}
	for pos := first; pos < first+n; pos++ {
		if !c.remote[pos] {
			return fmt.Errorf("nodetest: position %d has no remote cell", pos)
		}
	}
	for pos := first; pos < first+n; pos++ {
		delete(c.remote, pos)
		for _, l := range c.spec.Sync.Layers() {
			delete(c.layers[l], pos)
		}
	}
	return nil
}
