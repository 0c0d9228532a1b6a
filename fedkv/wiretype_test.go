package fedkv

import (
	"errors"
	"testing"
)

func TestTypesAreReadAsTheyAreWritten(t *testing.T) {
	for typ := F16; typ <= Q4_0; typ++ {
		if got, err := ParseType(typ.String()); err != nil || got != typ {
			t.Errorf("%v: got %v, %v", typ, got, err)
		}
	}
	for name, want := range map[string]Type{
		"q4_0+c": Q4_0 | Centred, "q4_0+h": Q4_0 | Hadamard, "q4_0+c+h": Q4_0 | Centred | Hadamard, "q5_1+c": Q5_1 | Centred, "f16+c": F16 | Centred,
	} {
		got, err := ParseType(name)
		if err != nil || got != want || got.String() != name || got.IsCentred() != (got&Centred != 0) || got.IsHadamard() != (got&Hadamard != 0) {
			t.Errorf("%q: got %v, %v", name, got, err)
		}
	}
	if got, err := ParseType("q4_0+h+c"); err != nil || got.String() != "q4_0+c+h" || got.Base() != Q4_0 {
		t.Errorf("another order: %v, %v", got, err)
	}
	for _, name := range []string{
		"", "F16", "q8", "q5_0", "bf16", "type(0)", "q4_0+", "q4_0+x", "q4_0+c+c", "q4_0+c+h+h", "+c", "q4_0++c", "f16+h", "f16+c+h",
	} {
		if _, err := ParseType(name); !errors.Is(err, ErrTypes) {
			t.Errorf("%q: got %v, want ErrTypes", name, err)
		}
	}
	for _, typ := range []Type{0, 7, 0x10, 0x17, 0x41, 0x81, 0xff, F16 | Hadamard, F16 | Centred | Hadamard} {
		if typ.Valid() {
			t.Errorf("%#x is valid", uint8(typ))
		}
	}
}

func TestParseWireTypes(t *testing.T) {
	for in, want := range map[string]WireTypes{
		"q8_0/q4_0":       {Q8_0, Q4_0},
		"f16/q5_1":        {F16, Q5_1},
		"q4_1":            {Q4_1, Q4_1},
		"q4_0+h+c/q8_0+c": {Q4_0 | Hadamard | Centred, Q8_0 | Centred},
	} {
		if got, err := ParseWireTypes(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
	if got := (WireTypes{Q8_0, Q4_0}).String(); got != "q8_0/q4_0" {
		t.Errorf("got %q", got)
	}
	for _, in := range []string{"", "/", "q8_0/", "/q8_0", "q8_0/q4_0/f16", "q8_0,q4_0"} {
		if got, err := ParseWireTypes(in); !errors.Is(err, ErrTypes) {
			t.Errorf("%q: got %v, %v, want ErrTypes", in, got, err)
		}
	}
}

func TestRowSize(t *testing.T) {
	for _, c := range []struct {
		typ      Type
		elements int
		size     int
		err      error
	}{
		{F16, 1, 2, nil},
		{F16, 33, 66, nil},
		{F16, MaxRowElements, 2 * MaxRowElements, nil},
		{Q8_0, 32, 34, nil},
		{Q8_0, 192, 204, nil},
		{Q5_1, 64, 48, nil},
		{Q4_1, 64, 40, nil},
		{Q4_0, 64, 36, nil},
		{Q4_0 | Centred | Hadamard, 64, 36, nil},
		{Q8_0, 33, 0, ErrTypes},
		{Q4_0, 16, 0, ErrTypes},
		{F16, 0, 0, ErrRange},
		{F16, -32, 0, ErrRange},
		{Q8_0, MaxRowElements + 32, 0, ErrRange},
		{0, 32, 0, ErrTypes},
		{7, 32, 0, ErrTypes},
		{NF3, 64, 28, nil},
	} {
		size, err := c.typ.RowSize(c.elements)
		if size != c.size || !errors.Is(err, c.err) {
			t.Errorf("%v of %d elements: got %d, %v", c.typ, c.elements, size, err)
		}
	}
}
