package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fedattn/fedkv"
)

// placement is where an earlier participant's segment goes: positions [at, at+tokens), its K rows rotated by shift.
type placement struct {
	origin, at, tokens, shift int
}

// remote places other participants' rows into a cache.
type remote struct {
	x        *exchange
	cache    Cache
	segments []placement // in the order of the token stream
	home     []placement // those whose rows stay where they are
	wire     fedkv.Wire

	pending func(layer int) []int // origins whose rows are still to come, under the exchange's lock
	hidden  map[int]bool          // origins that were masked

	// keep leaves the rows staged, for another attempt, and placed is told what stands where. Both are for conversations.
	keep   bool
	done   map[int]bool // layers that were placed, if rows are kept
	placed func(origin, layer int, at []int32)
}

// earlier is the segments before that of origin in a layout, where they stand.
func earlier(layout fedkv.Layout, origin int, shift func(origin int) int) (list []placement, own fedkv.Segment) {
	for _, s := range layout.Segments {
		if s.Origin == origin {
			return list, s
		}
		list = append(list, placement{s.Origin, s.Offset, s.Tokens, shift(s.Origin)})
	}
	return list, own
}

// reserve makes the cells of all earlier segments, if there are sync layers. Positions between segments, whose owners are
// lost, get no cells.
func (r *remote) reserve(sync fedkv.Schedule) error {
	if sync.Count() == 0 {
		return nil
	}
	for i, s := range r.segments {
		if err := r.cache.Reserve(s.at, s.tokens); err != nil {
			for _, made := range r.segments[:i] {
				err = errors.Join(err, r.cache.Release(made.at, made.tokens))
			}
			return err
		}
	}
	return nil
}

// await is for inside a layer: it waits until the rows of all earlier participants are here or given up, and places
// them in the order of the token stream; cells whose rows did not come stay out of sight. Whoever was given up is hidden
// from the first layer on of which not all its rows came. In gather all are here before the evaluation begins. It returns how
// long it waited.
func (r *remote) await(ctx context.Context, layer int) (waited time.Duration, err error) {
	began := time.Now()
	err = r.x.await(ctx, func() bool { return len(r.pending(layer)) == 0 })
	waited = time.Since(began)
	if err != nil {
		return waited, err
	}
	if r.keep {
		if r.done[layer] { // by an earlier micro-batch
			return waited, nil
		}
		r.done[layer] = true
	}
	for _, s := range r.segments {
		r.x.mu.Lock()
		from, missing := r.x.missing[s.origin]
		var blocks []stagedBlock
		if r.keep {
			blocks = r.x.staged.peek(layer, s.origin)
		} else {
			blocks = r.x.staged.take(layer, s.origin)
		}
		r.x.mu.Unlock()
		err := r.placeOrHide(layer, s, blocks, missing && layer >= from)
		if !r.keep {
			release(blocks)
		}
		if err != nil {
			return waited, fmt.Errorf("rows of participant %d: %w", s.origin, err)
		}
	}
	return waited, nil
}

func (r *remote) placeOrHide(layer int, s placement, blocks []stagedBlock, hide bool) error {
	switch {
	case hide && r.hidden[s.origin]:
		return nil
	case hide:
		r.hidden[s.origin] = true
		return r.cache.Mask(s.at, s.tokens)
	}
	for _, b := range blocks {
		at := b.Positions(s.at)
		if len(at) == 0 {
			continue // nothing was selected
		}
		if err := r.cache.WriteRows(layer, at, s.shift, r.wire.At(layer), b.Rows); err != nil {
			return err
		}
		if r.placed != nil {
			r.placed(s.origin, layer, at)
		}
	}
	return nil
}
