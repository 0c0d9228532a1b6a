package fedkv

import (
	"encoding/binary"
	"math"
	"slices"
)

// The codec of rows: readable, and bit for bit what ggml's reference routines give (ggml-quants.c,
// quantize_row_*_ref and dequantize_row_*), which testdata/vectors proves. The engine converts rows with
// ggml's own routines; this is for everybody without an engine, and the yardstick for every other one.
//
// Every product that is added to something is rounded to float32 first, by conversion, because Go may
// otherwise fuse the two operations, and then the bits would depend on the CPU.

// AppendRows appends rows [n][elements] as they stand in a block: the mean of a centred type, then the rows.
// RowSize must accept elements. Nothing is appended for no rows. K rows of a centred type are to be at position 0.
//
// The mean is summed in float64, in the order of the rows, and rounded to float16; what is subtracted is the
// rounded one, so that the receiver adds exactly what the sender took away.
func (t Type) AppendRows(dst []byte, rows []float32, elements int) []byte {
	if !t.IsCentred() || len(rows) == 0 {
		for ; len(rows) > 0; rows = rows[elements:] {
			dst = t.AppendRow(dst, rows[:elements])
		}
		return dst
	}
	mean, left := make([]float32, elements), make([]float32, elements)
	for i := range mean {
		sum, n := 0.0, 0
		for at := i; at < len(rows); at += elements {
			sum += float64(rows[at])
			n++
		}
		h := toHalf(float32(sum / float64(n)))
		dst = binary.LittleEndian.AppendUint16(dst, h)
		mean[i] = fromHalf(h)
	}
	for ; len(rows) > 0; rows = rows[elements:] {
		for i, m := range mean {
			left[i] = rows[i] - m
		}
		dst = t.AppendRow(dst, left)
	}
	return dst
}

// DecodeRows decodes rows [n][elements] of a block into dst, whose length says how many they are. src must have
// exactly their bytes, the mean of a centred type included.
func (t Type) DecodeRows(dst []float32, elements int, src []byte) error {
	size, err := t.RowSize(elements)
	if err != nil {
		return err
	}
	n := len(dst) / elements
	mean := 0
	if n > 0 {
		mean = t.meanSize(elements)
	}
	if len(dst) != n*elements || len(src) != mean+n*size {
		return Errorf(CodeRange, "%d bytes for %d values, rows of %d elements of %v have %d bytes", len(src), len(dst), elements, t, size)
	}
	for i := range n {
		row := dst[i*elements:][:elements]
		if err := t.DecodeRow(row, src[mean+i*size:][:size]); err != nil {
			return err
		}
		if t.IsCentred() {
			for j := range row {
				row[j] += half(src[2*j:])
			}
		}
	}
	return nil
}

// AppendRow appends one row in the layout of t; of a centred type it is what is left of the row without the mean.
// RowSize must accept len(row); otherwise AppendRow panics, as an index out of range does.
//
// A value that is not finite, or too large for the type, makes its whole group of 32 non-finite, and
// CheckFinite refuses that at either end: quantising never turns a broken row into a plausible one.
func (t Type) AppendRow(dst []byte, row []float32) []byte {
	if t.IsHadamard() {
		row = slices.Clone(row)
		hadamard(row)
	}
	if t.Base() == F16 {
		for _, v := range row {
			dst = appendHalf(dst, v)
		}
		return dst
	}
	for ; len(row) > 0; row = row[quantBlock:] {
		x := (*[quantBlock]float32)(row)
		switch t.Base() {
		case Q8_0:
			dst = appendQ8_0(dst, x)
		case Q5_1:
			dst = appendQ5_1(dst, x)
		case Q4_1:
			dst = appendQ4_1(dst, x)
		case Q4_0:
			dst = appendQ4_0(dst, x)
		case NF3:
			dst = appendNF3(dst, x)
		default:
			panic("fedkv: AppendRow of " + t.String())
		}
	}
	return dst
}

