// Package gguf reads what stands before the weights in a GGUF file: metadata and the directory of tensors. It reads from
// a stream, so that the first bytes of a file that is still on another machine will do, and it trusts no length in it:
// each is held against a limit before anything is allocated.
//
// Start reading at Read; model.go says what the metadata mean for attention and memory.
package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Limits of a header. Real ones have some dozens of keys, some thousands of tensors, and a vocabulary of a few megabytes.
const (
	maxKeys       = 1 << 16
	maxTensors    = 1 << 20
	maxString     = 16 << 20
	maxName       = 1 << 10
	maxElements   = 1 << 26 // of an array
	maxDimensions = 8
	maxDepth      = 2 // arrays of arrays
	// MaxHeader is the most bytes that are read of a file, weights not included.
	MaxHeader = 256 << 20
	// keptElements is the longest array whose elements are kept; of longer ones, such as vocabularies, the length is.
	keptElements = 4096
)

// ErrNotGGUF is the error for a file of another kind.
var ErrNotGGUF = errors.New("not a GGUF file")

// Header is what stands before the weights.
type Header struct {
	Version  uint32
	Metadata map[string]any // uint64, int64, float64, bool, string or Array
	Keys     []string       // in the file's order
	Tensors  []Tensor
	Size     int64 // bytes up to the end of the directory; weights follow after padding
}

// Array is a metadata value of several elements.
type Array struct {
	Length   int
	Elements []any // as in Metadata; nil if there are more than are kept
}

// Tensor is an entry of the directory.
type Tensor struct {
	Name       string
	Dimensions []uint64 // the contiguous one first
	Type       uint32   // ggml's number
	Offset     uint64   // bytes from the first weight
}

// The numbers of GGUF's value types.
const (
	typeUint8 = iota
	typeInt8
	typeUint16
	typeInt16
	typeUint32
	typeInt32
	typeFloat32
	typeBool
	typeString
	typeArray
	typeUint64
	typeInt64
	typeFloat64
)

// reader reads little-endian values and remembers the first error.
type reader struct {
	in  *bufio.Reader
	n   int64
	err error
	buf [8]byte
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil {
		return r.buf[:n]
	}
	if r.n += int64(n); r.n > MaxHeader {
		r.fail("its header has more than %d MiB", MaxHeader>>20)
		return r.buf[:n]
	}
	if _, err := io.ReadFull(r.in, r.buf[:n]); err != nil {
		r.short(err)
	}
	return r.buf[:n]
}

func (r *reader) short(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("it ends within its header, after %d bytes: %w", r.n, io.ErrUnexpectedEOF)
	}
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

func (r *reader) count(what string, limit uint64) int {
	n := r.u64()
	if r.err == nil && n > limit {
		r.fail("it claims %d %s, more than the %d that are read", n, what, limit)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) text(limit uint64) string {
	n := r.count("bytes of text", limit)
	if r.err != nil {
		return ""
	}
	if r.n += int64(n); r.n > MaxHeader {
		r.fail("its header has more than %d MiB", MaxHeader>>20)
		return ""
	}
	// grows with what comes, not with what is claimed
	b, err := io.ReadAll(io.LimitReader(r.in, int64(n)))
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.short(err)
	}
	return string(b)
}

func (r *reader) skip(n int64) {
	if r.n += n; r.n > MaxHeader {
		r.fail("its header has more than %d MiB", MaxHeader>>20)
	}
	if r.err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, r.in, n); err != nil {
		r.short(err)
	}
}

// fixed is the size in bytes of a type's values, 0 for text and arrays.
var fixed = map[uint32]int{typeUint8: 1, typeInt8: 1, typeUint16: 2, typeInt16: 2, typeUint32: 4, typeInt32: 4, typeFloat32: 4,
	typeBool: 1, typeUint64: 8, typeInt64: 8, typeFloat64: 8}

func (r *reader) value(kind uint32, depth int) any {
	switch kind {
	case typeUint8:
		return uint64(r.bytes(1)[0])
	case typeInt8:
		return int64(int8(r.bytes(1)[0]))
	case typeUint16:
		return uint64(binary.LittleEndian.Uint16(r.bytes(2)))
	case typeInt16:
		return int64(int16(binary.LittleEndian.Uint16(r.bytes(2))))
	case typeUint32:
		return uint64(r.u32())
	case typeInt32:
		return int64(int32(r.u32()))
	case typeFloat32:
		return float64(math.Float32frombits(r.u32()))
	case typeBool:
		return r.bytes(1)[0] != 0
	case typeString:
		return r.text(maxString)
	case typeUint64:
		return r.u64()
	case typeInt64:
		return int64(r.u64())
	case typeFloat64:
		return math.Float64frombits(r.u64())
	case typeArray:
		return r.array(depth)
	}
	r.fail("it has a value of the unknown type %d", kind)
	return nil
}

func (r *reader) array(depth int) any {
	if depth >= maxDepth {
		r.fail("its arrays are nested more than %d deep", maxDepth)
		return nil
	}
	kind := r.u32()
	a := Array{Length: r.count("elements", maxElements)}
	keep := a.Length <= keptElements
	if size := fixed[kind]; !keep && size > 0 {
		r.skip(int64(size) * int64(a.Length))
		return a
	}
	for range a.Length {
		v := r.value(kind, depth+1)
		if r.err != nil {
			return nil
		}
		if keep {
			a.Elements = append(a.Elements, v)
		}
	}
	return a
}

// Read reads a header. An error says what is wrong with "it", the file.
func Read(in io.Reader) (*Header, error) {
	r := &reader{in: bufio.NewReaderSize(in, 1<<16)}
	if magic := r.bytes(4); r.err != nil || string(magic) != "GGUF" {
		if r.err != nil && !errors.Is(r.err, io.ErrUnexpectedEOF) {
			return nil, r.err
		}
		return nil, ErrNotGGUF
	}
	h := &Header{Version: r.u32(), Metadata: map[string]any{}}
	if r.err == nil && (h.Version < 2 || h.Version > 3) {
		r.fail("it is GGUF of version %d, known are 2 and 3", h.Version)
	}
	tensors, keys := r.count("tensors", maxTensors), r.count("keys", maxKeys)
	for range keys {
		key := r.text(maxName)
		value := r.value(r.u32(), 0)
		if r.err != nil {
			return nil, r.err
		}
		if _, twice := h.Metadata[key]; twice {
			return nil, fmt.Errorf("it has the key %q twice", key)
		}
		h.Metadata[key] = value
		h.Keys = append(h.Keys, key)
	}
	for range tensors {
		t := Tensor{Name: r.text(maxName)}
		n := r.u32()
		if n > maxDimensions {
			r.fail("its tensor %q has %d dimensions", t.Name, n)
		}
		for i := uint32(0); i < n && r.err == nil; i++ {
			t.Dimensions = append(t.Dimensions, r.u64())
		}
		t.Type, t.Offset = r.u32(), r.u64()
		if r.err != nil {
			return nil, r.err
		}
		h.Tensors = append(h.Tensors, t)
	}
	h.Size = r.n
	return h, r.err
}
