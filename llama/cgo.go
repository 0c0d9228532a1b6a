//go:build cgo

package llama

// The libraries to link come from go-llama.cpp's own flags.

// #cgo CPPFLAGS: -I${SRCDIR}/../third_party/llama.cpp/fed
// #cgo CPPFLAGS: -I${SRCDIR}/../third_party/go-llama.cpp/src/llama.cpp/include
// #cgo CPPFLAGS: -I${SRCDIR}/../third_party/go-llama.cpp/src/llama.cpp/ggml/include
// #cgo CXXFLAGS: -I${SRCDIR}/../third_party/go-llama.cpp/src/llama.cpp/common
// #cgo CXXFLAGS: -I${SRCDIR}/../third_party/go-llama.cpp/src/llama.cpp/vendor
// #cgo CXXFLAGS: -std=c++17 -O2
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"

	"fedattn/fedkv"
)

// Allocated is how many bytes the engine, and other C code of the process, has allocated and not freed; 0 where the C library
// does not say. Go's runtime knows nothing of them.
func Allocated() int64 { return int64(C.shim_allocated()) }

// Commit is the llama.cpp commit that the engine was built from.
func Commit() string { return C.GoString(C.shim_commit()) }

const errSize = 512

// errBuf receives one sentence from C.
type errBuf [errSize]C.char

func (b *errBuf) ptr() *C.char   { return &b[0] }
func (b *errBuf) size() C.size_t { return errSize }
func (b *errBuf) String() string { return C.GoString(&b[0]) }

// lastLog returns llama.cpp's last error line of this thread, or otherwise if there was none.
func lastLog(otherwise string) string {
	var b errBuf
	if C.shim_log_take(b.ptr(), b.size()) == 0 {
		return otherwise
	}
	return b.String()
}

// fedError turns a status of llama-fed.h into an error.
func fedError(what string, status C.int32_t) error {
	switch status {
	case C.LLAMA_FED_OK:
		return nil
	case C.LLAMA_FED_E_FULL:
		return fmt.Errorf("llama: %s: %w", what, ErrContextFull)
	case C.LLAMA_FED_E_UNSUPPORTED:
		return fmt.Errorf("llama: %s: %w", what, ErrUnsupported)
	case C.LLAMA_FED_E_MEMORY:
		return fmt.Errorf("llama: %s: %w", what, fedkv.ErrMemory)
	}
	return fmt.Errorf("llama: %s: %s", what, C.GoString(C.llama_fed_strerror(status)))
}

// bytesPtr is the address of b's first byte; b must not be empty.
func bytesPtr(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }
