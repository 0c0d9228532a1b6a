package node

import "fedattn/fedkv"

// Engine is a loaded model. Its methods may be called from several goroutines. An error of it, or of its caches, that
// is one of fedkv's by errors.Is, such as ErrMemory, reaches the asker with that code, others as internal ones; the
// text reaches the asker in either case.
type Engine interface {
	// Shape is the model's KV geometry.
	Shape() fedkv.Shape
	// Fingerprint tells whether another device runs the same model.
	Fingerprint() fedkv.Fingerprint
	// Tokenize turns plain text into tokens; special tokens in it stay text.
	Tokenize(text string) ([]fedkv.Token, error)
	// Piece is a token's text, EndsGeneration whether it ends the answer.
	Piece(fedkv.Token) []byte
	EndsGeneration(fedkv.Token) bool
	// Open allocates one participant's caches.
	Open(fedkv.CacheSpec) (Cache, error)
}

// Hook runs in mid-forward, at each of Layers, after K and V of the micro-batch [first, first+n) are stored and before
// attention reads them. In it AppendRows, WriteRows and Mask of the Cache may be called. stop spares this micro-batch the
// layers to come, and there will be no logits; an error ends the evaluation and is what Eval returns.
type Hook struct {
	Layers  fedkv.Schedule
	OnLayer func(layer, first, n int) (stop bool, err error)
}

// Cache is one participant's forward pass: rows of local layers (own tokens) and of sync layers (own and remote
// tokens). Positions are global; ranges are half-open, [first, first+n). One goroutine uses it at a time; only
// Interrupt may be called from others, and not when Close may have begun.
type Cache interface {
	// Eval runs tokens at positions pos, pos+1, … through the layers and keeps the logits of the last outputs of them.
	Eval(tokens []fedkv.Token, pos, outputs int, hook *Hook) error
	// Logits of the i-th token whose logits the last Eval kept, [vocabulary]; -1 is the last.
	Logits(i int) ([]float32, error)
	// Interrupt makes a running Eval return soon, with an error. It has no effect on one that has not begun.
	Interrupt()

	// Reserve makes remote cells at the sync layers, SetNext moves the position of the next own token behind them. At
	// each layer nobody attends to a remote cell before WriteRows placed a row there.
	Reserve(first, n int) error
	SetNext(pos int) error
	// Release frees the remote cells at [first, first+n) and erases their rows; positions of others stay.
	Release(first, n int) error
	// Truncate forgets every cell from position pos on, own and remote, and what SetNext promised beyond it.
	Truncate(pos int) error
	// CanShift returns an error if K rows cannot be rotated to other positions.
	CanShift() error

	// AppendRows appends a layer's rows of the tokens at pos, strictly increasing, K then V, in wire types, as
	// fedkv.Block.Rows has them. K rows of a centred type are rotated back to position 0 before the mean is taken, which
	// a model that CanShift refuses cannot do.
	AppendRows(dst []byte, layer int, pos []int32, types fedkv.WireTypes) ([]byte, error)
	// WriteRows places such rows at the cells pos of a sync layer, K rotated by shift positions, or, of a centred type,
	// from position 0 to pos.
	WriteRows(layer int, pos []int32, shift int, types fedkv.WireTypes, rows []byte) error
	// Mask hides remote cells from the layers still to come of the running Eval.
	Mask(first, n int) error

	Close() error
}

// Queryable is a Cache that shows what its tokens look for. Asking for rows by fedkv.RowsQuery needs one.
type Queryable interface {
	// SetQueryHook lets hook see each layer's query vectors in the evaluations to come, of the tokens at [first, first+n);
	// nil ends that. Query heads that share a KV head are averaged, so that a row is as long as one of K, with as many
	// heads, and rotated back to position 0. Layers whose queries cannot be rotated are not shown. The rows are valid
	// during the call, in which the cache must not be used.
	SetQueryHook(hook func(layer, first, n, heads int, rows []float32)) error
}

// Hiding is a Cache that can hide own rows at local layers. Sparse local attention needs one.
type Hiding interface {
	// HideRows hides the own tokens at [first, first+len(keep)) that are not kept from all others at a local layer; each
	// attends to itself. It is for tokens that are still to be evaluated, and lasts until their positions are forgotten.
	HideRows(layer, first int, keep []bool) error
}

// Sampler chooses the tokens of an answer one after the other.
type Sampler interface {
	// Next chooses by the logits of kept output i; -1 is the last.
	Next(c Cache, i int) (fedkv.Token, error)
}
