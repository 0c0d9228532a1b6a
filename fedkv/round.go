package fedkv

import (
	"encoding/binary"
	"math"
)

// Where rows stay home, one bidirectional stream between publisher and contributor carries rounds: the publisher's
// queries of some tokens at a layer, and the contributor's attention with them over its rows. Both begin with a header of
// RoundHeaderSize bytes.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	| magic "fkvq" (queries) or "fkvp" (partial)                    |  0
//	+-------------------------------+-------------------------------+
//	| version (1)                   | layer                         |  4
//	+-------------------------------+-------------------------------+
//	| round, from 0, in order                                       |  8
//	+---------------------------------------------------------------+
//	| tokens                                                        | 12
//	+---------------------------------------------------------------+
//	| position of the first token; of a partial 0                   | 16
//	+---------------------------------------------------------------+
//	| position of the segment's first row; of a partial 0           | 20
//	+---------------+-----------------------------------------------+
//	| type          | reserved (0)                                  | 24
//	+---------------+-----------------------------------------------+
//	| length of the payload in bytes                                | 28
//	+---------------------------------------------------------------+
//
// The payload of queries is [tokens][heads × head dim of K] in the type. That of a partial is [tokens][heads × head dim
// of V] in the type and then the logarithms of the sums, float32, little-endian, [tokens][heads]; one that is −∞ stands
// for a token that sees no row, and its outputs are 0.

// RoundHeaderSize is the bytes before a round's payload.
const RoundHeaderSize = 32

const (
	queryMagic   = "fkvq"
	partialMagic = "fkvp"
	roundVersion = 1
)

// RoundHeader is what stands before queries and before partials.
type RoundHeader struct {
	Partial bool
	Layer   int
	Round   uint32
	Tokens  int
	First   int // position of the first token
	Offset  int // position of the segment's first row
	Type    Type
	Length  int // bytes of the payload
}

// Answers is the header of the partial that answers queries at a layer of this shape.
func (h RoundHeader) Answers(shape LayerShape) (RoundHeader, error) {
	a := RoundHeader{Partial: true, Layer: h.Layer, Round: h.Round, Tokens: h.Tokens, Type: h.Type}
	var err error
	a.Length, err = a.size(shape)
	return a, err
}

// Sized is the header with the length that a layer of this shape implies.
func (h RoundHeader) Sized(shape LayerShape) (RoundHeader, error) {
	var err error
	h.Length, err = h.size(shape)
	return h, err
}

func (h RoundHeader) size(shape LayerShape) (int, error) {
	queries, outputs, heads, ok := shape.HomeSizes()
	if !ok {
		return 0, Errorf(CodeShape, "attention at layer %d cannot be shared", h.Layer)
	}
	elements, more := queries, 0
	if h.Partial {
		elements, more = outputs, 4*heads
	}
	row, err := h.Type.RowSize(elements)
	if err != nil {
		return 0, err
	}
	if h.Tokens < 1 || h.Tokens > MaxRoundTokens || (row+more) > MaxRound/h.Tokens {
		return 0, Errorf(CodeRange, "queries of %d tokens, at most %d tokens and %d MiB go together", h.Tokens, MaxRoundTokens, MaxRound>>20)
	}
	return h.Tokens * (row + more), nil
}

// AppendMarshal appends the RoundHeaderSize bytes of the header.
func (h RoundHeader) AppendMarshal(b []byte) []byte {
	magic := queryMagic
	if h.Partial {
		magic = partialMagic
	}
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, roundVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Layer))
	for _, v := range []uint32{h.Round, uint32(h.Tokens), uint32(h.First), uint32(h.Offset)} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	b = append(b, byte(h.Type), 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, uint32(h.Length))
}

