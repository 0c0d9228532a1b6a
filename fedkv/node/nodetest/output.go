package nodetest

import "slices"

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
