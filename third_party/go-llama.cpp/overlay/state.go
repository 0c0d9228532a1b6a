package llama

// #include "binding.h"
import "C"

import "runtime"

// SaveState writes what Eval, LoadState or a prediction left in the cache, tokens and rows, to the file dst, which only
// its owner may read: whole, or not at all, and then a file that was there before stays.
func (l *LLama) SaveState(dst string) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	var err reason
	if C.binding_save_state(l.key, lend(&pin, dst), err.ptr(), err.size()) != 0 {
		return err.error("save the state")
	}
	return nil
}

// LoadState reads a file of SaveState, for a Predict that goes on from it. It refuses files that are damaged or of
// another model; then the cache is empty.
func (l *LLama) LoadState(state string) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	var err reason
	if C.binding_load_state(l.key, lend(&pin, state), err.ptr(), err.size()) != 0 {
		return err.error("load the state")
	}
	return nil
}
