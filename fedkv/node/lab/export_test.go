package lab

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// The file of a 2 × 3 array, as NumPy's own description of its format has it.
func TestWriteNPY(t *testing.T) {
	values := []float32{1, -2.5, 0, float32(math.Inf(1)), 3e-40, 7}
	var b bytes.Buffer
	if err := WriteNPY(&b, values, 3); err != nil {
		t.Fatal(err)
	}
	file := b.Bytes()
	if !bytes.HasPrefix(file, []byte("\x93NUMPY\x01\x00")) {
		t.Fatalf("magic %q", file[:8])
	}
	header := int(binary.LittleEndian.Uint16(file[8:]))
	text := string(file[10 : 10+header])
	if (10+header)%64 != 0 || strings.TrimRight(text, " \n") != "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" ||
		!strings.HasSuffix(text, "\n") {
		t.Errorf("header %q of %d bytes", text, header)
	}
	for i, v := range values {
		if got := binary.LittleEndian.Uint32(file[10+header+4*i:]); got != math.Float32bits(v) {
			t.Errorf("value %d is %x", i, got)
		}
	}
	if len(file) != 10+header+4*len(values) {
		t.Errorf("%d bytes", len(file))
	}
	for _, columns := range []int{0, 4} {
		if err := WriteNPY(&b, values, columns); err == nil {
			t.Errorf("6 values are rows of %d", columns)
		}
	}
}

func TestExport(t *testing.T) {
	p := Prompt{Prefix: []fedkv.Token{1, 2}, Segments: [][]fedkv.Token{{3}, {4, 5, 6}, {7, 8}}}
	c := Default(3)
	c.Contributors, c.Publisher, c.Positions = "1-2", "2,4", "inplace"
	got, err := c.Export(p, 6)
	if err != nil {
		t.Fatal(err)
	}
	want := Export{
		Tokens: []fedkv.Token{1, 2, 3, 4, 5, 6, 7, 8}, Bounds: []int{2, 3, 6, 8}, Contributors: []int{1, 2}, Publisher: []int{2, 4},
		WireK: "q8_0", WireV: "q4_0", Rows: "all", LocalRows: "all", Positions: "inplace",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	alone, err := Default(1).Export(Prompt{Segments: [][]fedkv.Token{{1, 2}}}, 6)
	if err != nil || !slices.Equal(alone.Bounds, []int{0, 2}) {
		t.Errorf("%+v, %v", alone, err)
	}
	if _, err := c.Export(p, 3); err == nil {
		t.Error("layers that do not exist are exported")
	}
}