// ParseRoundHeader reads exactly RoundHeaderSize bytes. What it returns is within the limits of this package; whether it
// fits the session is for the receiver.
func ParseRoundHeader(b []byte) (RoundHeader, error) {
	if len(b) != RoundHeaderSize {
		return RoundHeader{}, Errorf(CodeProtocol, "a round header of %d bytes, must be %d", len(b), RoundHeaderSize)
	}
	h := RoundHeader{Layer: int(binary.BigEndian.Uint16(b[6:])), Round: binary.BigEndian.Uint32(b[8:]), Type: Type(b[24])}
	switch string(b[:4]) {
	case queryMagic:
	case partialMagic:
		h.Partial = true
	default:
		return RoundHeader{}, Errorf(CodeProtocol, "a round that begins with neither %q nor %q", queryMagic, partialMagic)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != roundVersion {
		return RoundHeader{}, Errorf(CodeVersion, "a round of version %d, must be %d", v, roundVersion)
	}
	if b[25] != 0 || b[26] != 0 || b[27] != 0 {
		return RoundHeader{}, Errorf(CodeProtocol, "a round with reserved bits set")
	}
	if h.Type != F16 && h.Type != Q8_0 {
		return RoundHeader{}, Errorf(CodeTypes, "a round of type %v", h.Type)
	}
	if err := readFields("round", b, []headerField{
		{"tokens", 12, MaxRoundTokens, &h.Tokens},
		{"first position", 16, MaxTokens, &h.First},
		{"segment's position", 20, MaxTokens, &h.Offset},
		{"length", 28, MaxRound, &h.Length},
	}); err != nil {
		return RoundHeader{}, err
	}
	if h.Tokens < 1 || h.Layer >= MaxLayers || h.Partial && (h.First != 0 || h.Offset != 0) {
		return RoundHeader{}, Errorf(CodeRange, "a round of %d tokens at layer %d", h.Tokens, h.Layer)
	}
	return h, nil
}

// AppendValues appends rows of so many elements in the type; one that float16 cannot hold is an error of code value.
func (h RoundHeader) AppendValues(b []byte, values []float32, elements int) ([]byte, error) {
	for _, v := range values {
		if !(v > -65504 && v < 65504) {
			return nil, Errorf(CodeValue, "layer %d: %g is beyond float16", h.Layer, v)
		}
	}
	return h.Type.AppendRows(b, values, elements), nil
}

// Values decodes rows of so many elements, all finite.
func (h RoundHeader) Values(dst []float32, elements int, rows []byte) error {
	if err := h.Type.CheckFinite(rows); err != nil {
		return err
	}
	return h.Type.DecodeRows(dst, elements, rows)
}

// AppendPartial appends the payload of a partial.
func (h RoundHeader) AppendPartial(b []byte, p Partial, shape LayerShape) ([]byte, error) {
	_, outputs, _, _ := shape.HomeSizes()
	b, err := h.AppendValues(b, p.Out, outputs)
	if err != nil {
		return nil, err
	}
	for _, v := range p.LSE {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b, nil
}

// ReadPartial decodes the payload of a partial into p, which has its size. No value is NaN or +∞.
func (h RoundHeader) ReadPartial(p Partial, shape LayerShape, payload []byte) error {
	_, outputs, heads, _ := shape.HomeSizes()
	if want, err := h.size(shape); err != nil || want != len(payload) || h.Tokens*outputs != len(p.Out) || h.Tokens*heads != len(p.LSE) {
		return Errorf(CodeRange, "a partial of %d bytes for %d tokens", len(payload), h.Tokens)
	}
	split := len(payload) - 4*len(p.LSE)
	if err := h.Values(p.Out, outputs, payload[:split]); err != nil {
		return err
	}
	for i := range p.LSE {
		v := math.Float32frombits(binary.LittleEndian.Uint32(payload[split+4*i:]))
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 1) {
			return Errorf(CodeValue, "layer %d: the sum of token %d is not finite", h.Layer, i/heads)
		}
		p.LSE[i] = v
	}
	return nil
}
