package node

import (
	"context"
	"errors"
	"fmt"

	"fedattn/fedkv"
)

// queries evaluates the words by themselves, right after the prefix, and says what they look for at each layer.
func (c *Conversation) queries(ctx context.Context, words []fedkv.Token) (found []fedkv.Query, err error) {
	q := &c.chat
	none, err := fedkv.NewSchedule(len(q.Engine.Shape().Layers))
	if err != nil {
		return nil, err
	}
	tokens := len(q.Prefix) + len(words)
	spec := fedkv.CacheSpec{Sync: none, LocalCells: tokens, SyncCells: tokens, MicroBatch: min(tokens, microBatch), Outputs: 1}
	cache, err := q.Engine.Open(spec)
	if err != nil {
		return nil, fmt.Errorf("a cache for %d tokens: %w", tokens, err)
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	watched, ok := cache.(Queryable)
	if !ok {
		return nil, fedkv.Errorf(fedkv.CodePlan, "this engine does not show queries; choose rows by norm or diverse")
	}
	if _, err := evalPrefix(ctx, q.Engine, cache, spec, q.Prefix); err != nil {
		return nil, err
	}
	defer interruptAfter(ctx, cache)()
	layers := q.Schedules.Any()
	pools := make([]queryPool, layers.Len())
	if err := watched.SetQueryHook(func(layer, _, n, heads int, rows []float32) {
		pools[layer].add(heads, n, rows)
	}); err != nil {
		return nil, err
	}
	if err := cache.Eval(words, len(q.Prefix), 0, nil); err != nil {
		return nil, evalError(ctx, "the question", err)
	}
	vectors := fedkv.QueryVectors(q.Engine.Shape(), layers)
	found = make([]fedkv.Query, layers.Len())
	for _, l := range layers.Layers() {
		if pools[l].tokens == 0 {
			return nil, fedkv.Errorf(fedkv.CodePlan, "the queries of layer %d cannot be compared with K rows; choose rows by norm or diverse", l)
		}
		found[l] = pools[l].query(vectors)
	}
	return found, nil
}

// queryPool is what becomes of a layer's queries: few vectors for any number of tokens.
type queryPool struct {
	heads, tokens int
	last          []float32
	sum           []float64
}

func (p *queryPool) add(heads, n int, rows []float32) {
	elements := len(rows) / n
	if p.sum == nil {
		p.sum = make([]float64, elements)
	}
	for i, v := range rows {
		p.sum[i%elements] += float64(v)
	}
	p.heads, p.tokens = heads, p.tokens+n
	p.last = append(p.last[:0], rows[len(rows)-elements:]...)
}

// query is the last token's vector, from which the answer starts, and if there is room the mean of all.
func (p *queryPool) query(vectors int) fedkv.Query {
	q := fedkv.Query{Heads: p.heads, Vectors: p.last}
	if vectors > 1 {
		for _, v := range p.sum {
			q.Vectors = append(q.Vectors, float32(v/float64(p.tokens)))
		}
	}
	return q
}
