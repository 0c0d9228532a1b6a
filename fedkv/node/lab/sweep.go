package lab

import (
	"context"
	"errors"
	"fmt"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Sweep is a prompt whose contributors are evaluated: what a publisher makes of their rows can then be tried again and
// again, with other sync layers and other wire types, for the price of the publisher's segment each time. The
// contributors are caches of the engine, one after the other and without a network; the logits are those of the
// session, bit for bit.
type Sweep struct {
	engine Engine
	prompt Prompt
	layout fedkv.Layout
	batch  int
	caches []node.Cache // of the contributors, which keep the rows of all layers
	at     []int        // where their segments were evaluated
}

// NewSweep evaluates the contributors: with none of their layers in sync alone and right behind the prefix, otherwise
// in place, exchanging rows in the given wire types as they do in lockstep.
func NewSweep(ctx context.Context, e Engine, p Prompt, contributors fedkv.Schedule, wire fedkv.Wire) (*Sweep, error) {
	tokens := make([]int, len(p.Segments))
	s := &Sweep{engine: e, prompt: p, batch: len(p.Prefix)}
	for i, segment := range p.Segments {
		tokens[i] = len(segment)
		s.batch = max(s.batch, len(segment))
	}
	var err error
	if s.layout, err = fedkv.NewLayout(len(p.Prefix), tokens); err != nil {
		return nil, err
	}
	for _, segment := range s.layout.Segments[:len(s.layout.Segments)-1] {
		if err := s.contribute(ctx, segment, contributors, wire); err != nil {
			return nil, errors.Join(fmt.Errorf("participant %d: %w", segment.Origin+1, err), s.Close())
		}
	}
	return s, nil
}

// contribute evaluates one segment through all layers.
func (s *Sweep) contribute(ctx context.Context, segment fedkv.Segment, sync fedkv.Schedule, wire fedkv.Wire) error {
	at := segment.Offset
	if sync.Count() == 0 {
		at = s.layout.Prefix
	}
	cache, err := s.engine.Open(fedkv.CacheSpec{
		Sync: sync, LocalCells: s.layout.Prefix + segment.Tokens, SyncCells: at + segment.Tokens,
		MicroBatch: s.batch, Outputs: 1,
	})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, cache.Interrupt)()
	s.caches, s.at = append(s.caches, cache), append(s.at, at)
	_, err = s.evaluate(cache, segment.Origin, sync, wire, at, 0)
	return errors.Join(ctx.Err(), err)
}

// evaluate runs prefix and a segment, placing the rows of the segments before it at its sync layers. It returns the
// bytes of these rows on the wire.
func (s *Sweep) evaluate(c node.Cache, origin int, sync fedkv.Schedule, wire fedkv.Wire, at, outputs int) (int64, error) {
	if len(s.prompt.Prefix) > 0 {
		if err := c.Eval(s.prompt.Prefix, 0, 0, nil); err != nil {
			return 0, err
		}
	}
	earlier := s.layout.Segments[:origin]
	if sync.Count() > 0 {
		for _, e := range earlier {
			if err := c.Reserve(e.Offset, e.Tokens); err != nil {
				return 0, err
			}
		}
	}
	if at > s.layout.Prefix {
		if err := c.SetNext(at); err != nil {
			return 0, err
		}
	}
	var bytes int64
	var rows []byte
	err := c.Eval(s.prompt.Segments[origin], at, outputs, &node.Hook{
		Layers: sync,
		OnLayer: func(layer, _, _ int) (stop bool, err error) {
			for i, e := range earlier {
				from := s.caches[i]
				first, n := s.needed(layer, e, at)
				if n == 0 {
					continue
				}
				rows, err = from.AppendRows(rows[:0], layer, fedkv.Span(s.at[i]+first, n), wire.At(layer))
				if err != nil {
					return true, err
				}
				bytes += int64(len(rows))
				pos := fedkv.Span(e.Offset+first, n)
				if err := c.WriteRows(layer, pos, e.Offset-s.at[i], wire.At(layer), rows); err != nil {
					return true, err
				}
			}
			return false, nil
		},
	})
	return bytes, err
}

// needed is which rows of a segment, [first, first+n), a receiver whose own tokens begin at a position attends to.
func (s *Sweep) needed(layer int, e fedkv.Segment, at int) (first, n int) {
	first = s.engine.Shape().Layers[layer].FirstRow(e, at)
	return first, e.Tokens - first
}

// Publish evaluates the publisher's segment with these sync layers and returns its logits, [own tokens][vocabulary],
// and the bytes of rows that it received.
func (s *Sweep) Publish(ctx context.Context, sync fedkv.Schedule, wire fedkv.Wire) (run []float32, bytes int64, err error) {
	own := s.layout.Segments[len(s.layout.Segments)-1]
	cache, err := s.engine.Open(fedkv.CacheSpec{
		Sync: sync, LocalCells: s.layout.Prefix + own.Tokens, SyncCells: own.End(), MicroBatch: s.batch, Outputs: own.Tokens,
	})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	defer context.AfterFunc(ctx, cache.Interrupt)()
	bytes, err = s.evaluate(cache, own.Origin, sync, wire, own.Offset, own.Tokens)
	if err != nil {
		return nil, 0, errors.Join(ctx.Err(), err)
	}
	run, err = logits(cache, own.Tokens)
	return run, bytes, err
}

// Close frees the contributors' caches.
func (s *Sweep) Close() error {
	var errs []error
	for _, c := range s.caches {
		errs = append(errs, c.Close())
	}
	s.caches = nil
	return errors.Join(errs...)
}
