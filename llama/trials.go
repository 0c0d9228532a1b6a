//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"fedattn/fedkv"
	"fedattn/fedkv/audit"
)

var _ audit.Trials = (*Trials)(nil)

// trialTokens of one evaluation; more continuations than fit are tried in several.
const trialTokens = 2 * C.SHIM_TRIALS

// Trials tries continuations of one known text side by side, as whoever inverts rows does. One goroutine uses it at a time.
type Trials struct {
	model *Model
	ptr   *C.struct_shim_trials
	most  int // tokens of a known text
	known []fedkv.Token
	next  []float32
}

// NewTrials makes trials for known texts of at most that many tokens. Close them before the model.
func (m *Model) NewTrials(tokens int) (*Trials, error) {
	release, err := m.use()
	if err != nil {
		return nil, err
	}
	defer release()
	if tokens < 1 || tokens > fedkv.MaxTokens {
		return nil, fmt.Errorf("llama: trials after %d tokens", tokens)
	}
	ptr := C.shim_trials_new(m.ptr, C.uint32_t(pad(tokens)), C.uint32_t(trialTokens), C.int32_t(m.Threads()))
	if ptr == nil {
		return nil, fmt.Errorf("llama: no context for trials: %s", lastLog("llama.cpp gave no reason"))
	}
	return &Trials{model: m, ptr: ptr, most: tokens}, nil
}

// Know makes text the known one and returns the logits of what follows it, [vocabulary], valid until the next call. What it
// has in common with the text before is not evaluated again.
func (t *Trials) Know(text []fedkv.Token) ([]float32, error) {
	switch {
	case t.ptr == nil:
		return nil, ErrClosed
	case len(text) < 1 || len(text) > t.most:
		return nil, fmt.Errorf("llama: a known text of %d tokens, at most %d", len(text), t.most)
	}
	if err := t.check(text); err != nil {
		return nil, err
	}
	keep := 0
	for keep < len(t.known) && keep < len(text) && t.known[keep] == text[keep] {
		keep++
	}
	if keep == len(text) && keep == len(t.known) {
		return t.next, nil
	}
	keep = min(keep, len(text)-1) // the last token's logits are needed
	more := text[keep:]
	t.known, t.next = t.known[:0], make([]float32, t.model.Vocabulary())
	runtime.LockOSThread()
	status := C.shim_trials_know(t.ptr, C.int32_t(keep), (*C.int32_t)(unsafe.SliceData(more)), C.size_t(len(more)), floatPtr(t.next))
	reason := lastLog("")
	runtime.UnlockOSThread()
	if status != 0 {
		return nil, fmt.Errorf("llama: a known text of %d tokens could not be evaluated (%d): %s", len(text), int(status), reason)
	}
	t.known = append(t.known, text...)
	return t.next, nil
}

// Try evaluates continuations of the known text, all of the same length, up to the last of the layers, and returns the rows
// of each one's last token at each of them.
func (t *Trials) Try(continuations [][]fedkv.Token, layers fedkv.Schedule) ([]audit.Rows, error) {
	if t.ptr == nil {
		return nil, ErrClosed
	}
	if len(t.known) == 0 || len(continuations) == 0 || layers.Len() != t.model.Layers() || layers.Count() == 0 {
		return nil, fmt.Errorf("llama: %d continuations of %d known tokens at %d layers", len(continuations), len(t.known), layers.Count())
	}
	length := len(continuations[0])
	if length < 1 || length > trialTokens {
		return nil, fmt.Errorf("llama: continuations of %d tokens, must be 1 to %d", length, trialTokens)
	}
	out := make([]audit.Rows, t.model.Layers())
	at := min(C.SHIM_TRIALS, trialTokens/length)
	for len(continuations) > 0 {
		n := min(at, len(continuations))
		if err := t.try(out, continuations[:n], length, layers); err != nil {
			return nil, err
		}
		continuations = continuations[n:]
	}
	return out, nil
}

func (t *Trials) try(out []audit.Rows, continuations [][]fedkv.Token, length int, layers fedkv.Schedule) error {
	var tokens []fedkv.Token
	for _, c := range continuations {
		if len(c) != length {
			return fmt.Errorf("llama: continuations of %d and of %d tokens", length, len(c))
		}
		tokens = append(tokens, c...)
	}
	if err := t.check(tokens); err != nil {
		return err
	}
	size := 0
	for _, l := range layers.Layers() {
		size += len(continuations) * (t.model.shape.Layers[l].K + t.model.shape.Layers[l].V)
	}
	rows, mask := make([]float32, size), layerMask(layers)
	runtime.LockOSThread()
	status := C.shim_trials_try(t.ptr, (*C.int32_t)(unsafe.SliceData(tokens)), C.size_t(len(tokens)), C.size_t(length),
		(*C.uint8_t)(bytesPtr(mask)), C.size_t(len(mask)), floatPtr(rows), C.size_t(size))
	reason := lastLog("")
	runtime.UnlockOSThread()
	if status != 0 {
		return fmt.Errorf("llama: %d continuations could not be evaluated (%d): %s", len(continuations), int(status), reason)
	}
	for _, l := range layers.Layers() {
		k, v := len(continuations)*t.model.shape.Layers[l].K, len(continuations)*t.model.shape.Layers[l].V
		out[l].K, out[l].V = append(out[l].K, rows[:k]...), append(out[l].V, rows[k:k+v]...)
		rows = rows[k+v:]
	}
	return nil
}

func (t *Trials) check(tokens []fedkv.Token) error {
	vocabulary := fedkv.Token(t.model.Vocabulary())
	for _, token := range tokens {
		if token < 0 || token >= vocabulary {
			return fmt.Errorf("llama: token %d is not in the vocabulary of %d", token, vocabulary)
		}
	}
	return nil
}

// Close frees what the trials hold.
func (t *Trials) Close() error {
	C.shim_trials_free(t.ptr)
	t.ptr = nil
	return nil
}