// DecodeRow decodes one row of len(dst) elements, of a centred type what is left of it without the mean. src must
// be RowSize(len(dst)) bytes.
func (t Type) DecodeRow(dst []float32, src []byte) error {
	size, err := t.RowSize(len(dst))
	if err != nil {
		return err
	}
	if len(src) != size {
		return Errorf(CodeRange, "%d bytes, a row of %d elements of %v has %d", len(src), len(dst), t, size)
	}
	if t.Base() == F16 {
		for i := range dst {
			dst[i] = half(src[2*i:])
		}
		return nil
	}
	row := dst
	for ; len(dst) > 0; dst, src = dst[quantBlock:], src[types[t.Base()].bytes:] {
		y := (*[quantBlock]float32)(dst)
		switch t.Base() {
		case Q8_0:
			decodeQ8_0(y, src)
		case Q5_1:
			decodeQ5_1(y, src)
		case Q4_1:
			decodeQ4_1(y, src)
		case Q4_0:
			decodeQ4_0(y, src)
		case NF3:
			decodeNF3(y, src)
		}
	}
	if t.IsHadamard() {
		hadamard(row)
	}
	return nil
}

// HadamardSize is the length of the groups in which a row is multiplied by the Walsh-Hadamard matrix: the largest
// power of two that divides the row, but at most 128.
func HadamardSize(elements int) int {
	return min(elements&-elements, 128)
}

// hadamard multiplies each group of a row by the orthonormal Walsh-Hadamard matrix in natural order, whose element
// (i, j) is ±1/√n: minus where i and j share an odd number of set bits. It is its own inverse.
func hadamard(row []float32) {
	n := HadamardSize(len(row))
	scale := float32(1 / math.Sqrt(float64(n)))
	for ; len(row) > 0; row = row[n:] {
		for stride := 1; stride < n; stride *= 2 {
			for at := 0; at < n; at += 2 * stride {
				for i := at; i < at+stride; i++ {
					a, b := row[i], row[i+stride]
					row[i], row[i+stride] = a+b, a-b
				}
			}
		}
		for i := range n {
			row[i] *= scale
		}
	}
}

// q8_0: scale, then 32 signed bytes. The largest magnitude becomes ±127.
func appendQ8_0(dst []byte, x *[quantBlock]float32) []byte {
	var most float32
	for _, v := range x {
		if v = abs(v); v > most || isNaN(v) { // a NaN wins, and stays: nothing is greater
			most = v
		}
	}
	d := most / 127
	dst = appendHalf(dst, d)
	inv := inverse(d)
	for _, v := range x {
		dst = append(dst, byte(truncate(float32(math.Round(float64(float32(v*inv)))))))
	}
	return dst
}

func decodeQ8_0(y *[quantBlock]float32, src []byte) {
	d := half(src)
	for i := range y {
		y[i] = float32(int8(src[2+i])) * d
	}
}

// q4_0: scale, then 16 bytes of two codes each, element i in the low half of byte i and element 16+i in the
// high half. The value of largest magnitude becomes code 0, which stands for −8.
func appendQ4_0(dst []byte, x *[quantBlock]float32) []byte {
	var most, extreme float32
	for _, v := range x {
		if a := abs(v); a > most || isNaN(a) {
			most, extreme = a, v
		}
	}
	d := extreme / -8
	dst = appendHalf(dst, d)
	inv := inverse(d)
	var codes [quantBlock]uint8
	for i, v := range x {
		codes[i] = uint8(min(15, truncate(float32(v*inv)+8.5)))
	}
	return appendNibbles(dst, &codes)
}

func decodeQ4_0(y *[quantBlock]float32, src []byte) {
	d := half(src)
	for i := range quantBlock / 2 {
		low, high := nibbles(src[2+i])
		y[i] = float32(int(low)-8) * d
		y[i+quantBlock/2] = float32(int(high)-8) * d
	}
}

// q4_1: scale, minimum, then codes as in q4_0. The minimum becomes code 0, the maximum code 15.
func appendQ4_1(dst []byte, x *[quantBlock]float32) []byte {
	least, d := span(x, 15)
	dst = appendHalf(dst, d)
	dst = appendHalf(dst, least)
	inv := inverse(d)
	var codes [quantBlock]uint8
	for i, v := range x {
		codes[i] = uint8(min(15, truncate(float32((v-least)*inv)+0.5)))
	}
	return appendNibbles(dst, &codes)
}

