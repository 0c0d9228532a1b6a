//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"slices"
	"unsafe"

	"fedattn/fedkv"
)

// posPtr is where positions begin, as C sees them.
func posPtr(pos []int32) *C.llama_pos { return (*C.llama_pos)(unsafe.SliceData(pos)) }

// Reserve makes remote cells at positions [first, first+n) of every sync layer. Their rows are zero until written.
func (c *Context) Reserve(first, n int) error {
	return c.onCells("reserve", first, n, func(pos *C.llama_pos, n C.size_t) C.int32_t {
		return C.llama_fed_reserve(c.ptr, pos, n)
	})
}

// Release frees the cells at positions [first, first+n) of every sync layer and erases their rows.
func (c *Context) Release(first, n int) error {
	return c.onCells("release", first, n, func(pos *C.llama_pos, n C.size_t) C.int32_t {
		return C.llama_fed_release(c.ptr, pos, n)
	})
}

// Mask hides the cells at positions [first, first+n) from the layers still to come of the running evaluation, and
// forgets them. Inside a hook only.
func (c *Context) Mask(first, n int) error {
	return c.onCells("mask", first, n, func(pos *C.llama_pos, n C.size_t) C.int32_t {
		return C.llama_fed_mask(c.ptr, pos, n)
	})
}

// HideRows hides the own tokens at [first, first+len(keep)) that are not kept from all others at a local layer; each still
// attends to itself. The tokens may be to come; what is hidden is forgotten with its position.
func (c *Context) HideRows(layer, first int, keep []bool) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	var hidden []int32
	for i, kept := range keep {
		if !kept {
			hidden = append(hidden, int32(first+i))
		}
	}
	if len(hidden) == 0 {
		return nil
	}
	return fedError(fmt.Sprintf("hide %d own rows of layer %d", len(hidden), layer),
		C.llama_fed_hide_local(c.ptr, C.int32_t(layer), posPtr(hidden), C.size_t(len(hidden))))
}

func (c *Context) onCells(what string, first, n int, call func(*C.llama_pos, C.size_t) C.int32_t) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if n < 1 {
		return fmt.Errorf("llama: %s %d cells", what, n)
	}
	return fedError(fmt.Sprintf("%s positions %d to %d", what, first, first+n-1), call(posPtr(fedkv.Span(first, n)), C.size_t(n)))
}

// SetNext says that the next own token stands at position pos: the positions before it are other participants'.
func (c *Context) SetNext(pos int) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	return fedError(fmt.Sprintf("next position %d", pos), C.llama_fed_set_next_pos(c.ptr, C.llama_pos(pos)))
}

// CanShift says whether K rows can be rotated to other positions. It is known once something was evaluated.
func (c *Context) CanShift() error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	return fedError("rotate rows", C.llama_fed_can_shift(c.ptr))
}

// AppendRows appends the rows of layer at the positions pos, strictly increasing, to dst: K rows, then V rows, in the wire
// types.
func (c *Context) AppendRows(dst []byte, layer int, pos []int32, types fedkv.WireTypes) ([]byte, error) {
	leave, err := c.enter()
	if err != nil {
		return dst, err
	}
	defer leave()
	k, v, err := c.blockSize(layer, len(pos), types)
	if err != nil {
		return dst, err
	}
	start := len(dst)
	dst = slices.Grow(dst, k+v)[:start+k+v]
	rows := dst[start:]
	status := C.llama_fed_rows_get(c.ptr, C.int32_t(layer), posPtr(pos), C.size_t(len(pos)),
		C.int32_t(types.K), bytesPtr(rows[:k]), C.size_t(k), C.int32_t(types.V), bytesPtr(rows[k:]), C.size_t(v))
	if status != C.LLAMA_FED_OK {
		return dst[:start], fedError(fmt.Sprintf("read %d rows from position %d of layer %d", len(pos), pos[0], layer), status)
	}
	return dst, nil
}

// WriteRows places rows (K rows, then V rows, in the wire types) at the positions pos, strictly increasing, of a sync
// layer. K is rotated by shift positions first: the distance from where the rows were evaluated to where they are placed.
func (c *Context) WriteRows(layer int, pos []int32, shift int, types fedkv.WireTypes, rows []byte) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	k, v, err := c.blockSize(layer, len(pos), types)
	if err != nil {
		return err
	}
	if len(rows) != k+v {
		return fmt.Errorf("llama: %d bytes for %d rows of layer %d, expected %d", len(rows), len(pos), layer, k+v)
	}
	return fedError(fmt.Sprintf("write %d rows from position %d of layer %d", len(pos), pos[0], layer),
		C.llama_fed_rows_set(c.ptr, C.int32_t(layer), posPtr(pos), C.size_t(len(pos)), C.int32_t(shift),
			C.int32_t(types.K), bytesPtr(rows[:k]), C.size_t(k), C.int32_t(types.V), bytesPtr(rows[k:]), C.size_t(v)))
}

func (c *Context) blockSize(layer, n int, types fedkv.WireTypes) (k, v int, err error) {
	if layer < 0 || layer >= len(c.model.shape.Layers) {
		return 0, 0, fmt.Errorf("llama: no layer %d in a model of %d", layer, len(c.model.shape.Layers))
	}
	if n < 1 || n > c.spec.SyncCells {
		return 0, 0, fmt.Errorf("llama: %d rows in a context of %d", n, c.spec.SyncCells)
	}
	return c.model.shape.Layers[layer].BlockSize(types, n)
}

// Memory reports the caches' cells and bytes.
func (c *Context) Memory() (Memory, error) {
	leave, err := c.enter()
	if err != nil {
		return Memory{}, err
	}
	defer leave()
	var m C.struct_llama_fed_memory
	if err := fedError("memory", C.llama_fed_get_memory(c.ptr, &m)); err != nil {
		return Memory{}, err
	}
	return Memory{
		LocalLayers: int(m.n_layers_local), SyncLayers: int(m.n_layers_sync),
		LocalCells: int(m.n_cells_local), SyncCells: int(m.n_cells_sync),
		LocalUsed: int(m.n_used_local), SyncUsed: int(m.n_used_sync),
		LocalBytes: int64(m.n_bytes_local), SyncBytes: int64(m.n_bytes_sync),
	}, nil
}

// Truncate forgets every row from position pos on, own and remote, in both caches.
func (c *Context) Truncate(pos int) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	if c.inHook.Load() || pos < 0 {
		return fmt.Errorf("llama: cannot truncate at position %d now", pos)
	}
	C.llama_memory_seq_rm(C.llama_get_memory(c.ptr), 0, C.llama_pos(pos), -1)
	return nil
}
