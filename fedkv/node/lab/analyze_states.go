package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Observable is a cache that shows what leaves its layers: the residual stream [n][embedding] of the tokens at positions
// [first, first+n). The rows are valid during the call, which comes on the goroutine that evaluates. At the last layer
// only tokens whose logits are kept have rows.
type Observable interface {
	SetOutputHook(hook func(layer, first, n int, rows []float32)) error
}

// States is what left every layer of one process that evaluates a prompt: [layer][segment][tokens × embedding]. A
// contributor's segment has nothing at the last layer, where no session evaluates it either. The prefix is not in it:
// everybody evaluates that alike.
type States struct {
	prompt Prompt
	rows   [][][]float32
}

// Observe evaluates the prompt in one process, prefix and segments as the micro-batches that they are for the
// participants. The process is a federated one without others, every layer a sync layer: the same computation as
// llama.cpp's own.
func Observe(ctx context.Context, e node.Engine, p Prompt) (*States, error) {
	layers := len(e.Shape().Layers)
	all, err := fedkv.ParseSchedule("all", layers)
	if err != nil {
		return nil, err
	}
	longest := len(p.Prefix)
	for _, s := range p.Segments {
		longest = max(longest, len(s))
	}
	cache, watched, err := openObservable(e, fedkv.CacheSpec{
		Sync: all, LocalCells: p.Tokens(), SyncCells: p.Tokens(), MicroBatch: longest, Outputs: len(p.Own()),
	})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	defer context.AfterFunc(ctx, cache.Interrupt)()
	s := &States{prompt: p, rows: make([][][]float32, layers)}
	for l := range s.rows {
		s.rows[l] = make([][]float32, len(p.Segments))
	}
	if len(p.Prefix) > 0 {
		if err := cache.Eval(p.Prefix, 0, 0, nil); err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
	pos := len(p.Prefix)
	for i, segment := range p.Segments {
		if err := watched.SetOutputHook(func(layer, _, _ int, rows []float32) {
			s.rows[layer][i] = append(s.rows[layer][i], rows...)
		}); err != nil {
			return nil, err
		}
		outputs := 0
		if i == len(p.Segments)-1 {
			outputs = len(segment)
		}
		if err := cache.Eval(segment, pos, outputs, nil); err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		pos += len(segment)
	}
	for l, segments := range s.rows {
		if len(segments[len(segments)-1]) == 0 {
			return nil, fmt.Errorf("the model does not show what leaves layer %d: its architecture does not name it", l)
		}
	}
	return s, nil
}

func openObservable(e node.Engine, spec fedkv.CacheSpec) (node.Cache, Observable, error) {
	cache, err := e.Open(spec)
	if err != nil {
		return nil, nil, err
	}
	watched, ok := cache.(Observable)
	if !ok {
		return nil, nil, errors.Join(errors.New("this engine does not show what leaves its layers"), cache.Close())
	}
	return cache, watched, nil
}

// observer is an engine whose caches compare what leaves their layers with the states of one process, as it leaves
// them: keeping a second copy of all layers would double the memory.
type observer struct {
	Engine
	base *States

	mu    sync.Mutex
	taken []bool    // by segment: some participant evaluates it
	sums  [][]gauge // [layer][segment]
}

// gauge sums what a Frobenius norm needs over the rows of a segment at a layer.
type gauge struct {
	difference, base float64 // squares
	values           int     // summed elements
}

func newObserver(e Engine, base *States) *observer {
	o := &observer{Engine: e, base: base, taken: make([]bool, len(base.prompt.Segments)), sums: make([][]gauge, len(base.rows))}
	for l := range o.sums {
		o.sums[l] = make([]gauge, len(base.prompt.Segments))
	}
	return o
}

// Open allocates one participant's caches, watched.
func (o *observer) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	cache, watched, err := openObservable(o.Engine, spec)
	if err != nil {
		return nil, err
	}
	return observedCache{Cache: cache, watched: watched, observer: o}, nil
}

// claim finds the segment that tokens at pos are, or -1. In gather all contributors may stand at the same position:
// then those with equal texts compute equal rows, and it does not matter which of them is which.
func (o *observer) claim(tokens []fedkv.Token, pos int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.base.prompt
	offset := len(p.Prefix)
	for i, segment := range p.Segments {
		canonical := i < len(p.Segments)-1 && pos == len(p.Prefix)
		if !o.taken[i] && (pos == offset || canonical) && slices.Equal(tokens, segment) {
			o.taken[i] = true
			return i
		}
		offset += len(segment)
	}
	return -1
}

// compare adds rows of a segment, from its token number at on, to the sums of a layer.
func (o *observer) compare(layer, segment, at int, rows []float32) {
	want := o.base.rows[layer][segment]
	embedding := len(o.base.rows[0][segment]) / len(o.base.prompt.Segments[segment])
	if from := at * embedding; from+len(rows) <= len(want) {
		want = want[from : from+len(rows)]
	} else {
		return // one process does not evaluate it here
	}
	sum := gauge{values: len(rows)}
	for i, w := range want {
		d := float64(rows[i]) - float64(w)
		sum.difference += d * d
		sum.base += float64(w) * float64(w)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sums[layer][segment] = o.sums[layer][segment].plus(sum)
}

func (g gauge) plus(o gauge) gauge {
	return gauge{g.difference + o.difference, g.base + o.base, g.values + o.values}
}

// observedCache is a cache of an observer.
type observedCache struct {
	node.Cache
	watched  Observable
	observer *observer
}

func (c observedCache) Eval(tokens []fedkv.Token, pos, outputs int, hook *node.Hook) error {
	segment := c.observer.claim(tokens, pos)
	if segment < 0 {
		return c.Cache.Eval(tokens, pos, outputs, hook)
	}
	if err := c.watched.SetOutputHook(func(layer, first, _ int, rows []float32) {
		c.observer.compare(layer, segment, first-pos, rows)
	}); err != nil {
		return err
	}
	return errors.Join(c.Cache.Eval(tokens, pos, outputs, hook), c.watched.SetOutputHook(nil))
}
