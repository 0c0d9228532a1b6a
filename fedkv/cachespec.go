package fedkv

import "fmt"

// CacheSpec says what a participant's engine has to hold for one session.
type CacheSpec struct {
	Sync       Schedule // its sync layers; remote cells exist at these only
	LocalCells int      // cells of a local layer: prefix, own and generated tokens
	SyncCells  int      // cells of a sync layer: the same and the remote tokens
	MicroBatch int      // tokens that go through the layers together, at most
	Outputs    int      // tokens of one evaluation whose logits are kept, at most
}

// cellPadding: llama.cpp makes and attends to a multiple of this many cells.
const cellPadding = 256

// Bytes is what the cells take: K and V rows in float16, of all layers.
func (s CacheSpec) Bytes(shape Shape) int64 {
	var n int64
	for l, layer := range shape.Layers {
		cells := s.LocalCells
		if l < s.Sync.Len() && s.Sync.Sync(l) {
			cells = s.SyncCells
		}
		n += padded(cells) * int64(layer.K+layer.V) * bytesF16
	}
	return n
}

func padded(cells int) int64 { return (int64(cells) + cellPadding - 1) / cellPadding * cellPadding }

// Validate returns an error unless every count is positive and the sync layers can hold what the local ones hold.
func (s CacheSpec) Validate() error {
	switch {
	case s.LocalCells < 1 || s.MicroBatch < 1 || s.Outputs < 1:
		return fmt.Errorf("fedkv: cache of %d cells, micro-batch %d, %d outputs: all must be positive",
			s.LocalCells, s.MicroBatch, s.Outputs)
	case s.SyncCells < s.LocalCells:
		return fmt.Errorf("fedkv: %d sync cells cannot hold the %d tokens of the local layers", s.SyncCells, s.LocalCells)
	}
	return nil
}
