package fedkv

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"testing"
)

// vector is one line of testdata/vectors/codec.jsonl; its README explains the kinds.
type vector struct {
	Kind, Name, Type       string
	Values, Bytes, Decoded string
	Valid                  bool
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	file, err := os.Open("testdata/vectors/codec.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var list []vector
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhexFloats(t testing.TB, s string) []float32 {
	t.Helper()
	b := unhex(t, s)
	row := make([]float32, len(b)/4)
	for i := range row {
		row[i] = math.Float32frombits(binary.BigEndian.Uint32(b[4*i:]))
	}
	return row
}

// sameBits compares bit for bit; NaNs are equal whatever they carry.
func sameBits(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || isNaN(a) && isNaN(b)
}

func TestCodecIsBitEqualWithGGML(t *testing.T) {
	rows := map[string][]float32{}
	encoded, decoded := map[Type]int{}, map[Type]int{}
	for _, v := range readVectors(t) {
		if v.Kind == "row" {
			rows[v.Name] = unhexFloats(t, v.Values)
		}
		if v.Kind != "encode" && v.Kind != "decode" {
			continue
		}
		typ, err := ParseType(v.Type)
		if err != nil {
			t.Fatal(err)
		}
		want := unhex(t, v.Bytes)
		if v.Kind == "encode" {
			got := typ.AppendRow(nil, rows[v.Name])
			if string(got) != string(want) {
				t.Errorf("%s: encode %q\n got %x\nwant %x", typ, v.Name, got, want)
			}
			encoded[typ]++
		}
		values := unhexFloats(t, v.Decoded)
		row := make([]float32, len(values))
		if err := typ.DecodeRow(row, want); err != nil {
			t.Fatalf("%s: decode %q: %v", typ, v.Name, err)
		}
		for i := range row {
			if !sameBits(row[i], values[i]) {
				t.Errorf("%s: decode %q: element %d is %g, ggml has %g", typ, v.Name, i, row[i], values[i])
			}
		}
		decoded[typ]++
	}
	for typ := F16; typ <= Q4_0; typ++ { // NF3 is not ggml's
		if encoded[typ] < 40 || decoded[typ] < 60 {
			t.Errorf("%s: only %d vectors to encode and %d to decode", typ, encoded[typ], decoded[typ])
		}
	}
}

// What CheckFinite passes decodes to values that float16 can hold; what ggml refuses it refuses too.
func TestCheckFiniteAgainstVectors(t *testing.T) {
	refused, passed := 0, 0
	for _, v := range readVectors(t) {
		if v.Kind != "encode" && v.Kind != "decode" {
			continue
		}
		typ, _ := ParseType(v.Type)
		err := typ.CheckFinite(unhex(t, v.Bytes))
		if !v.Valid && err == nil {
			t.Errorf("%s: %q passed, ggml refuses it", typ, v.Name)
		}
		if err != nil {
			refused++
			if !errors.Is(err, ErrValue) {
				t.Errorf("%s: %q: %v is not ErrValue", typ, v.Name, err)
			}
			continue
		}
		passed++
		for _, value := range unhexFloats(t, v.Decoded) {
			if toHalf(value)&0x7c00 == 0x7c00 {
				t.Errorf("%s: %q passed, but decodes to %g", typ, v.Name, value)
			}
		}
	}
	if refused < 40 || passed < 200 {
		t.Errorf("%d refused, %d passed: the vectors lost their point", refused, passed)
	}
}

// Ordinary rows are not refused: CheckFinite is exact about the codes' range, not a guess.
func TestCheckFinitePassesWhatAnHonestPeerSends(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for typ := F16; typ <= NF3; typ++ {
		for range 2000 {
			row := make([]float32, 32)
			size := float32(math.Exp(random.Float64()*20 - 10)) // up to 22,000
			for i := range row {
				row[i] = float32(random.NormFloat64()) * size / 4
				row[i] = max(-60000, min(60000, row[i]))
			}
			if err := typ.CheckFinite(typ.AppendRow(nil, row)); err != nil {
				t.Fatalf("%s: %v: %v", typ, row, err)
			}
		}
	}
}

func TestBrokenRowsNeverPassForFinite(t *testing.T) {
	n := 0
	for _, v := range readVectors(t) {
		if v.Kind != "broken" {
			continue
		}
		n++
		for typ := F16; typ <= NF3; typ++ {
			if err := typ.CheckFinite(typ.AppendRow(nil, unhexFloats(t, v.Values))); !errors.Is(err, ErrValue) {
				t.Errorf("%s: %q: got %v, want ErrValue", typ, v.Name, err)
			}
		}
	}
	if n < 9 {
		t.Errorf("only %d broken rows", n)
	}
}

func TestCheckFiniteFindsOneBadGroupAnywhere(t *testing.T) {
	for typ := F16; typ <= NF3; typ++ {
		group := types[typ]
		rows := make([]byte, 13*8*group.bytes)
		if err := typ.CheckFinite(rows); err != nil {
			t.Fatalf("%s: zeros: %v", typ, err)
		}
		for at := 0; at < len(rows); at += group.bytes {
			for _, bad := range []uint16{0x7c00, 0xfc00, 0x7e00, 0xffff} {
				binary.LittleEndian.PutUint16(rows[at:], bad)
				if err := typ.CheckFinite(rows); !errors.Is(err, ErrValue) {
					t.Fatalf("%s: %04x at byte %d: got %v, want ErrValue", typ, bad, at, err)
				}
				binary.LittleEndian.PutUint16(rows[at:], 0)
			}
		}
		if err := typ.CheckFinite(rows[:len(rows)-1]); !errors.Is(err, ErrRange) {
			t.Errorf("%s: a row cut short: got %v, want ErrRange", typ, err)
		}
		if err := typ.CheckFinite(nil); err != nil {
			t.Errorf("%s: no rows: %v", typ, err)
		}
	}
	if err := Type(0).CheckFinite(nil); !errors.Is(err, ErrTypes) {
		t.Errorf("type 0: got %v, want ErrTypes", err)
	}
}

// Every float16 survives the way to float32 and back, and its value is sign · mantissa · 2^exponent.
func TestHalfOfEveryValue(t *testing.T) {
	for h := range 1 << 16 {
		h := uint16(h)
		v := fromHalf(h)
		mantissa, exponent := float64(h&0x3ff), int(h>>10&31)
		want := math.Ldexp(mantissa+1024, exponent-25)
		switch {
		case exponent == 31 && mantissa != 0:
			if !isNaN(v) || toHalf(v) != h&0x8000|0x7e00 {
				t.Fatalf("%04x: %g, back to %04x", h, v, toHalf(v))
			}
			continue
		case exponent == 31:
			want = math.Inf(1)
		case exponent == 0:
			want = math.Ldexp(mantissa, -24)
		}
		if h&0x8000 != 0 {
			want = math.Copysign(want, -1)
		}
		if !sameBits(v, float32(want)) || toHalf(v) != h {
			t.Fatalf("%04x: %g, want %g; back to %04x", h, v, want, toHalf(v))
		}
	}
}

// Between two neighbours the nearer one wins, and in the middle the even one.
func TestHalfRoundsToNearestEven(t *testing.T) {
	for h := range uint16(0x7bff) {
		a, b := fromHalf(h), fromHalf(h+1)
		middle := a + (b-a)/2 // exact
		even := h + h&1
		below, above := math.Nextafter32(middle, a), math.Nextafter32(middle, b)
		if toHalf(middle) != even || toHalf(below) != h || toHalf(above) != h+1 {
			t.Fatalf("between %04x and the next: %04x %04x %04x", h, toHalf(below), toHalf(middle), toHalf(above))
		}
	}
	if toHalf(math.Nextafter32(65520, 0)) != 0x7bff || toHalf(65520) != 0x7c00 || toHalf(-math.MaxFloat32) != 0xfc00 {
		t.Error("the largest float16 is not where it should be")
	}
}

func TestDecodeRowRefusesWrongLengths(t *testing.T) {
	for typ := F16; typ <= NF3; typ++ {
		src := typ.AppendRow(nil, make([]float32, 64))
		for n := range len(src) {
			if err := typ.DecodeRow(make([]float32, 64), src[:n]); !errors.Is(err, ErrRange) {
				t.Fatalf("%s: %d bytes: got %v, want ErrRange", typ, n, err)
			}
		}
		if err := typ.DecodeRow(make([]float32, 64), append(src, 0)); !errors.Is(err, ErrRange) {
			t.Fatalf("%s: a byte too many: got %v, want ErrRange", typ, err)
		}
	}
	if err := Q8_0.DecodeRow(make([]float32, 33), nil); !errors.Is(err, ErrTypes) {
		t.Errorf("33 elements: got %v, want ErrTypes", err)
	}
}

// One MiB is about one layer of a 2,000-token segment.
func BenchmarkCheckFinite(b *testing.B) {
	for typ := F16; typ <= NF3; typ++ {
		rows := make([]byte, 1<<20/types[typ].bytes/32*32*types[typ].bytes)
		b.Run(typ.String(), func(b *testing.B) {
			b.SetBytes(int64(len(rows)))
			b.ReportAllocs()
			for b.Loop() {
				if err := typ.CheckFinite(rows); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendRow(b *testing.B) {
	row := make([]float32, 1024)
	for i := range row {
		row[i] = float32(math.Sin(float64(i)))
	}
	for typ := F16; typ <= NF3; typ++ {
		b.Run(typ.String(), func(b *testing.B) {
			b.SetBytes(4 * 1024)
			var dst []byte
			for b.Loop() {
				dst = typ.AppendRow(dst[:0], row)
			}
		})
	}
}
