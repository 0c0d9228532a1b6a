package llama

// #include "binding.h"
import "C"

import (
	"errors"
	"sync/atomic"
	"unsafe"
)

// ModelHandle returns the llama_model* behind l, for C code that works on llama.cpp itself; nil after Free.
//
// The model belongs to l: it is gone after Free, so whatever was made from it (contexts, adapters, samplers) must be
// freed before that, and the pointer must not be passed to llama_model_free. It is safe to make contexts from it while
// l is in use.
func (l *LLama) ModelHandle() unsafe.Pointer {
	return C.llama_binding_model(l.state)
}

// ContextHandle returns the llama_context* behind l. It is nil before the first call that evaluates something (Predict,
// SpeculativeSampling, Eval, Embeddings, TokenEmbeddings, LoadState) and after Free: New loads the model only.
//
// The context belongs to l and lives until Free. Methods of l must not run while other code uses it, and they empty its
// cache.
func (l *LLama) ContextHandle() unsafe.Pointer {
	return C.llama_binding_context(l.state)
}

// EmbeddingSize is the length of the model's embeddings, the least value of SetTokens that Embeddings and
// TokenEmbeddings accept. What they return behind that many numbers is zero. It is 0 after Free.
func (l *LLama) EmbeddingSize() int {
	return int(C.llama_binding_embedding_size(l.state))
}

// LastError returns the reason of the last failure of a call on l, nil when that call did not fail. The methods
// themselves return texts such as "inference failed" only, and SaveState reports a file that it did not write as a
// missing file.
func (l *LLama) LastError() error {
	return lastError(l.state)
}

// LoadError returns the reason of the last failure of New in this process, nil when none has failed.
func LoadError() error {
	return lastError(nil)
}

func lastError(state unsafe.Pointer) error {
	var buf [1024]C.char
	if C.llama_binding_error(state, &buf[0], C.size_t(len(buf))) == 0 {
		return nil
	}
	return errors.New(C.GoString(&buf[0]))
}

// LogLevel is a level of llama.cpp's log.
type LogLevel int

// The levels, in ggml.h's numbers.
const (
	LogDebug LogLevel = 1 + iota
	LogInfo
	LogWarn
	LogError
)

var logCallback atomic.Pointer[func(level LogLevel, text string)]

// SetLog sends llama.cpp's log, of all models, from level on to fn. A text is a line or a part of one, with its line
// feed. fn is called from threads of llama.cpp too, and several calls may run at once. With nil the default is back:
// errors go to where llama.cpp's log went before the first New, which is standard error if nobody changed it, and the
// rest is dropped.
func SetLog(level LogLevel, fn func(level LogLevel, text string)) {
	if fn == nil {
		C.llama_binding_log(0)
		logCallback.Store(nil)
		return
	}
	logCallback.Store(&fn)
	C.llama_binding_log(C.int(max(level, LogDebug)))
}

//export bindingLog
func bindingLog(level C.int, text *C.char) {
	if fn := logCallback.Load(); fn != nil {
		(*fn)(LogLevel(level), C.GoString(text))
	}
}
