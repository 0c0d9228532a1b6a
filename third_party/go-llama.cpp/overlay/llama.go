// Package llama binds llama.cpp to Go: models in GGUF files, text from a prompt, embeddings, state files.
//
// It is go-skynet's API over the llama.cpp that this project pins. Its options are that module's own (options.go); the
// README of third_party/go-llama.cpp says which of them do nothing today. Start reading at New and Predict.
//
// A model is safe for concurrent use: calls that evaluate wait for each other. Errors carry llama.cpp's own reason.
// Texts reach C with their length, so a zero byte is a byte like any other, except in file names, where it is an error.
package llama

// -std comes last: llama.cpp's headers are C++17.

// #cgo CXXFLAGS: -I${SRCDIR}/llama.cpp/include -I${SRCDIR}/llama.cpp/ggml/include
// #cgo CXXFLAGS: -I${SRCDIR}/llama.cpp/common -I${SRCDIR}/llama.cpp -std=c++17
// #cgo LDFLAGS: -L${SRCDIR} -lbinding -lm -lstdc++
// #cgo darwin LDFLAGS: -framework Accelerate
// #include "binding.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// LLama is a loaded model with its context.
type LLama struct {
	key        C.uint64_t // names the model in C, and nothing once it is freed
	embeddings bool
	onToken    atomic.Pointer[func(string) bool] // SetTokenCallback's
}

// New loads the GGUF model file. The context, and with it the cache, is made by the first call that evaluates. The model
// takes its memory until Free.
func New(model string, opts ...ModelOption) (*LLama, error) {
	o := NewModelOptions(opts...)
	var pin runtime.Pinner
	defer pin.Unpin()
	var err reason
	key := C.binding_load(&C.struct_binding_load_params{
		path:            lend(&pin, model),
		main_gpu:        lend(&pin, o.MainGPU),
		tensor_split:    lend(&pin, o.TensorSplit),
		lora:            lend(&pin, o.LoraAdapter),
		n_ctx:           int32c(o.ContextSize),
		n_batch:         int32c(o.NBatch),
		n_gpu_layers:    int32c(o.NGPULayers),
		seed:            C.int32_t(o.Seed),
		rope_freq_base:  C.float(unless(o.FreqRopeBase, DefaultModelOptions.FreqRopeBase)),
		rope_freq_scale: C.float(unless(o.FreqRopeScale, DefaultModelOptions.FreqRopeScale)),
		f16_cache:       C.bool(o.F16Memory),
		mlock:           C.bool(o.MLock),
		mmap:            C.bool(o.MMap),
		low_vram:        C.bool(o.LowVRAM),
		numa:            C.bool(o.NUMA),
	}, err.ptr(), err.size())
	if key == 0 {
		return nil, errors.New(err.text()) // it names the file
	}
	return &LLama{key: key, embeddings: o.Embeddings}, nil
}

// unless is 0, which leaves a value to the model file, when nobody set another than the default.
func unless(value, byDefault float32) float32 {
	if value == byDefault {
		return 0
	}
	return value
}

// Free ends the model; a second time it does nothing. A call that is still running finishes first, later ones fail.
func (l *LLama) Free() {
	C.binding_free(l.key)
}

// ModelHandle returns the llama_model* behind l, for C code that works on llama.cpp itself; nil after Free.
//
// The model belongs to l: it is gone after Free, so whatever was made from it (contexts, adapters, samplers) must be
// freed before that, and the pointer must not be passed to llama_model_free. It is safe to make contexts from it while
// l is in use.
func (l *LLama) ModelHandle() unsafe.Pointer {
	return C.binding_model(l.key)
}

// ContextHandle returns the llama_context* behind l. It is nil before the first call that evaluates something (Predict,
// SpeculativeSampling, Eval, Embeddings, TokenEmbeddings, LoadState) and after Free: New loads the model only.
//
// The context belongs to l and lives until Free. Methods of l must not run while other code uses it, and they empty its
// cache.
func (l *LLama) ContextHandle() unsafe.Pointer {
	return C.binding_context(l.key)
}

// reason receives one sentence from C.
type reason [1024]C.char

func (r *reason) ptr() *C.char   { return &r[0] }
func (r *reason) size() C.size_t { return C.size_t(len(r)) }
func (r *reason) text() string   { return C.GoString(&r[0]) }

// error is the sentence, behind what was tried.
func (r *reason) error(tried string) error {
	return fmt.Errorf("cannot %s: %s", tried, r.text())
}

// lend gives C the bytes of s until pin lets go.
func lend(pin *runtime.Pinner, s string) C.struct_binding_text {
	if s == "" {
		return C.struct_binding_text{}
	}
	data := unsafe.StringData(s)
	pin.Pin(data)
	return C.struct_binding_text{data: (*C.char)(unsafe.Pointer(data)), size: C.size_t(len(s))}
}

// int32c is n, or the nearest number that C takes.
func int32c(n int) C.int32_t {
	const most = 1<<31 - 1
	return C.int32_t(min(max(n, -most), most))
}
