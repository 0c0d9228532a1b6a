//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	golama "github.com/go-skynet/go-llama.cpp"

	"fedattn/fedkv"
)

// Model is a loaded GGUF model. Contexts of one Model share its weights. It is safe for concurrent use.
type Model struct {
	path   string
	params ModelParams
	shape  fedkv.Shape
	inUse  atomic.Int32 // threads, see UseThreads; 0: all

	mu       sync.RWMutex // held for writing by Close, for reading while C uses the model
	binding  *golama.LLama
	ptr      *C.struct_llama_model
	vocab    *C.struct_llama_vocab
	template *C.struct_shim_template // nil: the model has none, or it does not parse
	noChat   string                  // why template is nil
	noHome   error                   // why rows cannot stay home; nil if they can
}

// Load reads the model file at path. It fails with ErrNotGGUF for another kind of file and with ErrUnsupported for a
// model whose attention cannot be federated, and with ErrNoGPU if there is no GPU for params.GPULayers.
func Load(path string, params ModelParams) (*Model, error) {
	if err := checkMagic(path); err != nil {
		return nil, err
	}
	opts := []golama.ModelOption{golama.SetMMap(!params.NoMMap)}
	if params.GPULayers > 0 {
		opts = append(opts, golama.SetGPULayers(params.GPULayers))
	}
	if params.MLock {
		opts = append(opts, golama.EnableMLock)
	}
	// before, so that the reason of a failure is told once, as an error, and not by llama.cpp on stderr too; and after,
	// because the binding takes the log over when it loads its first model
	C.shim_log_init()
	if err := loadBackends(); err != nil {
		return nil, err
	}
	if params.GPULayers > 0 && !bool(C.llama_supports_gpu_offload()) {
		return nil, ErrNoGPU
	}
	binding, err := golama.New(path, opts...)
	C.shim_log_init()
	if err != nil {
		return nil, err // it names the file
	}
	m := &Model{
		path: path, params: params, binding: binding,
		ptr: (*C.struct_llama_model)(binding.ModelHandle()),
	}
	m.vocab = C.llama_model_get_vocab(m.ptr)

	var reason errBuf
	if C.llama_fed_check_model(m.ptr, reason.ptr(), reason.size()) != C.LLAMA_FED_OK {
		binding.Free()
		return nil, fmt.Errorf("%s: %w: %s", path, ErrUnsupported, reason.String())
	}
	if C.llama_fed_home_check(m.ptr, reason.ptr(), reason.size()) != C.LLAMA_FED_OK {
		m.noHome = fmt.Errorf("%w with rows that stay home: %s", ErrUnsupported, reason.String())
	}
	for il := range int(C.llama_model_n_layer(m.ptr)) {
		var k, v, window C.uint32_t
		if err := fedError("row shape", C.llama_fed_row_shape(m.ptr, C.int32_t(il), &k, &v, &window)); err != nil {
			binding.Free()
			return nil, fmt.Errorf("%s: %w: layer %d has no K and V rows", path, ErrUnsupported, il)
		}
		shape := fedkv.LayerShape{K: int(k), V: int(v), Window: int(window)}
		var heads, kvHeads C.uint32_t
		if m.noHome == nil && C.llama_fed_head_count(m.ptr, C.int32_t(il), &heads, &kvHeads) == C.LLAMA_FED_OK {
			shape.Heads, shape.KVHeads = int(heads), int(kvHeads)
		}
		m.shape.Layers = append(m.shape.Layers, shape)
	}
	m.template = C.shim_template_new(m.ptr, reason.ptr(), reason.size())
	if m.template == nil {
		m.noChat = reason.String()
	}
	return m, nil
}

// checkMagic tells the plain mistakes apart before llama.cpp sees the file.
func checkMagic(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if string(magic[:]) != "GGUF" {
		return fmt.Errorf("%s: %w", path, ErrNotGGUF)
	}
	return nil
}

// Close frees the model. Contexts, templates and samplers of it must be closed before.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ptr == nil {
		return nil
	}
	C.shim_template_free(m.template)
	m.binding.Free()
	m.binding, m.ptr, m.vocab, m.template = nil, nil, nil, nil
	return nil
}

// use holds the model open until the returned function is called.
func (m *Model) use() (release func(), err error) {
	m.mu.RLock()
	if m.ptr == nil {
		m.mu.RUnlock()
		return nil, ErrClosed
	}
	return m.mu.RUnlock, nil
}

// Path is the file the model was loaded from.
func (m *Model) Path() string { return m.path }

// Shape is the model's KV geometry, layer by layer.
func (m *Model) Shape() fedkv.Shape { return m.shape }

// Layers is the number of Transformer layers.
func (m *Model) Layers() int { return len(m.shape.Layers) }

// Threads that an evaluation uses at most.
func (m *Model) Threads() int { return m.params.threads() }

// UseThreads lets the evaluations that begin from now on, of all contexts, use n threads; at least 1, and at most as
// many as Threads says. Results may differ in float order.
func (m *Model) UseThreads(n int) { m.inUse.Store(int32(min(max(n, 1), m.Threads()))) }

// ContextTrain is the number of positions that the model was trained for.
func (m *Model) ContextTrain() int {
	release, err := m.use()
	if err != nil {
		return 0
	}
	defer release()
	return int(C.llama_model_n_ctx_train(m.ptr))
}

// Vocabulary is the number of tokens, the length of a row of logits.
func (m *Model) Vocabulary() int {
	release, err := m.use()
	if err != nil {
		return 0
	}
	defer release()
	return int(C.llama_vocab_n_tokens(m.vocab))
}

// Description is llama.cpp's one-line name of architecture, size and quantisation.
func (m *Model) Description() string {
	release, err := m.use()
	if err != nil {
		return ""
	}
	defer release()
	var buf [128]C.char
	C.llama_model_desc(m.ptr, &buf[0], C.size_t(len(buf)))
	return C.GoString(&buf[0])
}

// Size is what all tensors take, in bytes.
func (m *Model) Size() int64 { return m.figure(func() C.uint64_t { return C.llama_model_size(m.ptr) }) }

// Parameters is how many numbers are in all tensors.
func (m *Model) Parameters() int64 {
	return m.figure(func() C.uint64_t { return C.llama_model_n_params(m.ptr) })
}

// figure is a number that C knows of an open model, 0 of a closed one.
func (m *Model) figure(ask func() C.uint64_t) int64 {
	release, err := m.use()
	if err != nil {
		return 0
	}
	defer release()
	return int64(ask())
}

// Metadata returns the value of a GGUF metadata key as text; false if the model lacks it or it is an array.
func (m *Model) Metadata(key string) (string, bool) {
	release, err := m.use()
	if err != nil {
		return "", false
	}
	defer release()
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	n := C.llama_model_meta_val_str(m.ptr, k, nil, 0)
	if n < 0 {
		return "", false
	}
	buf := make([]byte, int(n)+1)
	C.llama_model_meta_val_str(m.ptr, k, (*C.char)(bytesPtr(buf)), C.size_t(len(buf)))
	return string(buf[:n]), true
}
