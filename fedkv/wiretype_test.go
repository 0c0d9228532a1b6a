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
	for _, name := range []string{"", "F16", "q8", "q5_0", "bf16", "type(0)"} {
		if _, err := ParseType(name); !errors.Is(err, ErrTypes) {
			t.Errorf("%q: got %v, want ErrTypes", name, err)
		}
	}
	if Type(0).Valid() || Type(6).Valid() {
		t.Error("0 or 6 is valid")
	}
}

func TestParseWireTypes(t *testing.T) {
	for in, want := range map[string]WireTypes{
		"q8_0/q4_0": {Q8_0, Q4_0},
		"f16/q5_1":  {F16, Q5_1},
		"q4_1":      {Q4_1, Q4_1},
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
		{Q8_0, 33, 0, ErrTypes},
		{Q4_0, 16, 0, ErrTypes},
		{F16, 0, 0, ErrRange},
		{F16, -32, 0, ErrRange},
		{Q8_0, MaxRowElements + 32, 0, ErrRange},
		{0, 32, 0, ErrTypes},
		{6, 32, 0, ErrTypes},
	} {
		size, err := c.typ.RowSize(c.elements)
		if size != c.size || !errors.Is(err, c.err) {
			t.Errorf("%v of %d elements: got %d, %v", c.typ, c.elements, size, err)
		}
	}
}
