package nodetest

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
)

// cell holds a token's K, rotated to its position, and V at one layer: [kv heads × head dim] each.
type cell struct {
	k, v  []float64
	empty bool // reserved, and nothing written yet
}

// cache is one participant's forward pass. Local layers hold own cells, sync layers own and remote ones; all layers of
// a kind hold the same positions.
//
// Using it against the rules of node.Cache panics, so that a test cannot miss it: two goroutines at once, Interrupt
// after Close.
type cache struct {
	engine *Engine
	spec   fedkv.CacheSpec
	plain  bool

	busy   atomic.Bool // a call is under way
	closed atomic.Bool
	inHook bool

	interrupted atomic.Bool
	wake        chan struct{} // Interrupt came

	own, remote map[int]bool   // positions that have cells
	floor       int            // the highest position that others are promised
	layers      []map[int]cell // by layer and position
	turned      []bool         // by layer: its rotation is known, since a pass came through
	restored    bool           // its first cells are another cache's, which knew the rotation
	logits      [][]float32
	hidden      []map[int]bool // by layer: own positions that only their own token attends to
	output      func(layer, first, n int, rows []float32)
	query       func(layer, first, n, heads int, rows []float32)
	home        *node.Home
}

// enter claims the cache for one call. Inside a hook the evaluation holds it already.
func (c *cache) enter() (leave func(), err error) {
	if c.inHook {
		return func() {}, nil
	}
	if !c.busy.CompareAndSwap(false, true) {
		panic("nodetest: two goroutines use one cache")
	}
	if c.closed.Load() {
		c.busy.Store(false)
		return nil, ErrClosed
	}
	return func() { c.busy.Store(false) }, nil
}

// outside is enter for what may not be called in a hook.
func (c *cache) outside() (leave func(), err error) {
	if c.inHook {
		return nil, ErrState
	}
	return c.enter()
}

// Close frees the caches.
func (c *cache) Close() error {
	leave, err := c.outside()
	if err == ErrClosed {
		return nil
	}
	if err != nil {
		return err
	}
	defer leave()
	c.closed.Store(true)
	c.layers, c.logits = nil, nil
	c.engine.open.Add(-1)
	return nil
}

// Interrupt makes a running Eval return soon.
func (c *cache) Interrupt() {
	if c.closed.Load() {
		panic("nodetest: Interrupt after Close")
	}
	c.interrupted.Store(true)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next is the position at which an own token has to follow.
func (c *cache) next() int {
	last := c.floor
	for _, cells := range []map[int]bool{c.own, c.remote} {
		for pos := range cells {
			last = max(last, pos)
		}
	}
	return last + 1
}

// SetNext moves the position of the next own token.
func (c *cache) SetNext(pos int) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	if c.plain || pos < c.next() {
		return fmt.Errorf("nodetest: next position %d after %d: %w", pos, c.next()-1, ErrState)
	}
	c.floor = pos - 1
	return nil
}

// HideRows hides own rows that are not kept from other tokens at a local layer.
func (c *cache) HideRows(layer, first int, keep []bool) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	if c.plain || layer < 0 || layer >= len(c.hidden) || c.spec.Sync.Sync(layer) {
		return fmt.Errorf("nodetest: hide rows of layer %d: %w", layer, ErrState)
	}
	for i, kept := range keep {
		if !kept {
			c.hidden[layer][first+i] = true
		}
	}
	return nil
}

// Eval runs tokens through the layers in micro-batches.
func (c *cache) Eval(tokens []fedkv.Token, pos, outputs int, hook *node.Hook) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case len(tokens) == 0 || pos != c.next():
		return fmt.Errorf("nodetest: %d tokens at position %d, the next is %d", len(tokens), pos, c.next())
	case outputs < 0 || outputs > min(len(tokens), c.spec.Outputs):
		return fmt.Errorf("nodetest: logits of %d of %d tokens, the context keeps %d", outputs, len(tokens), c.spec.Outputs)
	case hook != nil && (c.plain || hook.Layers.Len() != c.engine.Model.Layers):
		return fmt.Errorf("nodetest: a hook for %d layers in a model of %d", hook.Layers.Len(), c.engine.Model.Layers)
	case len(c.own)+len(tokens) > c.spec.LocalCells || len(c.own)+len(c.remote)+len(tokens) > c.spec.SyncCells:
		return fmt.Errorf("nodetest: %d tokens at position %d: %w", len(tokens), pos, ErrFull)
	}
	for _, t := range tokens {
		if t < 0 || int(t) >= c.engine.Model.Vocabulary {
			return fmt.Errorf("nodetest: token %d is not in the vocabulary of %d", t, c.engine.Model.Vocabulary)
		}
	}
	c.engine.evaluations.Add(1)
	c.engine.tokens.Add(int64(len(tokens)))
	c.logits = nil
	c.interrupted.Store(false)
	select {
	case <-c.wake:
	default:
	}
	keep := len(tokens) - outputs
	var logits [][]float32
	for first := 0; first < len(tokens); first += c.spec.MicroBatch {
		end := min(first+c.spec.MicroBatch, len(tokens))
		pass, err := c.microBatch(tokens[first:end], pos+first, hook)
		switch {
		case err != nil:
			return err
		case pass == nil:
			keep = len(tokens) // a pass that stopped has no logits, and later ones are not asked for theirs
		case end > keep:
			logits = append(logits, single(pass.Logits()[max(keep-first, 0):])...)
		}
	}
	if keep < len(tokens) {
		c.logits = logits
	}
	return nil
}

