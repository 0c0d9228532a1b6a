//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"unsafe"
)

// QueryHook gets what the tokens at positions [first, first+n) look for at a layer: rows [n][elements of a K row], the
// query heads that share a KV head averaged, rotated back to position 0. The rows are the engine's own and valid during
// the call only. The context must not be used in it.
type QueryHook = func(layer, first, n, heads int, rows []float32)

// SetQueryHook lets hook see the queries of every layer in the evaluations to come; nil ends that. Watching changes no
// result. It needs a federated context; layers whose rows cannot be rotated are not shown.
func (c *Context) SetQueryHook(hook QueryHook) error {
	if c.inHook.Load() {
		return fmt.Errorf("llama: SetQueryHook inside a hook")
	}
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := fedError("watch queries", C.shim_set_query_hook(c.ptr, C.bool(hook != nil), C.uintptr_t(c.handle))); err != nil {
		return err
	}
	c.query = hook
	return nil
}

// shimQuery runs on the thread, and so on the goroutine, that called Eval.
//
//export shimQuery
func shimQuery(layer C.int32_t, pos *C.int32_t, n C.size_t, rows *C.float, heads, elements C.uint32_t, handle C.uintptr_t) {
	h := cgo.Handle(handle).Value().(*hookState)
	h.context.inHook.Store(true)
	defer h.context.inHook.Store(false)
	// a panic must not unwind through C
	defer func() {
		if r := recover(); r != nil {
			h.err = fmt.Errorf("llama: panic in a query hook: %v", r)
		}
	}()
	h.context.query(int(layer), int(*pos), int(n), int(heads), unsafe.Slice((*float32)(unsafe.Pointer(rows)), int(n)*int(elements)))
}
