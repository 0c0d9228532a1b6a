//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"fedattn/fedkv"
)

// Sampler chooses tokens; it remembers what it chose. It is used by one goroutine at a time.
type Sampler struct {
	mu  sync.Mutex
	ptr *C.struct_shim_sampler
}

// NewSampler makes a sampler for one answer.
func (m *Model) NewSampler(s Sampling) (*Sampler, error) {
	release, err := m.use()
	if err != nil {
		return nil, err
	}
	defer release()
	orOff := func(v, off float32) C.float {
		if v == 0 {
			v = off
		}
		return C.float(v)
	}
	params := C.struct_shim_sampling{
		seed: C.uint32_t(s.Seed), temperature: C.float(s.Temperature), top_k: C.int32_t(s.TopK),
		top_p: orOff(s.TopP, 1), min_p: C.float(s.MinP),
		repeat_last_n: C.int32_t(s.RepeatLastN), repeat_penalty: orOff(s.RepeatPenalty, 1),
		frequency_penalty: C.float(s.FrequencyPenalty), presence_penalty: C.float(s.PresencePenalty),
	}
	if s.Grammar != "" {
		params.grammar = C.CString(s.Grammar)
		defer C.free(unsafe.Pointer(params.grammar))
	}
	var reason errBuf
	ptr := C.shim_sampler_new(m.ptr, &params, reason.ptr(), reason.size())
	if ptr == nil {
		return nil, fmt.Errorf("llama: sampler: %s", reason.String())
	}
	return &Sampler{ptr: ptr}, nil
}

// GrammarOf returns the GBNF grammar of what a JSON schema allows, for Sampling.Grammar. It needs no model.
func GrammarOf(schema string) (string, error) {
	text := C.CString(schema)
	defer C.free(unsafe.Pointer(text))
	var reason errBuf
	buf := make([]byte, 4096)
	for {
		size := C.shim_schema_grammar(text, (*C.char)(bytesPtr(buf)), C.size_t(len(buf)), reason.ptr(), reason.size())
		switch {
		case size < 0:
			return "", fmt.Errorf("llama: the JSON schema cannot be made a grammar: %s", reason.String())
		case int(size) <= len(buf):
			return string(buf[:size]), nil
		}
		buf = make([]byte, size)
	}
}

// Next chooses a token from output i of the last Eval of c, as Logits counts them.
func (s *Sampler) Next(c *Context, i int) (fedkv.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ptr == nil {
		return 0, ErrClosed
	}
	leave, err := c.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	if i < -1 || i >= c.outputs || c.outputs == 0 {
		return 0, fmt.Errorf("llama: sampling from logits %d, the last evaluation kept %d", i, c.outputs)
	}
	if i >= 0 {
		i -= c.outputs // llama.cpp counts tokens of the batch from the front, and those with logits from the back
	}
	token := C.shim_sampler_next(s.ptr, c.ptr, C.int32_t(i))
	if token < 0 {
		return 0, errors.New("llama: the sampler found no token that its grammar allows")
	}
	return fedkv.Token(token), nil
}

// Close frees the sampler.
func (s *Sampler) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	C.shim_sampler_free(s.ptr)
	s.ptr = nil
	return nil
}
