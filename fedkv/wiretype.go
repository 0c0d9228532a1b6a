package fedkv

import (
	"fmt"
	"strings"
)

// Type is how the elements of a row are stored on the wire: float16, or blocks of 32 elements quantised in
// the layout of ggml. The numbers are the wire's own, not ggml's.
type Type uint8

// The row types. Bits per element, scales included: 16, 8.5, 6, 5, 4.5.
const (
	F16  Type = 1 // float16, little-endian
	Q8_0 Type = 2 // scale, 32 × int8
	Q5_1 Type = 3 // scale, minimum, 32 × 5 bits
	Q4_1 Type = 4 // scale, minimum, 32 × 4 bits
	Q4_0 Type = 5 // scale, 32 × 4 bits
)

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
}

// Valid reports whether t is one of the row types above.
func (t Type) Valid() bool { return t > 0 && int(t) < len(types) }

// String is the name that ParseType reads, ggml's own.
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("type(%d)", uint8(t))
	}
	return types[t].name
}

// ParseType reads f16, q8_0, q5_1, q4_1 or q4_0.
func ParseType(name string) (Type, error) {
	for t := range types {
		if Type(t).Valid() && types[t].name == name {
			return Type(t), nil
		}
	}
	return 0, Errorf(CodeTypes, "unknown wire type %q; known are f16, q8_0, q5_1, q4_1, q4_0", name)
}

// RowSize is the bytes of one row of 1..MaxRowElements elements. Quantised rows need a multiple of 32.
func (t Type) RowSize(elements int) (int, error) {
	if !t.Valid() {
		return 0, Errorf(CodeTypes, "unknown wire type %d", uint8(t))
	}
	if elements < 1 || elements > MaxRowElements {
		return 0, Errorf(CodeRange, "a row of %d elements, must be 1 to %d", elements, MaxRowElements)
	}
	group := types[t]
	if elements%group.elements != 0 {
		return 0, Errorf(CodeTypes, "rows of %d elements cannot be stored as %v, which needs a multiple of %d; use f16", elements, t, group.elements)
	}
	return elements / group.elements * group.bytes, nil
}

// WireTypes is the pair of row types of a session: K is more sensitive than V, so they differ.
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
