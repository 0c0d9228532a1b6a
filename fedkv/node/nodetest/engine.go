package nodetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
)

// What a cache's methods return, as the real engine's do.
var (
	ErrClosed      = errors.New("nodetest: used after Close")
	ErrFull        = errors.New("nodetest: the context is full")
	ErrInterrupted = errors.New("nodetest: evaluation interrupted")
	ErrState       = errors.New("nodetest: not allowed at this moment")
)

// Engine is a Tiny as participants use it. Its fields are set before it is used.
type Engine struct {
	Model *fedkvtest.Tiny

	// Layer, if set, is called as each layer of a micro-batch [first, first+n) begins, outside of any hook. What it
	// returns ends the evaluation, as a failure inside of a real engine does.
	Layer func(layer, first, n int) error
	// LayerTime is how long each layer of a micro-batch takes. Interrupt ends the wait.
	LayerTime time.Duration
	// MostCells is how many cells of a sync layer there is memory for; 0: no limit.
	MostCells int
	// Rigid is a model whose K rows cannot be rotated.
	Rigid bool
	// End is the token that ends an answer, if it is not 0.
	End fedkv.Token

	open, evaluations, tokens atomic.Int64
	prefixes                  node.Prefixes
}

var (
	_ node.Engine       = (*Engine)(nil)
	_ node.PrefixKeeper = (*Engine)(nil)
)

// The models of all engines: their weights are never written.
var (
	small   = sync.OnceValue(func() *fedkvtest.Tiny { return fedkvtest.NewTiny(fedkvtest.Small()) })
	sliding = sync.OnceValue(func() *fedkvtest.Tiny { return fedkvtest.NewTiny(fedkvtest.Sliding()) })
)

// NewEngine is an engine of the small Tiny: 6 layers, rows that suit every wire type.
func NewEngine() *Engine { return &Engine{Model: small()} }

// NewSlidingEngine is an engine of the sliding Tiny, which has windows at most layers.
func NewSlidingEngine() *Engine { return &Engine{Model: sliding()} }

// OpenCaches counts the caches that were not closed, those of OpenPlain included.
func (e *Engine) OpenCaches() int { return int(e.open.Load()) }

// Evaluations counts the calls of Eval so far, of all caches.
func (e *Engine) Evaluations() int { return int(e.evaluations.Load()) }

// Evaluated counts the tokens that Eval was given so far, of all caches.
func (e *Engine) Evaluated() int { return int(e.tokens.Load()) }

// Prefixes are those that the engine's caches evaluated.
func (e *Engine) Prefixes() *node.Prefixes { return &e.prefixes }

// Shape is the model's KV geometry.
func (e *Engine) Shape() fedkv.Shape { return e.Model.Shape() }

// Vocabulary is the length of a row of logits.
func (e *Engine) Vocabulary() int { return e.Model.Vocabulary }

// Fingerprint tells models of other sizes and seeds apart.
func (e *Engine) Fingerprint() fedkv.Fingerprint {
	c := e.Model.Config
	weights := sha256.Sum256(fmt.Append(nil, c))
	c.Seed = 0
	return fedkv.Fingerprint{
		Architecture: "tiny", Shape: sha256.Sum256(fmt.Append(nil, c)), Layers: c.Layers, Weights: weights,
	}
}

// Hello is what a device with this engine says of itself.
func (e *Engine) Hello(name string, role fedkv.Role) fedkv.Hello {
	return fedkv.Hello{
		Protocol: fedkv.Protocol, Name: name, Engine: "tiny", Model: e.Fingerprint(), Role: role,
		Types: []fedkv.Type{fedkv.Q8_0, fedkv.Q4_0, fedkv.F16, fedkv.Q5_1, fedkv.Q4_1, fedkv.NF3},
	}
}

// Tokenize makes one token of every byte.
func (e *Engine) Tokenize(text string) ([]fedkv.Token, error) {
	tokens := make([]fedkv.Token, len(text))
	for i := range tokens {
		tokens[i] = fedkv.Token(int(text[i]) % e.Model.Vocabulary)
	}
	return tokens, nil
}

// Piece is one printable byte for each token of a vocabulary of up to 94.
func (e *Engine) Piece(t fedkv.Token) []byte { return []byte{'!' + byte(t%94)} }

// EndsGeneration tells End.
func (e *Engine) EndsGeneration(t fedkv.Token) bool { return e.End != 0 && t == e.End }

// Open allocates one participant's caches.
func (e *Engine) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if spec.Sync.Len() != e.Model.Layers {
		return nil, fmt.Errorf("nodetest: a schedule of %d layers for a model of %d", spec.Sync.Len(), e.Model.Layers)
	}
	return e.newCache(spec, false)
}

// OpenPlain is a cache for one process that evaluates everything itself.
func (e *Engine) OpenPlain(cells, microBatch, outputs int) (node.Cache, error) {
	none, err := fedkv.NewSchedule(e.Model.Layers)
	if err != nil {
		return nil, err
	}
	spec := fedkv.CacheSpec{Sync: none, LocalCells: cells, SyncCells: cells, MicroBatch: microBatch, Outputs: outputs}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return e.newCache(spec, true)
}

func (e *Engine) newCache(spec fedkv.CacheSpec, plain bool) (node.Cache, error) {
	if e.MostCells > 0 && spec.SyncCells > e.MostCells {
		return nil, fedkv.Errorf(fedkv.CodeMemory, "no memory for %d cells", spec.SyncCells)
	}
	e.open.Add(1)
	c := &cache{
		engine: e, spec: spec, plain: plain, floor: -1,
		own: map[int]bool{}, remote: map[int]bool{}, layers: make([]map[int]cell, e.Model.Layers),
		hidden: make([]map[int]bool, e.Model.Layers),
		turned: make([]bool, e.Model.Layers), wake: make(chan struct{}, 1),
	}
	for l := range c.layers {
		c.layers[l], c.hidden[l] = map[int]cell{}, map[int]bool{}
	}
	return c, nil
}

// Greedy takes the most likely token, the first of equals.
type Greedy struct{}

// Next is the token by the logits of kept output i.
func (Greedy) Next(c node.Cache, i int) (fedkv.Token, error) {
	logits, err := c.Logits(i)
	if err != nil {
		return 0, err
	}
	return Top(logits), nil
}

// Top is the index of the largest value, the first of equals.
func Top(logits []float32) fedkv.Token {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return fedkv.Token(best)
}
