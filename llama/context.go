//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime"
	"runtime/cgo"
	"sync"
	"sync/atomic"
	"unsafe"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// cellPadding: llama.cpp attends to a multiple of this many cells, so that caches of other sizes sum in the same order.
const cellPadding = 256

// Context is one participant's forward pass: two KV caches over a Model's weights (see llama-fed.h). It is used by one
// goroutine at a time; only Interrupt may be called from others.
type Context struct {
	model *Model
	spec  fedkv.CacheSpec

	mu      sync.Mutex
	ptr     *C.struct_llama_context
	threads *C.struct_shim_threads
	inUse   int32 // threads of the next evaluation; 0: all
	outputs int   // rows of logits that the last evaluation left

	abort  *C.struct_shim_abort
	hook   *hookState
	handle cgo.Handle
	inHook atomic.Bool
	output OutputHook
	query  QueryHook
	home   *node.Home
}

// NewContext allocates the caches of spec.
func (m *Model) NewContext(spec fedkv.CacheSpec) (*Context, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if spec.Sync.Len() != m.Layers() {
		return nil, fmt.Errorf("llama: a schedule of %d layers for a model of %d", spec.Sync.Len(), m.Layers())
	}
	return m.newContext(spec, func(params C.struct_llama_context_params) (*C.struct_llama_context, error) {
		layers := layerMask(spec.Sync)
		sync := (*C.uint8_t)(C.CBytes(layers))
		defer C.free(unsafe.Pointer(sync))
		fed := C.struct_llama_fed_params{
			sync_layers:   sync,
			n_layers:      C.size_t(len(layers)),
			n_cells_local: C.uint32_t(pad(spec.LocalCells)),
			n_cells_sync:  C.uint32_t(pad(spec.SyncCells)),
		}
		var status C.int32_t
		var reason errBuf
		ptr := C.llama_fed_init(m.ptr, params, &fed, &status, reason.ptr(), reason.size())
		if ptr == nil {
			return nil, fmt.Errorf("%w (%s)", fedError("new context", status), lastLog(reason.String()))
		}
		return ptr, nil
	})
}

// NewPlainContext is llama.cpp's own context with its ordinary cache of the given number of cells: one process that
// evaluates everything itself. It is what federated results are measured against, and it has no rows to exchange.
func (m *Model) NewPlainContext(cells, microBatch, outputs int) (*Context, error) {
	spec := fedkv.CacheSpec{LocalCells: cells, SyncCells: cells, MicroBatch: microBatch, Outputs: outputs}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return m.newContext(spec, func(params C.struct_llama_context_params) (*C.struct_llama_context, error) {
		params.n_ctx = C.uint32_t(pad(cells))
		params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_ENABLED
		ptr := C.llama_init_from_model(m.ptr, params)
		if ptr == nil {
			return nil, fmt.Errorf("llama: new context: %s", lastLog("llama.cpp gave no reason"))
		}
		return ptr, nil
	})
}

func (m *Model) newContext(spec fedkv.CacheSpec,
	create func(C.struct_llama_context_params) (*C.struct_llama_context, error)) (*Context, error) {
	release, err := m.use()
	if err != nil {
		return nil, err
	}
	defer release()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	c := &Context{model: m, spec: spec, abort: C.shim_abort_new()}
	if c.abort == nil {
		return nil, fmt.Errorf("llama: out of memory")
	}
	params := C.llama_context_default_params()
	params.n_batch = C.uint32_t(pad(spec.SyncCells))
	params.n_ubatch = C.uint32_t(spec.MicroBatch)
	params.n_outputs_max = C.uint32_t(spec.Outputs)
	params.n_threads = C.int32_t(m.Threads())
	params.n_threads_batch = C.int32_t(m.Threads())
	params.no_perf = true
	params.rope_freq_base, params.rope_freq_scale = C.float(m.params.ropeBase), C.float(m.params.ropeScale)
	if m.params.yarnFrom > 0 {
		params.rope_scaling_type, params.yarn_orig_ctx = C.LLAMA_ROPE_SCALING_TYPE_YARN, C.uint32_t(m.params.yarnFrom)
	}
	C.shim_abort_install(c.abort, &params)

	if c.ptr, err = create(params); err != nil {
		C.shim_abort_free(c.abort)
		return nil, err
	}
	c.threads = C.shim_threads_attach(c.ptr, C.int32_t(m.Threads()))
	c.hook = new(hookState)
	c.handle = cgo.NewHandle(c.hook)
	return c, nil
}

func pad(cells int) int { return (cells + cellPadding - 1) / cellPadding * cellPadding }

