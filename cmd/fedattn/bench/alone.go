package bench

import (
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// alone is one device that evaluates everything itself: llama.cpp's own context with its ordinary cache. All tests have the
// same tokens in it, so that those at a depth find what others evaluated.
type alone struct {
	cache  node.Cache
	tokens []fedkv.Token
	batch  int
	have   int // tokens that are in the cache
}

// newAlone has room for the longest of the tests; nil if there is none.
func newAlone(cfg Config, tests []Test) (*alone, error) {
	cells := 0
	for _, t := range tests {
		cells = max(cells, t.Depth+t.tokens())
	}
	if cells == 0 {
		return nil, nil
	}
	c, err := cfg.Engine.OpenPlain(cells, min(cfg.MicroBatch, cells), 1)
	if err != nil {
		return nil, err
	}
	return &alone{cache: c, tokens: someTokens(cfg.Engine.Vocabulary(), cells), batch: cfg.Batch}, nil
}

// warmUp evaluates what is read and allocated on first use: a micro-batch, and a token.
func (a *alone) warmUp(microBatch int) error {
	_, err := a.run(Test{Prompt: min(microBatch, len(a.tokens)-1), Generate: 1})
	return err
}

func (a *alone) run(t Test) (Sample, error) {
	if err := a.reach(t.Depth); err != nil {
		return Sample{}, err
	}
	began := time.Now()
	if err := a.prompt(t.Depth, t.Prompt); err != nil {
		return Sample{}, err
	}
	for i := range t.Generate {
		if err := a.eval(t.Depth+t.Prompt+i, 1); err != nil {
			return Sample{}, err
		}
	}
	s := Sample{Took: time.Since(began), Tokens: t.tokens()}
	if t.Generate == 0 && t.Depth == 0 {
		s.TTFTMS = milliseconds(s.Took)
	}
	return s, nil
}

// reach leaves so many tokens in the cache.
func (a *alone) reach(depth int) error {
	if a.have > depth {
		a.have = depth
		return a.cache.Truncate(depth)
	}
	return a.prompt(a.have, depth-a.have)
}

// prompt evaluates n tokens in batches.
func (a *alone) prompt(first, n int) error {
	for n > 0 {
		part := min(n, a.batch)
		if err := a.eval(first, part); err != nil {
			return err
		}
		first, n = first+part, n-part
	}
	return nil
}

func (a *alone) eval(first, n int) error {
	err := a.cache.Eval(a.tokens[first:first+n], first, 1, nil)
	if err == nil {
		a.have = first + n
	}
	return err
}

func (a *alone) close() {
	if a != nil {
		_ = a.cache.Close()
	}
}