// microBatch evaluates tokens together. The pass is nil if the hook stopped it.
func (c *cache) microBatch(tokens []fedkv.Token, pos int, hook *node.Hook) (*fedkvtest.Pass, error) {
	positions := make([]int, len(tokens))
	for i := range positions {
		positions[i] = pos + i
		c.own[pos+i] = true
	}
	pass := c.engine.Model.Begin(tokens, positions)
	for layer := range c.engine.Model.Layers {
		if err := c.begin(layer, pos, len(tokens)); err != nil {
			return nil, err
		}
		c.store(layer, pos, pass.Rows())
		c.turned[layer] = true
		if hook != nil && hook.Layers.Sync(layer) {
			c.inHook = true
			stop, err := hook.OnLayer(layer, pos, len(tokens))
			c.inHook = false
			if err != nil {
				return nil, err
			}
			if stop {
				return nil, nil
			}
		}
		c.look(layer, pos, pass)
		at, rows := c.keys(layer)
		see := func(q, k int) bool {
			return c.engine.Model.Reaches(layer, positions[q], at[k]) && (positions[q] == at[k] || !c.hidden[layer][at[k]])
		}
		if c.home != nil && c.home.Layers.Sync(layer) {
			if err := c.share(layer, pos, pass, rows, see); err != nil {
				return nil, err
			}
		} else {
			pass.Attend(rows, see)
		}
		c.show(layer, pos, pass.Hidden())
	}
	return pass, nil
}

// begin is what happens before a layer.
func (c *cache) begin(layer, pos, n int) error {
	if c.engine.LayerTime > 0 {
		select {
		case <-time.After(c.engine.LayerTime):
		case <-c.wake:
		}
	}
	if c.interrupted.Load() {
		return ErrInterrupted
	}
	if c.engine.Layer != nil {
		return c.engine.Layer(layer, pos, n)
	}
	return nil
}

// store rounds rows to float16 and keeps them at positions from pos on.
func (c *cache) store(layer, pos int, rows fedkvtest.Rows) {
	rows = throughTypes(rows, half)
	for i := range rows.K {
		c.layers[layer][pos+i] = cell{k: rows.K[i], v: rows.V[i]}
	}
}

// keys is a layer's positions that have rows, ascending, and these.
func (c *cache) keys(layer int) (positions []int, rows fedkvtest.Rows) {
	for _, pos := range slices.Sorted(maps.Keys(c.layers[layer])) {
		if c.layers[layer][pos].empty {
			continue
		}
		positions = append(positions, pos)
		rows.K = append(rows.K, c.layers[layer][pos].k)
		rows.V = append(rows.V, c.layers[layer][pos].v)
	}
	return positions, rows
}

// Logits of the i-th token whose logits were kept.
func (c *cache) Logits(i int) ([]float32, error) {
	leave, err := c.outside()
	if err != nil {
		return nil, err
	}
	defer leave()
	if i == -1 {
		i = len(c.logits) - 1
	}
	if i < 0 || i >= len(c.logits) {
		return nil, fmt.Errorf("nodetest: no logits %d, the last evaluation kept %d", i, len(c.logits))
	}
	return slices.Clone(c.logits[i]), nil
}

// single is rows of logits as an engine returns them.
func single(rows [][]float64) [][]float32 {
	out := make([][]float32, len(rows))
	for i, row := range rows {
		out[i] = make([]float32, len(row))
		for j, v := range row {
			out[i][j] = float32(v)
		}
	}
	return out
}