// layerMask is one byte per layer, 1 for those in s.
func layerMask(s fedkv.Schedule) []byte {
	mask := make([]byte, s.Len())
	for _, l := range s.Layers() {
		mask[l] = 1
	}
	return mask
}

// Close erases the caches' rows and frees them: others' rows are in them, and freed memory keeps what was there.
func (c *Context) Close() error {
	if c.inHook.Load() {
		return fmt.Errorf("llama: Close inside a layer hook")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ptr == nil {
		return nil
	}
	C.shim_threads_free(c.threads)
	if memory := C.llama_get_memory(c.ptr); memory != nil {
		C.llama_memory_clear(memory, true)
	}
	C.llama_free(c.ptr)
	C.shim_abort_free(c.abort)
	c.handle.Delete()
	c.ptr, c.threads, c.abort = nil, nil, nil
	return nil
}

// enter gives the calling goroutine the context. Inside a hook the evaluation holds it already.
func (c *Context) enter() (leave func(), err error) {
	if c.inHook.Load() {
		return func() {}, nil
	}
	c.mu.Lock()
	if c.ptr == nil {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	return c.mu.Unlock, nil
}

// Eval runs tokens, at positions pos, pos+1, …, through the layers in micro-batches and keeps their rows in the caches.
// Logits are kept of the last outputs tokens. If hook is not nil it is called at its layers, once per micro-batch. After a hook that stopped the pass there are no
// logits.
func (c *Context) Eval(tokens []fedkv.Token, pos int, outputs int, hook *Hook) error {
	if c.inHook.Load() {
		return fmt.Errorf("llama: Eval inside a layer hook")
	}
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case len(tokens) == 0 || pos < 0:
		return fmt.Errorf("llama: Eval of %d tokens at position %d", len(tokens), pos)
	case outputs < 0 || outputs > min(len(tokens), c.spec.Outputs):
		return fmt.Errorf("llama: logits of %d of %d tokens, the context keeps %d", outputs, len(tokens), c.spec.Outputs)
	}
	vocabulary := fedkv.Token(c.model.Vocabulary())
	for i, t := range tokens {
		if t < 0 || t >= vocabulary {
			return fmt.Errorf("llama: token %d (number %d) is not in the vocabulary of %d", t, i, vocabulary)
		}
	}
	if err := c.setHook(hook); err != nil {
		return err
	}
	c.outputs = 0
	C.shim_abort_set(c.abort, false)
	if n := c.model.inUse.Load(); n != c.inUse {
		C.shim_threads_use(c.ptr, C.int32_t(n))
		c.inUse = n
	}

	runtime.LockOSThread()
	status := C.shim_decode(c.ptr, (*C.int32_t)(unsafe.SliceData(tokens)), C.int32_t(len(tokens)), C.int32_t(pos),
		C.int32_t(outputs))
	reason := lastLog("")
	runtime.UnlockOSThread()
	runtime.KeepAlive(tokens)

	if err := c.hook.err; err != nil {
		return err
	}
	switch status {
	case 0:
		if !c.hook.stopped {
			c.outputs = outputs
		}
		return nil
	case 1:
		return fmt.Errorf("llama: %d tokens at position %d: %w", len(tokens), pos, ErrContextFull)
	case 2:
		return ErrInterrupted
	}
	return fmt.Errorf("llama: evaluation failed (%d): %s", int(status), reason)
}

// Interrupt stops a running Eval soon; it then returns ErrInterrupted. Any goroutine may call it.
func (c *Context) Interrupt() {
	// not under mu, which the evaluation holds: Close must not run at the same time, by contract
	if a := c.abort; a != nil {
		C.shim_abort_set(a, true)
	}
}

// Logits returns a copy of output i's logits [vocabulary] of the last Eval; i counts the kept tokens from 0, and -1 is
// the last one.
func (c *Context) Logits(i int) ([]float32, error) {
	leave, err := c.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if i == -1 {
		i = c.outputs - 1
	}
	if i < 0 || i >= c.outputs {
		return nil, fmt.Errorf("llama: no logits %d, the last evaluation kept %d", i, c.outputs)
	}
	// llama_get_logits holds the kept rows one after another
	all := C.llama_get_logits(c.ptr)
	if all == nil {
		return nil, fmt.Errorf("llama: no logits")
	}
	n := c.model.Vocabulary()
	out := make([]float32, n)
	copy(out, unsafe.Slice((*float32)(unsafe.Pointer(all)), (i+1)*n)[i*n:])
	return out, nil
}
