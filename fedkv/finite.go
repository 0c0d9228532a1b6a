package fedkv

import (
	"encoding/binary"
	"math"
)

// CheckFinite reports the first group of rows that could decode to something that float16, the type of the
// cache, cannot hold: NaN, an infinity, or 65520 and more. One such value would spoil every token that
// attends to it, even through a mask, because 0·NaN is NaN. rows is any number of whole rows of type t, without
// the mean of a centred type, which is for checkMean; only scales are read of quantised ones, and nothing is
// allocated.
//
// Undoing a transform adds values up, so that those of transformed rows have to be smaller: by half where the
// mean, another half, is added, and by 16, which is above √128, where a Hadamard matrix multiplies.
func (t Type) CheckFinite(rows []byte) error {
	if !t.Valid() {
		return Errorf(CodeTypes, "unknown wire type %d", uint8(t))
	}
	group := types[t.Base()]
	if len(rows)%group.bytes != 0 {
		return Errorf(CodeRange, "%d bytes are no rows of %v, which come in groups of %d bytes", len(rows), t, group.bytes)
	}
	var halvings uint16
	if t.IsCentred() {
		halvings++
	}
	if t.IsHadamard() {
		halvings += 4
	}
	const exponent = 0x0400 // one step of a float16's exponent
	bad := -1
	switch t.Base() {
	case F16:
		bad = badHalf(rows, halfOverflow-halvings*exponent)
	case Q8_0:
		bad = badScale(rows, group.bytes, 0x6000-halvings*exponent) // 512: times 128 is 65536
	case Q4_0:
		bad = badScale(rows, group.bytes, 0x7000-halvings*exponent) // 8192: times 8 is 65536
	case NF3:
		bad = badScale(rows, group.bytes, 0x7400-halvings*exponent) // 16384: times 2.152 is below 65520
	case Q4_1:
		bad = badSpan(rows, group.bytes, 15, 65520/float64(uint(1)<<halvings))
	case Q5_1:
		bad = badSpan(rows, group.bytes, 31, 65520/float64(uint(1)<<halvings))
	}
	if bad >= 0 {
		return Errorf(CodeValue, "elements from %d on are not finite in float16", bad/group.bytes*group.elements)
	}
	return nil
}

// checkMean reports the first element of a centred type's mean that is not below 32768.
func checkMean(mean []byte) error {
	if bad := badHalf(mean, halfLarge); bad >= 0 {
		return Errorf(CodeValue, "element %d of the mean is too large", bad/2)
	}
	return nil
}

// The exponent bits that, all set, make a float16 infinite or NaN, and those that make its magnitude 32768 or more.
const (
	halfOverflow uint16 = 0x7c00
	halfLarge    uint16 = 0x7800
)

// badHalf is the offset of the first float16 that has all of these exponent bits, or -1. The bits are a run from
// the exponent's top. Sixteen values are tested at once: adding one to the lowest of the bits where all are set,
// and nowhere else, carries into the sign bit.
func badHalf(rows []byte, exponent uint16) int {
	const every, carries = 0x0001_0001_0001_0001, 0x8000_8000_8000_8000
	exponents, ones := uint64(exponent)*every, uint64(0x8000-exponent)*every
	at := 0
	for rest := rows; len(rest) >= 32; rest = rest[32:] {
		a := binary.LittleEndian.Uint64(rest)&exponents + ones
		b := binary.LittleEndian.Uint64(rest[8:])&exponents + ones
		c := binary.LittleEndian.Uint64(rest[16:])&exponents + ones
		d := binary.LittleEndian.Uint64(rest[24:])&exponents + ones
		if (a|b|c|d)&carries != 0 {
			break
		}
		at += 32
	}
	for ; at < len(rows); at += 2 {
		if binary.LittleEndian.Uint16(rows[at:])&exponent == exponent {
			return at
		}
	}
	return -1
}

// badScale is the offset of the first group whose scale has a magnitude of end or more, as float16 bits, or
// -1. Magnitudes of float16 order as integers, NaN last.
func badScale(rows []byte, group int, end uint16) int {
	for at := 0; at < len(rows); at += group {
		if binary.LittleEndian.Uint16(rows[at:])&0x7fff >= end {
			return at
		}
	}
	return -1
}

// badSpan is the offset of the first group in which minimum + steps·scale, or the minimum itself, has a magnitude
// of most or more, or -1. Every other code lies between the two. most is above 2016.
func badSpan(rows []byte, group int, steps float32, most float64) int {
	for at := 0; at < len(rows); at += group {
		scale, least := binary.LittleEndian.Uint16(rows[at:]), binary.LittleEndian.Uint16(rows[at+2:])
		if scale&0x7fff < 0x5000 && least&0x7fff < 0x6400 { // below 32 and 1024: 31·32 + 1024 is 2016
			continue
		}
		low := math.Abs(float64(fromHalf(least)))
		end := math.Abs(float64(float32(steps*fromHalf(scale)) + fromHalf(least)))
		if !(low < most) || !(end < most) {
			return at
		}
	}
	return -1
}
