//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
)

// State returns a copy of both caches' rows, remote ones included, and of their positions.
func (c *Context) State() ([]byte, error) {
	leave, err := c.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if c.inHook.Load() {
		return nil, fmt.Errorf("llama: the caches cannot be copied inside a layer hook")
	}
	size := C.llama_state_get_size(c.ptr)
	state := make([]byte, int(size))
	n := C.llama_state_get_data(c.ptr, (*C.uint8_t)(bytesPtr(state)), size)
	if n == 0 || n > size {
		return nil, fmt.Errorf("llama: the caches could not be copied")
	}
	return state[:n], nil
}

// SetState puts back what State returned, into a context of the same model and the same sync layers. It must never see
// bytes that another device had a hand in: llama.cpp trusts the lengths in them. After an error the caches are empty.
func (c *Context) SetState(state []byte) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if len(state) == 0 || c.inHook.Load() {
		return fmt.Errorf("llama: no state to put back, or inside a layer hook")
	}
	n := C.llama_state_set_data(c.ptr, (*C.uint8_t)(bytesPtr(state)), C.size_t(len(state)))
	if int(n) != len(state) {
		C.llama_memory_clear(C.llama_get_memory(c.ptr), true)
		return fmt.Errorf("llama: the state does not belong to this context")
	}
	return nil
}

// Clear forgets and erases every row.
func (c *Context) Clear() error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if c.inHook.Load() {
		return fmt.Errorf("llama: the caches cannot be cleared inside a layer hook")
	}
	C.llama_memory_clear(C.llama_get_memory(c.ptr), true)
	return nil
}
