package node

import "fedattn/fedkv"

// Home is attention that goes over rows of other devices too, which stay there. Both functions are called in
// mid-forward, at each of Layers and for every micro-batch [first, first+n), in this order; the cache must not be used
// in them. An error ends the evaluation and is what Eval returns.
type Home struct {
	Layers fedkv.Schedule
	// Ask gets the queries of the tokens, after RoPE: [n][heads][head dim of K], before attention is computed.
	Ask func(layer, first, n int, queries []float32) error
	// Merge gets attention over the cache's own rows, and makes it attention over all: see fedkv.Partial.
	Merge func(layer, first, n int, own fedkv.Partial) error
}

// HomeCache is a Cache that can share attention, in either role. A session with rows that stay home needs one.
type HomeCache interface {
	Cache
	// SetHome shares attention in the evaluations to come; nil ends that.
	SetHome(*Home) error
	// KeepRows copies rows out of the cache that outlive it: those of these layers at the positions, strictly increasing.
	// Attention at the layers must have been evaluated before.
	KeepRows(layers fedkv.Schedule, at []int32) (KeptRows, error)
}

// KeptRows are a participant's rows, which answer queries. One goroutine uses them at a time.
type KeptRows interface {
	// Attend is attention of n tokens at first, first+1, … with queries as Home.Ask gets them, over the layer's rows as
	// if they stood shift positions further on, which must be before first. It fills p, which has its size.
	Attend(layer, shift, first, n int, queries []float32, p fedkv.Partial) error
	// Bytes is the memory that they take.
	Bytes() int64
	Close() error
}
