//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"unsafe"
)

// OutputHook gets the residual stream [n][embedding] that leaves a layer, of the tokens at positions [first, first+n).
// The rows are the engine's own and valid during the call only. The context must not be used in it.
type OutputHook = func(layer, first, n int, rows []float32)

// SetOutputHook lets hook see what leaves every layer in the evaluations to come; nil ends that. Watching changes no
// result. At the last layer only tokens whose logits are kept have rows. It needs a federated context, and a model that
// names its layers' outputs: others call hook never.
func (c *Context) SetOutputHook(hook OutputHook) error {
	if c.inHook.Load() {
		return fmt.Errorf("llama: SetOutputHook inside a hook")
	}
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := fedError("watch layer outputs", C.shim_set_output_hook(c.ptr, C.bool(hook != nil), C.uintptr_t(c.handle))); err != nil {
		return err
	}
	c.output = hook
	return nil
}

// shimOutput runs on the thread, and so on the goroutine, that called Eval.
//
//export shimOutput
func shimOutput(layer C.int32_t, pos *C.int32_t, n C.size_t, rows *C.float, embedding C.uint32_t, handle C.uintptr_t) {
	h := cgo.Handle(handle).Value().(*hookState)
	h.context.inHook.Store(true)
	defer h.context.inHook.Store(false)
	// a panic must not unwind through C
	defer func() {
		if r := recover(); r != nil {
			h.err = fmt.Errorf("llama: panic in an output hook: %v", r)
		}
	}()
	h.context.output(int(layer), int(*pos), int(n), unsafe.Slice((*float32)(unsafe.Pointer(rows)), int(n)*int(embedding)))
}
