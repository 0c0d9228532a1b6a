//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"unsafe"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

var _ node.HomeCache = cache{}

// SetHome shares attention at some layers with other devices in the evaluations to come; nil ends that. It needs a
// federated context, and fails with ErrUnsupported for attention that cannot be shared.
func (c *Context) SetHome(home *node.Home) error {
	if c.inHook.Load() {
		return fmt.Errorf("llama: SetHome inside a hook")
	}
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if home == nil {
		c.home = nil
		return fedError("share attention", C.shim_set_home(c.ptr, nil, 0, 0))
	}
	if err := c.model.noHome; err != nil {
		return err
	}
	if home.Layers.Len() != c.model.Layers() {
		return fmt.Errorf("llama: attention shared at %d layers in a model of %d", home.Layers.Len(), c.model.Layers())
	}
	layers := layerMask(home.Layers)
	if err := fedError("share attention", C.shim_set_home(c.ptr, (*C.uint8_t)(bytesPtr(layers)), C.size_t(len(layers)),
		C.uintptr_t(c.handle))); err != nil {
		return err
	}
	c.home = home
	return nil
}

// shared runs one of the functions of Home, on the thread, and so on the goroutine, that called Eval. Non-zero stops the
// evaluation.
func shared(handle C.uintptr_t, call func(home *node.Home) error) (stop C.int32_t) {
	h := cgo.Handle(handle).Value().(*hookState)
	h.context.inHook.Store(true)
	defer h.context.inHook.Store(false)
	// a panic must not unwind through C
	defer func() {
		if r := recover(); r != nil {
			h.err, h.stopped, stop = fmt.Errorf("llama: panic in shared attention: %v", r), true, 1
		}
	}()
	if err := call(h.context.home); err != nil {
		h.err, h.stopped = err, true
		h.context.Interrupt() // micro-batches to come have to be kept from beginning
		return 1
	}
	return 0
}

//export shimHomeAsk
func shimHomeAsk(layer C.int32_t, pos *C.int32_t, n C.size_t, q *C.float, heads, dim C.uint32_t, handle C.uintptr_t) C.int32_t {
	queries := unsafe.Slice((*float32)(unsafe.Pointer(q)), int(n)*int(heads)*int(dim))
	return shared(handle, func(home *node.Home) error { return home.Ask(int(layer), int(*pos), int(n), queries) })
}

//export shimHomeMerge
func shimHomeMerge(layer C.int32_t, pos *C.int32_t, n C.size_t, out, lse *C.float, heads, dim C.uint32_t, handle C.uintptr_t) C.int32_t {
	own := fedkv.Partial{
		Out: unsafe.Slice((*float32)(unsafe.Pointer(out)), int(n)*int(heads)*int(dim)),
		LSE: unsafe.Slice((*float32)(unsafe.Pointer(lse)), int(n)*int(heads)),
	}
	return shared(handle, func(home *node.Home) error { return home.Merge(int(layer), int(*pos), int(n), own) })
}

// keptRows are rows outside any context.
type keptRows struct{ ptr *C.struct_llama_fed_rows }

// KeepRows copies rows of some layers at the positions, strictly increasing, out of the caches. They answer queries and
// outlive the context.
func (c *Context) KeepRows(layers fedkv.Schedule, at []int32) (node.KeptRows, error) {
	if c.inHook.Load() {
		return nil, fmt.Errorf("llama: KeepRows inside a hook")
	}
	leave, err := c.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := c.model.noHome; err != nil {
		return nil, err
	}
	if layers.Len() != c.model.Layers() || len(at) == 0 || at[0] < 0 {
		return nil, fmt.Errorf("llama: %d rows of %d layers in a model of %d", len(at), layers.Len(), c.model.Layers())
	}
	mask := layerMask(layers)
	var status C.int32_t
	ptr := C.llama_fed_rows_keep(c.ptr, (*C.uint8_t)(bytesPtr(mask)), C.size_t(len(mask)),
		posPtr(at), C.size_t(len(at)), C.int32_t(c.model.Threads()), &status)
	if ptr == nil {
		return nil, fedError("keep rows", status)
	}
	return &keptRows{ptr}, nil
}

func (r *keptRows) Attend(layer, shift, first, n int, queries []float32, p fedkv.Partial) error {
	if r.ptr == nil {
		return ErrClosed
	}
	return fedError("attend", C.llama_fed_rows_attend(r.ptr, C.int32_t(layer), C.llama_pos(shift), C.llama_pos(first), C.size_t(n),
		floatPtr(queries), C.size_t(len(queries)), floatPtr(p.Out), C.size_t(len(p.Out)), floatPtr(p.LSE), C.size_t(len(p.LSE))))
}

func floatPtr(v []float32) *C.float { return (*C.float)(unsafe.SliceData(v)) }

func (r *keptRows) Bytes() int64 { return int64(C.llama_fed_rows_bytes(r.ptr)) }

func (r *keptRows) Close() error {
	C.llama_fed_rows_free(r.ptr)
	r.ptr = nil
	return nil
}
