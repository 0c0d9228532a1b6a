//go:build cgo

package llama

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Engine is a Model as participants use it.
type Engine struct {
	*Model
	fingerprint fedkv.Fingerprint
	prefixes    node.Prefixes
	rotation    atomic.Pointer[error] // what CanShift says of this model, once a cache knows

	evaluated sync.Once // guards the canary
	canary    fedkv.Canary
	noCanary  error
}

var (
	_ node.Engine       = (*Engine)(nil)
	_ node.PrefixKeeper = (*Engine)(nil)
	_ node.Queryable    = cache{}
	_ node.Hiding       = cache{}
	_ node.Restorable   = cache{}
)

// NewEngine makes an engine of a model whose file has the given digest.
func NewEngine(m *Model, weights fedkv.Digest) (*Engine, error) {
	f, err := m.Fingerprint(weights)
	if err != nil {
		return nil, err
	}
	return &Engine{Model: m, fingerprint: f}, nil
}

// Fingerprint says what the engine's model is.
func (e *Engine) Fingerprint() fedkv.Fingerprint { return e.fingerprint }

// Prefixes are those that this engine's caches evaluated.
func (e *Engine) Prefixes() *node.Prefixes { return &e.prefixes }

// Canary is what the engine makes of public words, see node.Canary. The first call evaluates them.
func (e *Engine) Canary() (fedkv.Canary, error) {
	e.evaluated.Do(func() { e.canary, e.noCanary = node.Canary(e) })
	return e.canary, e.noCanary
}

// Open allocates one participant's caches.
func (e *Engine) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := e.NewContext(spec)
	if err != nil {
		return nil, err
	}
	return cache{c, e}, nil
}

// cache is a Context behind node's interface.
type cache struct {
	*Context
	engine *Engine
}

// CanShift is a matter of the model, so that what one cache has seen holds for one that begins with a copied prefix and has
// seen nothing yet.
func (c cache) CanShift() error {
	err := c.Context.CanShift()
	if err == nil || errors.Is(err, ErrUnsupported) {
		c.engine.rotation.Store(&err)
		return err
	}
	if known := c.engine.rotation.Load(); known != nil {
		return *known
	}
	return err
}

// State is a copy of the cells, of which CanShift knows.
func (c cache) State() ([]byte, error) {
	_ = c.CanShift() // notes it
	return c.Context.State()
}

func (c cache) Eval(tokens []fedkv.Token, pos, outputs int, hook *node.Hook) error {
	if hook == nil {
		return c.Context.Eval(tokens, pos, outputs, nil)
	}
	var failed error
	return c.Context.Eval(tokens, pos, outputs, &Hook{
		Layers: hook.Layers,
		OnLayer: func(layer, first, n int) (stop bool, err error) {
			if failed == nil {
				stop, failed = hook.OnLayer(layer, first, n)
			}
			if failed != nil {
				c.Interrupt() // this micro-batch ends by itself; those to come have to be kept from beginning
			}
			return stop, failed
		},
	})
}

// sampler is a Sampler behind node's interface.
type sampler struct{ *Sampler }

func (s sampler) Next(c node.Cache, i int) (fedkv.Token, error) {
	own, ok := c.(cache)
	if !ok {
		return 0, fmt.Errorf("llama: a sampler of this engine and a cache of another (%T)", c)
	}
	return s.Sampler.Next(own.Context, i)
}

// Sampler makes a sampler for one answer; release it when the answer is done.
func (e *Engine) Sampler(s Sampling) (choose node.Sampler, release func() error, err error) {
	own, err := e.NewSampler(s)
	if err != nil {
		return nil, nil, err
	}
	return sampler{own}, own.Close, nil
}

// OpenPlain is a cache for one process that evaluates everything itself.
func (e *Engine) OpenPlain(cells, microBatch, outputs int) (node.Cache, error) {
	c, err := e.NewPlainContext(cells, microBatch, outputs)
	if err != nil {
		return nil, err
	}
	return cache{c, e}, nil
}
