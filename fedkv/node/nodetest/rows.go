package nodetest

import (
	"fmt"
	"maps"
	"math"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
)

// half is the type of the cache.
var half = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}

// throughTypes is what rows look like after a journey in wire types, each a block of its own, K as it is.
func throughTypes(rows fedkvtest.Rows, types fedkv.WireTypes) fedkvtest.Rows {
	out := fedkvtest.Rows{K: make([][]float64, len(rows.K)), V: make([][]float64, len(rows.V))}
	for i := range rows.K {
		out.K[i], out.V[i] = throughType(rows.K[i], types.K), throughType(rows.V[i], types.V)
	}
	return out
}

func throughType(row []float64, t fedkv.Type) []float64 {
	out, err := decode(encode(nil, [][]float64{row}, t), 1, len(row), t)
	if err != nil {
		panic(err) // both sides are ours, and Open's shapes suit every type
	}
	return out[0]
}

func encode(dst []byte, rows [][]float64, t fedkv.Type) []byte {
	var narrow []float32
	for _, row := range rows {
		for _, v := range row {
			narrow = append(narrow, float32(v))
		}
	}
	return t.AppendRows(dst, narrow, len(rows[0]))
}

func decode(src []byte, n, elements int, t fedkv.Type) ([][]float64, error) {
	narrow := make([]float32, n*elements)
	if err := t.DecodeRows(narrow, elements, src); err != nil {
		return nil, err
	}
	out := make([][]float64, n)
	for i := range out {
		out[i] = make([]float64, elements)
		for j, v := range narrow[i*elements:][:elements] {
			if math.IsNaN(float64(v)) || math.Abs(float64(v)) >= 65520 {
				return nil, fedkv.Errorf(fedkv.CodeValue, "element %d is not finite in float16", j)
			}
			out[i][j] = float64(v)
		}
	}
	return out, nil
}

// turn is K rows, each rotated by sign times its position.
func (e *Engine) turn(rows [][]float64, pos []int32, sign int) [][]float64 {
	out := make([][]float64, len(rows))
	for i, row := range rows {
		out[i] = fedkvtest.Rows{K: [][]float64{row}}.Shift(sign*int(pos[i]), e.Model.HeadDim).K[0]
	}
	return out
}

// encode appends rows that were evaluated at pos in wire types.
func (e *Engine) encode(dst []byte, rows fedkvtest.Rows, pos []int32, types fedkv.WireTypes) []byte {
	k := rows.K
	if types.K.IsCentred() {
		k = e.turn(k, pos, -1)
	}
	return encode(encode(dst, k, types.K), rows.V, types.V)
}

// decode is what a cache holds of such rows that are placed at pos: K rotated by shift, or if centred to pos, and both
// rounded to float16.
func (e *Engine) decode(src []byte, layer int, pos []int32, shift int, types fedkv.WireTypes) (rows fedkvtest.Rows, err error) {
	shape := e.Model.Shape().Layers[layer]
	k, v, err := shape.BlockSize(types, len(pos))
	if err != nil {
		return rows, err
	}
	if len(src) != k+v {
		return rows, fmt.Errorf("nodetest: %d bytes for %d rows of layer %d, expected %d", len(src), len(pos), layer, k+v)
	}
	if rows.K, err = decode(src[:k], len(pos), shape.K, types.K); err != nil {
		return rows, err
	}
	if rows.V, err = decode(src[k:], len(pos), shape.V, types.V); err != nil {
		return rows, err
	}
	switch {
	case types.K.IsCentred():
		rows.K = e.turn(rows.K, pos, 1)
	case shift != 0:
		rows = rows.Shift(shift, e.Model.HeadDim)
	}
	return throughTypes(rows, half), nil
}

// Reserve makes remote cells, which nobody sees until they are written.
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
			c.layers[l][pos] = cell{make([]float64, shape.K), make([]float64, shape.V), true}
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
		if !turned && !c.restored {
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
	if types.K.IsCentred() && c.engine.Rigid {
		return dst, c.rigid()
	}
	var rows fedkvtest.Rows
	for _, cell := range cells {
		rows.K, rows.V = append(rows.K, cell.k), append(rows.V, cell.v)
	}
	return c.engine.encode(dst, rows, pos, types), nil
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
	turns := shift != 0 || types.K.IsCentred()
	switch {
	case !c.spec.Sync.Sync(layer):
		return fmt.Errorf("nodetest: layer %d is no sync layer", layer)
	case turns && !c.turned[layer]:
		return fmt.Errorf("nodetest: the rotation of layer %d is not known yet: %w", layer, ErrState)
	case turns && c.engine.Rigid:
		return c.rigid()
	}
	came, err := c.engine.decode(rows, layer, pos, shift, types)
	if err != nil {
		return err
	}
	for i, p := range pos {
		c.layers[layer][int(p)] = cell{k: came.K[i], v: came.V[i]}
	}
	return nil
}

// Release frees remote cells.
func (c *cache) Release(first, n int) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	return c.forget(first, n)
}

// Truncate forgets every cell from a position on.
func (c *cache) Truncate(pos int) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	if pos < 0 {
		return fmt.Errorf("nodetest: truncate at %d: %w", pos, ErrState)
	}
	late := func(p int, _ bool) bool { return p >= pos }
	maps.DeleteFunc(c.own, late)
	maps.DeleteFunc(c.remote, late)
	for _, hidden := range c.hidden {
		maps.DeleteFunc(hidden, late)
	}
	for _, cells := range c.layers {
		maps.DeleteFunc(cells, func(p int, _ cell) bool { return p >= pos })
	}
	c.floor = min(c.floor, pos-1)
	return nil
}

// Mask hides remote cells from the layers to come, and forgets them.
func (c *cache) Mask(first, n int) error {
	if !c.inHook {
		return fmt.Errorf("nodetest: mask outside a hook: %w", ErrState)
	}
	return c.forget(first, n)
}

// forget frees remote cells.
func (c *cache) forget(first, n int) error {
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
