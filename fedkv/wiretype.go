package fedkv

import (
	"fmt"
	"strings"
)

// Type is how the elements of a row are stored on the wire: float16, or groups of 32 elements quantised in the
// layout of ggml, after the transforms that its flags name. The numbers are the wire's own, not ggml's.
type Type uint8

// The base types. Bits per element, scales included: 16, 8.5, 6, 5, 4.5, 3.5. All but NF3 are ggml's.
const (
	F16  Type = 1 // float16, little-endian
	Q8_0 Type = 2 // scale, 32 × int8
	Q5_1 Type = 3 // scale, minimum, 32 × 5 bits
	Q4_1 Type = 4 // scale, minimum, 32 × 4 bits
	Q4_0 Type = 5 // scale, 32 × 4 bits
	NF3  Type = 6 // scale, 32 × 3 bits: sign and level of a normal distribution; for rows that Hadamard made normal
)

// The flags of a type are transforms that leave a quantised row less to lose. Both are undone exactly, up to
// float32's rounding; a row goes through Centred first, then Hadamard, then the base type.
const (
	// Centred sends the mean of a block's rows once, as a row of float16 before them, and of each row only what
	// differs from it. K rows are rotated back to position 0 before and to their place after, since RoPE would
	// smear a bias over the positions; that is the engine's part. Qwen2's K biases need it.
	Centred Type = 0x10
	// Hadamard multiplies groups of a row (HadamardSize) by the orthonormal Walsh-Hadamard matrix, which spreads
	// an outlier over its group. It gains nothing for float16, and is refused there.
	Hadamard Type = 0x20

	baseMask  Type = 0x0f
	flagsMask      = Centred | Hadamard
)

// Base is the type without its flags.
func (t Type) Base() Type { return t & baseMask }

// IsCentred reports whether a mean goes before the rows.
func (t Type) IsCentred() bool { return t&Centred != 0 }

// IsHadamard reports whether rows are multiplied by the Walsh-Hadamard matrix.
func (t Type) IsHadamard() bool { return t&Hadamard != 0 }

// quantBlock is the number of elements that share a scale in every quantised type.
const quantBlock = 32

// types holds, for each row type, its name and the bytes of one group of elements.
var types = [...]struct {
	name     string
	elements int // of one group
	bytes    int // of one group
}{
	F16:  {"f16", 1, 2},
	Q8_0: {"q8_0", quantBlock, 2 + quantBlock},
	Q5_1: {"q5_1", quantBlock, 2 + 2 + quantBlock/8 + quantBlock/2},
	Q4_1: {"q4_1", quantBlock, 2 + 2 + quantBlock/2},
	Q4_0: {"q4_0", quantBlock, 2 + quantBlock/2},
	NF3:  {"nf3", quantBlock, 2 + 3*quantBlock/8},
}

// Valid reports whether t is one of the base types, with flags that suit it.
func (t Type) Valid() bool {
	return t.Base() > 0 && int(t.Base()) < len(types) && t&^(baseMask|flagsMask) == 0 && (t.Base() != F16 || !t.IsHadamard())
}

// String is the name that ParseType reads: ggml's own where it has one, then "+c" and "+h" for the flags.
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("type(%d)", uint8(t))
	}
	name := types[t.Base()].name
	if t.IsCentred() {
		name += "+c"
	}
	if t.IsHadamard() {
		name += "+h"
	}
	return name
}

// ParseType reads f16, q8_0, q5_1, q4_1, q4_0 or nf3, followed by +c (Centred), +h (Hadamard), or both in any order.
func ParseType(name string) (Type, error) {
	base, flags, _ := strings.Cut(name, "+")
	var t Type
	for b := range types {
		if b > 0 && types[b].name == base {
			t = Type(b)
		}
	}
	if t == 0 {
		return 0, Errorf(CodeTypes, "unknown wire type %q; known are f16, q8_0, q5_1, q4_1, q4_0, nf3, each with +c, +h or both", name)
	}
	if len(base) == len(name) {
		return t, nil
	}
	for flag := range strings.SplitSeq(flags, "+") {
		switch {
		case flag == "c" && !t.IsCentred():
			t |= Centred
		case flag == "h" && !t.IsHadamard():
			t |= Hadamard
		default:
			return 0, Errorf(CodeTypes, "wire type %q: only +c and +h may follow %s, each once", name, base)
		}
	}
	if !t.Valid() {
		return 0, Errorf(CodeTypes, "wire type %q: +h spreads what quantising would lose, and f16 loses nothing; leave it out", name)
	}
	return t, nil
}

// RowSize is the bytes of one row of 1..MaxRowElements elements. Quantised rows need a multiple of 32. A mean is
// not part of a row.
func (t Type) RowSize(elements int) (int, error) {
	if !t.Valid() {
		return 0, Errorf(CodeTypes, "unknown wire type %d", uint8(t))
	}
	if elements < 1 || elements > MaxRowElements {
		return 0, Errorf(CodeRange, "a row of %d elements, must be 1 to %d", elements, MaxRowElements)
	}
	group := types[t.Base()]
	if elements%group.elements != 0 {
		return 0, Errorf(CodeTypes, "rows of %d elements cannot be stored as %v, which needs a multiple of %d; use f16", elements, t.Base(), group.elements)
	}
	return elements / group.elements * group.bytes, nil
}

// meanSize is the bytes of the mean before a block's rows.
func (t Type) meanSize(elements int) int {
	if t.IsCentred() {
		return 2 * elements
	}
	return 0
}

// WireTypes is the pair of row types of a layer: K is more sensitive than V, so they differ.
type WireTypes struct{ K, V Type }

// ParseWireTypes reads "q8_0/q4_0" (K, then V), or one name for both.
func ParseWireTypes(names string) (WireTypes, error) {
	k, v, both := strings.Cut(names, "/")
	if !both {
		v = k
	}
	var w WireTypes
	var err error
	if w.K, err = ParseType(k); err != nil {
		return WireTypes{}, err
	}
	if w.V, err = ParseType(v); err != nil {
		return WireTypes{}, err
	}
	return w, nil
}

// String is "q8_0/q4_0": K, then V.
func (w WireTypes) String() string { return w.K.String() + "/" + w.V.String() }

// Valid reports whether both are row types.
func (w WireTypes) Valid() bool { return w.K.Valid() && w.V.Valid() }
