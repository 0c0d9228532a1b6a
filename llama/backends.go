//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"os"
	"path/filepath"
	"unsafe"
)

// loadBackends makes sure that something can evaluate. In a build with shared libraries, as in the container image, the
// code for each kind of processor lies beside the program, and the best one for this machine is loaded.
func loadBackends() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return err
	}
	dir := C.CString(filepath.Dir(program))
	defer C.free(unsafe.Pointer(dir))
	if C.shim_backends_load(dir) == 0 {
		return errors.New("llama: no code for this machine's processor beside " + program)
	}
	return nil
}
