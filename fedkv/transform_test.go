package fedkv

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// gaussians is rows [n][elements] of normal values around 0.
func gaussians(seed uint64, n, elements int) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	rows := make([]float32, n*elements)
	for i := range rows {
		rows[i] = float32(r.NormFloat64())
	}
	return rows
}

// journeyError is the root mean square of what rows lose on the wire.
func journeyError(t *testing.T, typ Type, rows []float32, elements int) float64 {
	t.Helper()
	back := make([]float32, len(rows))
	if err := typ.DecodeRows(back, elements, typ.AppendRows(nil, rows, elements)); err != nil {
		t.Fatalf("%v: %v", typ, err)
	}
	sum := 0.0
	for i := range rows {
		d := float64(back[i]) - float64(rows[i])
		sum += d * d
	}
	return math.Sqrt(sum / float64(len(rows)))
}

// The matrix is orthonormal and symmetric: H·H = 1, and rows keep their length. Its elements are as documented.
func TestHadamardIsOrthonormal(t *testing.T) {
	for _, elements := range []int{1, 2, 32, 64, 96, 128, 192, 256, 576, 1024} {
		n := HadamardSize(elements)
		if elements%n != 0 || n > 128 || n < 128 && elements%(2*n) == 0 {
			t.Fatalf("groups of %d in %d elements", n, elements)
		}
		row := gaussians(1, 1, elements)
		turned := append([]float32(nil), row...)
		hadamard(turned)
		for group := 0; group < elements; group += n {
			for i := range n {
				want := 0.0
				for j := range n {
					sign := 1.0
					for both := i & j; both > 0; both &= both - 1 {
						sign = -sign
					}
					want += sign * float64(row[group+j]) / math.Sqrt(float64(n))
				}
				if d := math.Abs(float64(turned[group+i]) - want); d > 1e-5 {
					t.Fatalf("%d elements: element %d is %g, want %g", elements, group+i, turned[group+i], want)
				}
			}
		}
		hadamard(turned)
		for i := range row {
			if d := math.Abs(float64(turned[i] - row[i])); d > 1e-5 {
				t.Fatalf("%d elements: element %d comes back as %g, was %g", elements, i, turned[i], row[i])
			}
		}
	}
}

func TestTransformsComeBack(t *testing.T) {
	rows := gaussians(2, 7, 192)
	for base := F16; base <= NF3; base++ {
		plain := journeyError(t, base, rows, 192)
		for _, flags := range []Type{Centred, Hadamard, Centred | Hadamard} {
			typ := base | flags
			if !typ.Valid() {
				continue
			}
			if got := journeyError(t, typ, rows, 192); got > 1.5*plain+1e-3 {
				t.Errorf("%v loses %g of plain noise, %v loses %g", typ, got, base, plain)
			}
		}
	}
}

// Qwen2's K rows are small values around large constants.
func TestCentringFreesRowsOfTheirBias(t *testing.T) {
	const elements = 128
	rows := gaussians(3, 64, elements)
	bias := gaussians(4, 1, elements)
	for i := range rows {
		rows[i] += 100 * bias[i%elements]
	}
	for _, flags := range []Type{Centred, Centred | Hadamard} {
		with, without := journeyError(t, Q4_0|flags, rows, elements), journeyError(t, Q4_0, rows, elements)
		if with*10 > without {
			t.Errorf("%v loses %g, q4_0 loses %g", Q4_0|flags, with, without)
		}
	}
}

func TestHadamardSpreadsOutliers(t *testing.T) {
	const elements = 128
	rows := gaussians(5, 64, elements)
	for i := range rows {
		if i%elements == 17 || i%elements == 90 {
			rows[i] *= 30
		}
	}
	with, without := journeyError(t, Q4_0|Hadamard, rows, elements), journeyError(t, Q4_0, rows, elements)
	if with*1.5 > without {
		t.Errorf("q4_0+h loses %g, q4_0 loses %g", with, without)
	}
}

// One mean stands before the rows, as float16, and what is left of the rows after it.
func TestCentredRowsAreAMeanAndTheRest(t *testing.T) {
	typ := F16 | Centred
	got := typ.AppendRows(nil, []float32{1, 10, 2, 20, 6, 60}, 2)
	want := []float32{3, 30, -2, -20, -1, -10, 3, 30}
	if len(got) != 2*len(want) {
		t.Fatalf("%d bytes", len(got))
	}
	for i, v := range want {
		if h := half(got[2*i:]); h != v {
			t.Errorf("value %d is %g, want %g", i, h, v)
		}
	}
	if got := typ.AppendRows(nil, nil, 2); len(got) != 0 || typ.DecodeRows(nil, 2, nil) != nil {
		t.Errorf("no rows are %d bytes", len(got))
	}
	for _, src := range [][]byte{got[:len(got)-1], append(got, 0), nil} {
		if err := typ.DecodeRows(make([]float32, 6), 2, src); !errors.Is(err, ErrRange) {
			t.Errorf("%d bytes for 3 rows: %v", len(src), err)
		}
	}
	if err := typ.DecodeRows(make([]float32, 5), 2, got); !errors.Is(err, ErrRange) {
		t.Errorf("half a row: %v", err)
	}
}

// What passes CheckFinite stays finite in float16 when the transforms are undone, at the very edge of what passes.
func TestTransformsCannotOverflowWhatPasses(t *testing.T) {
	const elements = 128
	for base := F16; base <= NF3; base++ {
		for _, flags := range []Type{Centred, Hadamard, Centred | Hadamard} {
			typ := base | flags
			if !typ.Valid() {
				continue
			}
			size, err := typ.RowSize(elements)
			if err != nil {
				t.Fatal(err)
			}
			group := types[base]
			for bits := range uint32(0x8000) { // every scale, or value, that is positive
				row := make([]byte, size)
				for at := 0; at < size; at += group.bytes {
					binary.LittleEndian.PutUint16(row[at:], uint16(bits))
					for i := 2; i < group.bytes; i++ {
						switch base {
						case Q8_0:
							row[at+i] = 0x80 // -128
						case Q5_1, Q4_1:
							if i > 3 {
								row[at+i] = 0xff
							}
						}
					}
				}
				if typ.CheckFinite(row) != nil {
					if bits < 0x4000 {
						t.Fatalf("%v: a scale of %g is refused", typ, fromHalf(uint16(bits)))
					}
					continue
				}
				if bits < 0x4f00 && bits%64 != 0 {
					continue // far from the edge
				}
				out := make([]float32, elements)
				if err := typ.DecodeRow(out, row); err != nil {
					t.Fatal(err)
				}
				mean := 0.0
				if typ.IsCentred() {
					mean = 32752 // the largest that checkMean passes
				}
				for _, v := range out {
					if math.Abs(float64(v))+mean >= 65520 {
						t.Fatalf("%v: scale %g decodes to %g, beside a mean of %g", typ, fromHalf(uint16(bits)), v, mean)
					}
				}
			}
		}
	}
	mean := make([]byte, 128)
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(mean[78:], uint16(h))
		want := math.Abs(float64(fromHalf(uint16(h)))) < 32768
		if err := checkMean(mean); (err == nil) != want {
			t.Fatalf("a mean of %g: %v", fromHalf(uint16(h)), err)
		}
	}
}
