package node

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"fedattn/fedkv"
)

// Blocks come out in the order of their rows, whatever the order in which they came, and each is released once.
func TestStagingKeepsRowsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := staging{}
		released := map[fedkv.BlockHeader]int{}
		var all []fedkv.BlockHeader
		for layer := range 3 {
			for origin := range 3 {
				for first := range 4 {
					all = append(all, fedkv.BlockHeader{Layer: layer, Origin: origin, First: first, Rows: 1})
				}
			}
		}
		for _, h := range rapid.Permutation(all).Draw(t, "arrival") {
			s.put(fedkv.Block{Header: h}, Rows{Release: func() { released[h]++ }})
		}
		dropped := rapid.SampledFrom(all).Draw(t, "dropped")
		s.drop(dropped)
		s.drop(dropped) // is not there
		lost, from := rapid.IntRange(0, 2).Draw(t, "lost"), rapid.IntRange(0, 3).Draw(t, "from")
		s.dropFrom(lost, from)

		gone := func(h fedkv.BlockHeader) bool { return h == dropped || h.Origin == lost && h.Layer >= from }
		for layer := range 2 { // the third is cleared
			for origin := range 3 {
				var want []fedkv.BlockHeader
				for _, h := range all {
					if h.Layer == layer && h.Origin == origin && !gone(h) {
						want = append(want, h)
					}
				}
				var got []fedkv.BlockHeader
				blocks := s.take(layer, origin)
				for _, b := range blocks {
					got = append(got, b.Header)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("layer %d of %d: %v, want %v", layer, origin, got, want)
				}
				if len(s.take(layer, origin)) != 0 {
					t.Fatal("taken twice")
				}
				release(blocks)
			}
		}
		s.clear()
		if len(s) != 0 {
			t.Fatalf("%d keys stay", len(s))
		}
		for _, h := range all {
			if released[h] != 1 {
				t.Fatalf("%+v is released %d times", h, released[h])
			}
		}
	})
}
