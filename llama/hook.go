//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"unsafe"

	"fedattn/fedkv"
)

// Hook runs in the middle of an evaluation: at each of Layers, after K and V of the micro-batch are stored and before
// attention reads them. There ReadRows, WriteRows and Mask of the Context may be called, and nothing else of it.
type Hook struct {
	Layers fedkv.Schedule
	// OnLayer gets the micro-batch's positions [first, first+n). stop ends the evaluation after this layer's rows are
	// stored; an error does too and is what Eval returns.
	OnLayer func(layer, first, n int) (stop bool, err error)
}

// hookState is what C's user data leads to.
type hookState struct {
	context *Context
	onLayer func(layer, first, n int) (bool, error)
	stopped bool
	err     error
}

func (c *Context) setHook(hook *Hook) error {
	*c.hook = hookState{context: c}
	if hook == nil {
		if c.spec.Sync.Len() == 0 { // a plain context
			return nil
		}
		return fedError("set hook", C.shim_set_hook(c.ptr, nil, 0, 0))
	}
	if hook.Layers.Len() != c.model.Layers() {
		return fmt.Errorf("llama: a hook for %d layers in a model of %d", hook.Layers.Len(), c.model.Layers())
	}
	c.hook.onLayer = hook.OnLayer
	layers := layerMask(hook.Layers)
	return fedError("set hook", C.shim_set_hook(c.ptr, (*C.uint8_t)(bytesPtr(layers)), C.size_t(len(layers)),
		C.uintptr_t(c.handle)))
}

// shimHook runs on the thread, and so on the goroutine, that called Eval.
//
//export shimHook
func shimHook(layer C.int32_t, pos *C.int32_t, n C.size_t, handle C.uintptr_t) (stop C.int32_t) {
	h := cgo.Handle(handle).Value().(*hookState)
	h.context.inHook.Store(true)
	defer h.context.inHook.Store(false)
	// a panic must not unwind through C
	defer func() {
		if r := recover(); r != nil {
			h.err, h.stopped, stop = fmt.Errorf("llama: panic in a layer hook: %v", r), true, 1
		}
	}()
	positions := unsafe.Slice((*int32)(unsafe.Pointer(pos)), int(n))
	end, err := h.onLayer(int(layer), int(positions[0]), len(positions))
	if err != nil {
		h.err = err
	}
	if end || err != nil {
		h.stopped = true
		return 1
	}
	return 0
}
