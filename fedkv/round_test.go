package fedkv

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
)

var roundShape = LayerShape{K: 64, V: 32, Heads: 6, KVHeads: 2}

func sampleRound(partial bool) RoundHeader {
	h := RoundHeader{Partial: partial, Layer: 3, Round: 7, Tokens: 2, Type: Q8_0}
	if !partial {
		h.First, h.Offset = 90, 40
	}
	h, err := h.Sized(roundShape)
	if err != nil {
		panic(err)
	}
	return h
}

func TestRoundHeaderRoundTrips(t *testing.T) {
	for _, partial := range []bool{false, true} {
		h := sampleRound(partial)
		b := h.AppendMarshal(nil)
		got, err := ParseRoundHeader(b)
		if err != nil || got != h {
			t.Errorf("%+v becomes %+v, %v", h, got, err)
		}
		for n := range b {
			if _, err := ParseRoundHeader(b[:n]); !errors.Is(err, ErrProtocol) {
				t.Errorf("the first %d bytes: %v", n, err)
			}
		}
	}
	if q, p := sampleRound(false), sampleRound(true); q.Length != 2*6*34 || p.Length != 2*(3*34+4*6) {
		t.Errorf("payloads of %d and %d bytes", q.Length, p.Length)
	}
	if a, err := sampleRound(false).Answers(roundShape); err != nil || a != sampleRound(true) {
		t.Errorf("the answer is %+v, %v", a, err)
	}
}

func TestRoundHeaderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		at   int
		to   byte
		want error
	}{
		"another magic":         {3, 'x', ErrProtocol},
		"another version":       {5, 2, ErrVersion},
		"layer 512":             {6, 2, ErrRange},
		"no tokens":             {15, 0, ErrRange},
		"too many tokens":       {12, 1, ErrRange},
		"first position":        {16, 1, ErrRange},
		"segment's position":    {20, 1, ErrRange},
		"rows in 4 bits":        {24, byte(Q4_0), ErrTypes},
		"no type":               {24, 0, ErrTypes},
		"reserved bits":         {26, 1, ErrProtocol},
		"a payload of gigabyte": {28, 64, ErrRange},
	} {
		b := sampleRound(false).AppendMarshal(nil)
		b[c.at] = c.to
		if _, err := ParseRoundHeader(b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := sampleRound(true).AppendMarshal(nil)
	b[19] = 1
	if _, err := ParseRoundHeader(b); !errors.Is(err, ErrRange) {
		t.Errorf("a partial with a position: %v", err)
	}
	for name, h := range map[string]RoundHeader{
		"no tokens": {Type: F16}, "too many": {Type: F16, Tokens: MaxRoundTokens + 1}, "no type": {Tokens: 1},
	} {
		if _, err := h.Sized(roundShape); err == nil {
			t.Errorf("%s have a size", name)
		}
	}
	if _, err := (RoundHeader{Type: F16, Tokens: 1}).Sized(LayerShape{K: 64, V: 64}); !errors.Is(err, ErrShape) {
		t.Errorf("a shape without heads: %v", err)
	}
}

func TestPartialRoundTrips(t *testing.T) {
	h := sampleRound(true)
	h.Type = F16
	h, _ = h.Sized(roundShape)
	p := Partial{Out: make([]float32, 2*96), LSE: make([]float32, 2*6)}
	for i := range p.Out {
		p.Out[i] = float32(i) / 4
	}
	p.LSE[3] = float32(math.Inf(-1))
	payload, err := h.AppendPartial(nil, p, roundShape)
	if err != nil || len(payload) != h.Length {
		t.Fatalf("%d bytes of %d, %v", len(payload), h.Length, err)
	}
	got := Partial{Out: make([]float32, 2*96), LSE: make([]float32, 2*6)}
	if err := h.ReadPartial(got, roundShape, payload); err != nil || !slices.Equal(got.Out, p.Out) || !slices.Equal(got.LSE, p.LSE) {
		t.Errorf("%v, %v", got, err)
	}
	if err := h.ReadPartial(got, roundShape, payload[1:]); !errors.Is(err, ErrRange) {
		t.Errorf("a byte less: %v", err)
	}
	for name, at := range map[string]int{"output": 1, "sum": len(payload) - 1} {
		bad := bytes.Clone(payload)
		bad[at], bad[at-1] = 0x7f, 0xff
		if err := h.ReadPartial(got, roundShape, bad); !errors.Is(err, ErrValue) {
			t.Errorf("an %s that is no number: %v", name, err)
		}
	}
	for _, v := range []float32{float32(math.NaN()), 65504, float32(math.Inf(-1))} {
		p.Out[5] = v
		if _, err := h.AppendPartial(nil, p, roundShape); !errors.Is(err, ErrValue) {
			t.Errorf("%g is sent: %v", v, err)
		}
	}
}

func FuzzRoundHeader(f *testing.F) {
	f.Add(sampleRound(false).AppendMarshal(nil))
	f.Add(sampleRound(true).AppendMarshal(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseRoundHeader(b)
		if err == nil && !bytes.Equal(h.AppendMarshal(nil), b) {
			t.Errorf("% x becomes % x", b, h.AppendMarshal(nil))
		}
	})
}
