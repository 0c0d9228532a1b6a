package fedkv

import (
	"encoding/binary"
	"math"
)

// CheckFinite reports the first group of rows that could decode to something that float16, the type of the
// cache, cannot hold: NaN, an infinity, or 65520 and more. One such value would spoil every token that
// attends to it, even through a mask, because 0·NaN is NaN. rows is any number of whole rows of type t; only
// scales are read of quantised ones, and nothing is allocated.
func (t Type) CheckFinite(rows []byte) error {
	if !t.Valid() {
		return Errorf(CodeTypes, "unknown wire type %d", uint8(t))
	}
	if len(rows)%types[t].bytes != 0 {
		return Errorf(CodeRange, "%d bytes are no rows of %v, which come in groups of %d bytes", len(rows), t, types[t].bytes)
	}
	bad := -1
	switch t {
	case F16:
		bad = badHalf(rows)
	case Q8_0:
		bad = badScale(rows, types[t].bytes, 0x6000) // 512: times 128 is 65536
	case Q4_0:
		bad = badScale(rows, types[t].bytes, 0x7000) // 8192: times 8 is 65536
	case Q4_1:
		bad = badSpan(rows, types[t].bytes, 15)
	case Q5_1:
		bad = badSpan(rows, types[t].bytes, 31)
	}
	if bad >= 0 {
		return Errorf(CodeValue, "elements from %d on are not finite in float16", bad/types[t].bytes*types[t].elements)
	}
	return nil
}

// badHalf is the offset of the first float16 that is infinite or NaN, or -1. Sixteen values are tested at
// once: adding one to an exponent of all ones, and to no other, carries into the sign bit.
func badHalf(rows []byte) int {
	const exponents, ones, carries = 0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400, 0x8000_8000_8000_8000
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
		if binary.LittleEndian.Uint16(rows[at:])&0x7c00 == 0x7c00 {
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

// badSpan is the offset of the first group in which minimum + steps·scale, or the minimum itself, is beyond
// float16, or -1. Every other code lies between the two.
func badSpan(rows []byte, group int, steps float32) int {
	for at := 0; at < len(rows); at += group {
		scale, least := binary.LittleEndian.Uint16(rows[at:]), binary.LittleEndian.Uint16(rows[at+2:])
		if scale&0x7fff < 0x6400 && least&0x7fff < 0x7800 { // below 1024 and 32768: 31·1024 + 32768 is below 65520
			continue
		}
		end := float32(steps*fromHalf(scale)) + fromHalf(least)
		if least&0x7fff >= 0x7c00 || !(math.Abs(float64(end)) < 65520) {
			return at
		}
	}
	return -1
}
