package node

import (
	"context"
	"fmt"

	"fedattn/fedkv"
)

// remote places other participants' rows into a cache.
type remote struct {
	x      *exchange
	cache  Cache
	layout fedkv.Layout
	origin int // own; rows of earlier ones are placed
	wire   fedkv.Wire

	shift   func(origin int) int  // by how many positions K rows are rotated
	pending func(layer int) []int // origins whose rows are still to come, under the exchange's lock
	hidden  map[int]bool          // origins that were masked
}

// split is the segments before the own one, and that.
func (r *remote) split() (earlier []fedkv.Segment, own fedkv.Segment) {
	for i, s := range r.layout.Segments {
		if s.Origin == r.origin {
			return r.layout.Segments[:i], s
		}
	}
	return nil, fedkv.Segment{}
}

// reserve makes the cells of all earlier segments and moves the next own position behind them. Positions between
// segments, whose owners are lost, get no cells.
func (r *remote) reserve(sync fedkv.Schedule) error {
	earlier, own := r.split()
	for _, s := range earlier {
		if sync.Count() == 0 {
			break
		}
		if err := r.cache.Reserve(s.Offset, s.Tokens); err != nil {
			return err
		}
	}
	if own.Offset == r.layout.Prefix {
		return nil
	}
	return r.cache.SetNext(own.Offset)
}

// await is for inside a layer: it waits until the rows of all earlier participants are here or given up, and places
// them in the order of the token stream; cells whose rows did not come stay out of sight. Whoever was given up is hidden from the first layer on of which not all its
// rows came. In gather all are here before the evaluation begins.
func (r *remote) await(ctx context.Context, layer int) error {
	if err := r.x.await(ctx, func() bool { return len(r.pending(layer)) == 0 }); err != nil {
		return err
	}
	earlier, _ := r.split()
	for _, s := range earlier {
		r.x.mu.Lock()
		from, missing := r.x.missing[s.Origin]
		blocks := r.x.staged.take(layer, s.Origin)
		r.x.mu.Unlock()
		err := r.placeOrHide(layer, s, blocks, missing && layer >= from)
		release(blocks)
		if err != nil {
			return fmt.Errorf("rows of participant %d: %w", s.Origin, err)
		}
	}
	return nil
}

func (r *remote) placeOrHide(layer int, s fedkv.Segment, blocks []stagedBlock, hide bool) error {
	switch {
	case hide && r.hidden[s.Origin]:
		return nil
	case hide:
		r.hidden[s.Origin] = true
		return r.cache.Mask(s.Offset, s.Tokens)
	}
	for _, b := range blocks {
		at := b.Positions(s.Offset)
		if len(at) == 0 {
			continue // nothing was selected
		}
		if err := r.cache.WriteRows(layer, at, r.shift(s.Origin), r.wire.At(layer), b.Rows); err != nil {
			return err
		}
	}
	return nil
}
