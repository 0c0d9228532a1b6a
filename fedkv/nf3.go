package fedkv

import "math"

// NF3 is not ggml's: a scale and 32 codes of 3 bits, packed from the lowest bit of the first byte on. A code is a sign
// (bit 2) and one of four levels, those of the quantiser of a standard normal distribution that has the least mean
// square error (Lloyd, Max). A group is small, so its best spread is not its root mean square: some multiples of it are
// tried. For each the elements choose their nearest level and the scale follows, the one with the least square error;
// the multiple that leaves the least error is taken. The engine has the same routine in C++.
var (
	nf3Levels = [4]float32{0.2451, 0.7560, 1.3440, 2.1520}
	nf3Edges  = [3]float32{0.50055, 1.0500, 1.7480} // midway between two levels
	nf3Tries  = [6]float32{0.75, 0.85, 0.95, 1.05, 1.15, 1.25}
)

const nf3Sign = 4

func appendNF3(dst []byte, x *[quantBlock]float32) []byte {
	var squares float32
	for _, v := range x {
		squares += float32(v * v)
	}
	rms := float32(math.Sqrt(float64(squares / quantBlock)))
	var scale, most float32
	var codes [quantBlock]uint8
	for i, try := range nf3Tries {
		spread := float32(try * rms)
		var num, den float32
		var levels [quantBlock]uint8
		for i, v := range x {
			a, level := abs(v), uint8(0)
			for level < 3 && a > float32(nf3Edges[level]*spread) {
				level++
			}
			num += float32(a * nf3Levels[level])
			den += float32(nf3Levels[level] * nf3Levels[level])
			levels[i] = level
		}
		// the error is squares - num²/den; a NaN stays, so that the receiver refuses it
		if fit := float32(num/den) * num; i == 0 || fit > most {
			scale, most, codes = num/den, fit, levels
		}
	}
	for i, v := range x {
		if v < 0 {
			codes[i] |= nf3Sign
		}
	}
	dst = appendHalf(dst, scale)
	var bits uint32
	have := 0
	for _, c := range codes {
		bits |= uint32(c) << have
		for have += 3; have >= 8; have -= 8 {
			dst = append(dst, byte(bits))
			bits >>= 8
		}
	}
	return dst
}

func decodeNF3(y *[quantBlock]float32, src []byte) {
	d := half(src)
	var bits uint32
	have, at := 0, 2
	for i := range y {
		if have < 3 {
			bits |= uint32(src[at]) << have
			have += 8
			at++
		}
		level := float32(nf3Levels[bits&3] * d)
		if bits&nf3Sign != 0 {
			level = -level
		}
		y[i] = level
		bits >>= 3
		have -= 3
	}
}
