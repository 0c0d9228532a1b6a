package node

import (
	"slices"

	"fedattn/fedkv"
)

// staging holds blocks between their arrival and their placement, by layer and origin, in the order of their rows:
// what is placed, and in which order, does not depend on the order of arrival. The machine agrees to each row of the
// plan once, so the plan bounds it.
type staging map[stagingKey][]stagedBlock

type stagingKey struct{ layer, origin int }

type stagedBlock struct {
	fedkv.Block
	memory Rows // of the payload
}

func (s staging) find(h fedkv.BlockHeader) (stagingKey, int, bool) {
	key := stagingKey{h.Layer, h.Origin}
	i, found := slices.BinarySearchFunc(s[key], h.First, func(b stagedBlock, first int) int { return b.Header.First - first })
	return key, i, found
}

func (s staging) put(b fedkv.Block, memory Rows) {
	key, i, _ := s.find(b.Header)
	s[key] = slices.Insert(s[key], i, stagedBlock{b, memory})
}

// drop releases a block.
func (s staging) drop(h fedkv.BlockHeader) {
	if key, i, found := s.find(h); found {
		s[key][i].memory.Release()
		s[key] = slices.Delete(s[key], i, i+1)
	}
}

// take removes and returns an origin's blocks of a layer.
func (s staging) take(layer, origin int) []stagedBlock {
	key := stagingKey{layer, origin}
	blocks := s[key]
	delete(s, key)
	return blocks
}

// peek returns an origin's blocks of a layer and keeps them.
func (s staging) peek(layer, origin int) []stagedBlock { return s[stagingKey{layer, origin}] }

// dropFrom releases an origin's blocks of a layer and the later ones.
func (s staging) dropFrom(origin, layer int) {
	for key := range s {
		if key.origin == origin && key.layer >= layer {
			release(s.take(key.layer, key.origin))
		}
	}
}

// clear releases everything.
func (s staging) clear() {
	for key := range s {
		release(s.take(key.layer, key.origin))
	}
}

func release(blocks []stagedBlock) {
	for _, b := range blocks {
		b.memory.Release()
	}
}
