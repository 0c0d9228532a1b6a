package nodetest

import (
	"slices"

	"fedattn/fedkv/fedkvtest"
)

// SetOutputHook lets hook see the residual stream [n][embed] after every layer of the evaluations to come, of the tokens
// at [first, first+n); nil ends that. Unlike a real engine it shows all tokens at the last layer too.
func (c *cache) SetOutputHook(hook func(layer, first, n int, rows []float32)) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	c.output = hook
	return nil
}

func (c *cache) show(layer, first int, hidden [][]float64) {
	if c.output != nil {
		c.output(layer, first, len(hidden), slices.Concat(single(hidden)...))
	}
}

// SetQueryHook lets hook see what the tokens of the evaluations to come look for, as node.Queryable says. A rigid model
// shows nothing.
func (c *cache) SetQueryHook(hook func(layer, first, n, heads int, rows []float32)) error {
	leave, err := c.outside()
	if err != nil {
		return err
	}
	defer leave()
	c.query = hook
	return nil
}

func (c *cache) look(layer, first int, pass *fedkvtest.Pass) {
	if c.query != nil && !c.engine.Rigid {
		rows := single(pass.Queries())
		c.query(layer, first, len(rows), c.engine.Model.KVHeads, slices.Concat(rows...))
	}
}
