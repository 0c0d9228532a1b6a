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
