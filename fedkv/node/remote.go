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
	types  fedkv.WireTypes

	shift   func(origin int) int  // by how many positions K rows are rotated
	pending func(layer int) []int // origins whose rows are still to come, under the exchange's lock
	hidden  map[int]bool          // origins that were masked
}

// earlier lists the segments before the own one.
func (r *remote) earlier() []fedkv.Segment {
	for i, s := range r.layout.Segments {
		if s.Origin == r.origin {
			return r.layout.Segments[:i]
		}
	}
	return nil
}

// reserve makes the cells of all earlier segments and moves the next own position behind them.
func (r *remote) reserve(sync fedkv.Schedule) error {
	earlier := r.earlier()
	if len(earlier) == 0 {
		return nil
	}
	last := earlier[len(earlier)-1]
	if sync.Count() > 0 {
		if err := r.cache.Reserve(r.layout.Prefix, last.End()-r.layout.Prefix); err != nil {
			return err
		}
	}
	return r.cache.SetNext(last.End())
}

// place writes the staged rows of a layer, in the order of the token stream.
func (r *remote) place(layer int) error {
	for _, s := range r.earlier() {
		r.x.mu.Lock()
		missing := r.x.missing[s.Origin]
		blocks := r.x.staged.take(layer, s.Origin)
		r.x.mu.Unlock()
		for _, b := range blocks {
			var err error
			if !missing {
				err = r.cache.WriteRows(layer, s.Offset+b.header.First, b.header.Rows, r.shift(s.Origin), r.types, b.rows.Bytes)
			}
			b.rows.Release()
			if err != nil {
				return fmt.Errorf("rows of participant %d: %w", s.Origin, err)
			}
		}
	}
	return nil
}

// await is for inside a layer: it waits until the rows of all earlier participants are here or given up, places them,
// and hides those who were given up from this layer and the later ones.
func (r *remote) await(ctx context.Context, layer int) error {
	if err := r.x.await(ctx, func() bool { return len(r.pending(layer)) == 0 }); err != nil {
		return err
	}
	if err := r.place(layer); err != nil {
		return err
	}
	for _, s := range r.earlier() {
		r.x.mu.Lock()
		missing := r.x.missing[s.Origin]
		r.x.mu.Unlock()
		if missing && !r.hidden[s.Origin] {
			if err := r.cache.Mask(s.Offset, s.Tokens); err != nil {
				return err
			}
			r.hidden[s.Origin] = true
		}
	}
	return nil
}
