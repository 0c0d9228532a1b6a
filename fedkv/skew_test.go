package fedkv

import (
	"errors"
	"testing"
)

// Devices that differ in any combination of protocol, engine, model, types and numbers: the refusal names the first
// difference in the order of docs/wire.md, on both sides, and there is none if only the weights differ.
func TestSkewInAllPairs(t *testing.T) {
	differences := []struct {
		code   Code // 0: is allowed
		change func(h *Hello)
	}{
		{CodeVersion, func(h *Hello) { h.Protocol++ }},
		{CodeVersion, func(h *Hello) { h.Engine = "another" }},
		{CodeArchitecture, func(h *Hello) { h.Model.Architecture = "gemma3" }},
		{CodeShape, func(h *Hello) { h.Model.Layers++; h.Canary = nil }},
		{CodeShape, func(h *Hello) { h.Model.Shape[7]++ }},
		{CodeRope, func(h *Hello) { h.Model.Rope[7]++ }},
		{CodeTokenizer, func(h *Hello) { h.Model.Tokenizer[7]++ }},
		{CodeTemplate, func(h *Hello) { h.Model.Template[7]++ }},
		{CodeTypes, func(h *Hello) { h.Types = []Type{200} }},
		{CodeCanary, func(h *Hello) {
			if h.Canary != nil {
				h.Canary = append(Canary(nil), h.Canary...)
				for i := 1; i < len(h.Canary); i += 2 {
					h.Canary[i] ^= 0x80 // the other sign
				}
			}
		}},
		{0, func(h *Hello) { h.Model.Weights[7]++ }},
		{0, func(h *Hello) { h.Model.ContextTrain++ }},
	}
	pairs := 0
	for set := range 1 << len(differences) {
		other, want := sampleHello, Code(0)
		for i, d := range differences {
			if set>>i&1 == 1 {
				d.change(&other)
				if want == 0 {
					want = d.code
				}
			}
		}
		pairs++
		for _, pair := range [][2]Hello{{sampleHello, other}, {other, sampleHello}} {
			if err := pair[0].Compatible(pair[1]); CodeOf(err) != want {
				t.Fatalf("set %012b: %v, want %v", set, err, want)
			}
		}
		_, err := Greet(sampleHello, other)
		if want != 0 && want < CodeTypes && want > CodeModel && !errors.Is(err, ErrModel) {
			t.Fatalf("set %012b: %v is no error of the model", set, err)
		}
	}
	t.Logf("T14: %d pairs", pairs)
}