func decodeQ4_1(y *[quantBlock]float32, src []byte) {
	d, m := half(src), half(src[2:])
	for i := range quantBlock / 2 {
		low, high := nibbles(src[4+i])
		y[i] = float32(float32(low)*d) + m
		y[i+quantBlock/2] = float32(float32(high)*d) + m
	}
}

// q5_1: scale, minimum, 4 bytes little-endian with the fifth bit of element i at bit i, then the low four
// bits as in q4_0. The minimum becomes code 0, the maximum code 31.
func appendQ5_1(dst []byte, x *[quantBlock]float32) []byte {
	least, d := span(x, 31)
	dst = appendHalf(dst, d)
	dst = appendHalf(dst, least)
	inv := inverse(d)
	var codes [quantBlock]uint8
	var fifth uint32
	for i, v := range x {
		code := uint8(truncate(float32((v-least)*inv) + 0.5))
		codes[i] = code & 15
		fifth |= uint32(code>>4&1) << i
	}
	dst = binary.LittleEndian.AppendUint32(dst, fifth)
	return appendNibbles(dst, &codes)
}

func decodeQ5_1(y *[quantBlock]float32, src []byte) {
	d, m := half(src), half(src[2:])
	fifth := binary.LittleEndian.Uint32(src[4:])
	for i := range quantBlock / 2 {
		low, high := nibbles(src[8+i])
		low |= uint8(fifth>>i&1) << 4
		high |= uint8(fifth>>(i+quantBlock/2)&1) << 4
		y[i] = float32(float32(low)*d) + m
		y[i+quantBlock/2] = float32(float32(high)*d) + m
	}
}

// span is the least value and the step that divides least..most into steps equal parts. A NaN wins both.
func span(x *[quantBlock]float32, steps float32) (least, step float32) {
	least = x[0]
	most := x[0]
	for _, v := range x {
		if v < least || isNaN(v) {
			least = v
		}
		if v > most || isNaN(v) {
			most = v
		}
	}
	return least, (most - least) / steps
}

func appendNibbles(dst []byte, codes *[quantBlock]uint8) []byte {
	for i := range quantBlock / 2 {
		dst = append(dst, codes[i]|codes[i+quantBlock/2]<<4)
	}
	return dst
}

func nibbles(b byte) (low, high uint8) { return b & 15, b >> 4 }

// inverse is 1/d, and 0 for a group of zeros.
func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

// truncate drops the fraction. What no code can hold becomes 0: it comes from a group whose scale is not
// finite, or so small that it is zero in float16, and then the codes mean nothing.
func truncate(v float32) int {
	if v > -256 && v < 256 {
		return int(v)
	}
	return 0
}

func abs(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

func isNaN(v float32) bool { return v != v }

func appendHalf(dst []byte, v float32) []byte {
	return binary.LittleEndian.AppendUint16(dst, toHalf(v))
}

func half(src []byte) float32 { return fromHalf(binary.LittleEndian.Uint16(src)) }

// The exponent of float16 is biased by 15, that of float32 by 127; their mantissas have 10 and 23 bits.
const (
	halfBias = 127 - 15
	halfDrop = 23 - 10
)

// toHalf rounds to float16, to nearest, ties to even. A NaN becomes the quiet NaN of its sign.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	bits &^= 1 << 31
	switch {
	case bits > 0x7f800000: // NaN
		return sign | 0x7e00
	case bits >= (halfBias+31)<<23-1<<(halfDrop-1): // at least 65520, half way beyond the largest
		return sign | 0x7c00
	case bits < (halfBias+1)<<23: // subnormal: 0.5 has the unit 2^-24, so the sum rounds where float16 does
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)-math.Float32bits(0.5))
	}
	bits += 1<<(halfDrop-1) - 1 + bits>>halfDrop&1
	return sign | uint16((bits-halfBias<<23)>>halfDrop)
}

// fromHalf widens float16, exactly.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	bits := uint32(h&0x7fff) << halfDrop
	switch h & 0x7c00 {
	case 0x7c00: // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | bits)
	case 0: // zero or subnormal, in units of 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(h&0x3ff)*0x1p-24))
	}
	return math.Float32frombits(sign | (bits + halfBias<<23))
}
