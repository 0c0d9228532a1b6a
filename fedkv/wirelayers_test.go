package fedkv

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestParseWire(t *testing.T) {
	q84, f16 := WireTypes{Q8_0, Q4_0}, WireTypes{F16, F16}
	h := WireTypes{Q4_0 | Hadamard, Q4_0}
	for _, test := range []struct {
		spec string
		want [6]WireTypes
		text string
	}{
		{"q8_0/q4_0", [6]WireTypes{q84, q84, q84, q84, q84, q84}, "q8_0/q4_0"},
		{"f16", [6]WireTypes{f16, f16, f16, f16, f16, f16}, "f16/f16"},
		{"q4_0+h/q4_0,0-1=q8_0/q4_0,5=f16", [6]WireTypes{q84, q84, h, h, h, f16}, "q4_0+h/q4_0,0-1=q8_0/q4_0,5=f16/f16"},
		{"q8_0/q4_0,0,2-3=f16", [6]WireTypes{f16, q84, f16, f16, q84, q84}, "f16/f16,1,4-5=q8_0/q4_0"},
		{"f16,4-=q8_0/q4_0", [6]WireTypes{f16, f16, f16, f16, q84, q84}, "f16/f16,4-5=q8_0/q4_0"},
		{"f16,0-=q8_0/q4_0", [6]WireTypes{q84, q84, q84, q84, q84, q84}, "q8_0/q4_0"},
	} {
		w, err := ParseWire(test.spec, 6)
		if err != nil {
			t.Errorf("%q: %v", test.spec, err)
			continue
		}
		for l, want := range test.want {
			if w.At(l) != want {
				t.Errorf("%q: layer %d is %v, want %v", test.spec, l, w.At(l), want)
			}
		}
		if w.String() != test.text {
			t.Errorf("%q: reads %q, want %q", test.spec, w, test.text)
		}
	}
	for _, spec := range []string{
		"", ",", "q8_0,", "q8_0,0", "q8_0,0-1,3", "q8_0,=f16", "q8_0,0=", "q8_0,0=f17", "q8_0,6=f16", "q8_0,3-1=f16", "q8_0,0,0=f16",
		"q8_0,0-2=f16,1=f16", "0=f16", "q8_0,H=f16", "q8_0,-1=f16", "q8_0,0=f16=f16",
	} {
		if w, err := ParseWire(spec, 6); !errors.Is(err, ErrTypes) {
			t.Errorf("%q: %v, %v", spec, w, err)
		}
	}
	for _, layers := range []int{-1, 0, MaxLayers + 1} {
		if _, err := ParseWire("f16", layers); !errors.Is(err, ErrTypes) || Uniform(f16, layers) != (Wire{}) {
			t.Errorf("%d layers: %v", layers, err)
		}
	}
	if w := Uniform(f16, 3); w.At(-1).Valid() || w.At(3).Valid() || w.With(3, q84) != w || w.Len() != 3 {
		t.Error("layers that do not exist have types")
	}
}

// drawWireTypes is any valid pair.
func drawWireTypes(t *rapid.T) WireTypes {
	draw := func(label string) Type {
		typ := Type(rapid.IntRange(1, 5).Draw(t, label))
		if rapid.Bool().Draw(t, "centred") {
			typ |= Centred
		}
		if typ.Base() != F16 && rapid.Bool().Draw(t, "hadamard") {
			typ |= Hadamard
		}
		return typ
	}
	return WireTypes{draw("K"), draw("V")}
}

func TestWireIsReadAsItIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers := rapid.IntRange(1, 9).Draw(t, "layers")
		w := Uniform(drawWireTypes(t), layers)
		other := drawWireTypes(t)
		for l := range layers {
			switch rapid.IntRange(0, 3).Draw(t, "which") {
			case 0:
				w = w.With(l, other)
			case 1:
				w = w.With(l, drawWireTypes(t))
			}
		}
		if err := w.Validate(layers); err != nil {
			t.Fatal(err)
		}
		if got, err := ParseWire(w.String(), layers); err != nil || got != w {
			t.Fatalf("%q: %v, %v", w, got, err)
		}
		if w.Validate(layers+1) == nil || w.With(0, WireTypes{}).Validate(layers) == nil {
			t.Fatal("what is wrong is valid")
		}
	})
}
