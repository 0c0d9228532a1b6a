package fedkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the goldens of testdata/wire anew")

var sampleHeader = BlockHeader{
	Session: sampleSession,
	Origin:  2,
	Layer:   17,
	First:   512,
	Rows:    77,
	Kept:    20,
	Types:   WireTypes{Q8_0, Q4_0},
	Length:  10 + 20*(204+108), // a bitmap, rows of 192 elements
}

// The goldens fix the bytes of version 1: they change only with the protocol.
func TestWireGoldens(t *testing.T) {
	frames := map[string][]byte{}
	for name, m := range samples() {
		frame, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		frames[name] = frame
	}
	block, err := sampleHeader.AppendMarshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	frames["block"] = block
	sealed := sampleHeader
	sealed.Seal = Seal{true, 5, [32]byte{0xb0, 31: 0xbf}, [64]byte{0xc0, 63: 0xcf}}
	if frames["block-sealed"], err = sealed.AppendMarshal(nil); err != nil {
		t.Fatal(err)
	}
	frames["session"] = concat(frames, "hello", "ping", "ready")

	for name, frame := range frames {
		path := "testdata/wire/" + name + ".txt"
		got := Annotate(frame)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n got\n%s\nwant\n%s", name, got, want)
		}
		if raw := dumped(t, string(want)); !bytes.Equal(raw, frame) {
			t.Errorf("%s: the golden's bytes are not the frame's:\n got %x\nwant %x", name, raw, frame)
		}
	}
	files, err := os.ReadDir("testdata/wire")
	if err != nil || len(files) != len(frames) {
		t.Errorf("%d goldens of %d frames, %v", len(files), len(frames), err)
	}
}

func concat(frames map[string][]byte, names ...string) []byte {
	var b []byte
	for _, name := range names {
		b = append(b, frames[name]...)
	}
	return b
}

// dumped is the bytes that a dump shows.
func dumped(t *testing.T, text string) []byte {
	t.Helper()
	line := regexp.MustCompile(`^[0-9a-f]{4,}  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)`)
	var b []byte
	for l := range strings.Lines(text) {
		if m := line.FindStringSubmatch(strings.TrimSuffix(l, "\n")); m != nil {
			b = append(b, unhex(t, strings.ReplaceAll(m[1], " ", ""))...)
		}
	}
	return b
}

func TestAnnotateNeverFails(t *testing.T) {
	for name, m := range samples() {
		frame, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(frame) {
			if n > 0 && !strings.Contains(Annotate(frame[:n]), "unreadable: ") {
				t.Errorf("%s cut to %d bytes:\n%s", name, n, Annotate(frame[:n]))
			}
		}
	}
	block, _ := sampleHeader.AppendMarshal(nil)
	if got := Annotate(append(block, make([]byte, 1000)...)); !strings.HasSuffix(got, "1000 bytes of payload\n") {
		t.Errorf("a payload shows as\n%s", got)
	}
	for n := range len(block) {
		Annotate(block[:n])
	}
	for _, body := range []string{"a1 00", "a1 6161 00", "c0 00", "5b ffffffffffffffff", "9b ffffffffffffffff", "1c", strings.Repeat("81", 30), "a1 02 3b ffffffffffffffff"} {
		frame := unhex(t, strings.ReplaceAll(body, " ", ""))
		frame = append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(nil, uint32(2+len(frame))), uint16(MessagePing)), frame...)
		if got := dumped(t, Annotate(frame)); !bytes.Equal(got, frame) {
			t.Errorf("%s: the dump has other bytes:\n%s", body, Annotate(frame))
		}
	}
}

func TestParseFrameHeader(t *testing.T) {
	for _, c := range []struct {
		raw  string
		typ  MessageType
		body int
		err  error
	}{
		{"00000002 0001", MessageHello, 0, nil},
		{"00008000 ffff", 65535, MaxControlMessage - 2, nil},
		{"00000001 0001", 0, 0, ErrProtocol},
		{"00000000 0001", 0, 0, ErrProtocol},
		{"00008001 0001", 0, 0, ErrProtocol},
		{"ffffffff 0001", 0, 0, ErrProtocol},
		{"00000002 00", 0, 0, ErrProtocol},
		{"00000002 000100", 0, 0, ErrProtocol},
		{"", 0, 0, ErrProtocol},
	} {
		typ, body, err := ParseFrameHeader(unhex(t, strings.ReplaceAll(c.raw, " ", "")))
		if typ != c.typ || body != c.body || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, %d, %v", c.raw, typ, body, err)
		}
	}
}

func TestBlockHeadersComeBackAsTheyWere(t *testing.T) {
	largest := BlockHeader{
		Session: sampleSession,
		Origin:  MaxParticipants - 2,
		Layer:   MaxLayers - 1,
		First:   0,
		Rows:    MaxTokens,
		Kept:    MaxTokens,
		Types:   WireTypes{Q4_0 | Centred | Hadamard, F16 | Centred},
		Length:  MaxBlock,
	}
	for _, h := range []BlockHeader{sampleHeader, largest, {Session: sampleSession, First: MaxTokens - 1, Rows: 1, Types: WireTypes{F16, F16}, Length: 1}} {
		for _, seal := range []Seal{{}, {true, MaxParticipants - 2, [32]byte{1, 31: 2}, [64]byte{3, 63: 4}}} {
			if h.Seal = seal; seal.Sealed && h.Origin == MaxParticipants-2 {
				h.Origin-- // nobody is behind the last contributor
			}
			raw, err := h.AppendMarshal([]byte{9})
			if err != nil || len(raw) != 1+BlockHeaderLength(raw[1:]) || raw[0] != 9 || (len(raw) > 1+BlockHeaderSize) != seal.Sealed {
				t.Fatalf("%+v: %x, %v", h, raw, err)
			}
			if got, err := ParseBlockHeader(raw[1:]); err != nil || got != h {
				t.Errorf("got %+v, %v, want %+v", got, err, h)
			}
		}
	}
}

func TestNoTruncatedBlockHeaderIsOne(t *testing.T) {
	raw, err := sampleHeader.AppendMarshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(raw) {
		if h, err := ParseBlockHeader(raw[:n]); !errors.Is(err, ErrProtocol) {
			t.Errorf("%d bytes: got %+v, %v", n, h, err)
		}
	}
	if h, err := ParseBlockHeader(append(raw, 0)); !errors.Is(err, ErrProtocol) {
		t.Errorf("a byte too many: got %+v, %v", h, err)
	}
}

func TestMalformedBlockHeadersAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		at   int
		with string
		want error
	}{
		"magic":                 {0, "FKVB", ErrProtocol},
		"version 0":             {4, "\x00\x00", ErrVersion},
		"version 2":             {4, "\x00\x02", ErrVersion},
		"first reserved bits":   {6, "\x00\x01", ErrProtocol},
		"second reserved bits":  {38, "\x80\x00", ErrProtocol},
		"session of zeros":      {8, strings.Repeat("\x00", 16), ErrProtocol},
		"origin 63":             {24, "\x00\x3f", ErrRange},
		"origin 65535":          {24, "\xff\xff", ErrRange},
		"layer 512":             {26, "\x02\x00", ErrRange},
		"first row 2^20":        {28, "\x00\x10\x00\x00", ErrRange},
		"first row 2^32-1":      {28, "\xff\xff\xff\xff", ErrRange},
		"no rows":               {32, "\x00\x00\x00\x00", ErrRange},
		"rows past the end":     {32, "\x00\x10\x00\x00", ErrRange},
		"rows 2^32-1":           {32, "\xff\xff\xff\xff", ErrRange},
		"type of K 0":           {36, "\x00", ErrTypes},
		"type of V 7":           {37, "\x07", ErrTypes},
		"no payload":            {40, "\x00\x00\x00\x00", ErrRange},
		"payload of 64 MiB + 1": {40, "\x04\x00\x00\x01", ErrRange},
		"payload of 2^32-1":     {40, "\xff\xff\xff\xff", ErrRange},
		"more kept than rows":   {44, "\x00\x00\x00\x4e", ErrRange},
		"kept 2^32-1":           {44, "\xff\xff\xff\xff", ErrRange},
		"f16 in another basis":  {36, "\x21", ErrTypes},
		"a flag of the future":  {36, "\x42", ErrTypes},
	} {
		raw, err := sampleHeader.AppendMarshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		copy(raw[c.at:], c.with)
		if h, err := ParseBlockHeader(raw); !errors.Is(err, c.want) {
			t.Errorf("%s: got %+v, %v, want %v", name, h, err, c.want)
		}
	}
}

func TestInvalidBlockHeadersAreNotSent(t *testing.T) {
	for name, change := range map[string]func(*BlockHeader){
		"no session":        func(h *BlockHeader) { h.Session = SessionID{} },
		"origin -1":         func(h *BlockHeader) { h.Origin = -1 },
		"origin 63":         func(h *BlockHeader) { h.Origin = MaxParticipants - 1 },
		"layer -1":          func(h *BlockHeader) { h.Layer = -1 },
		"layer 512":         func(h *BlockHeader) { h.Layer = MaxLayers },
		"first row -1":      func(h *BlockHeader) { h.First = -1 },
		"first row 2^20":    func(h *BlockHeader) { h.First = MaxTokens },
		"no rows":           func(h *BlockHeader) { h.Rows = 0 },
		"rows past the end": func(h *BlockHeader) { h.Rows = MaxTokens - h.First + 1 },
		"most rows":         func(h *BlockHeader) { h.Rows = math.MaxInt32 },
		"type 0":            func(h *BlockHeader) { h.Types.V = 0 },
		"no payload":        func(h *BlockHeader) { h.Length = 0 },
		"kept -1":           func(h *BlockHeader) { h.Kept = -1 },
		"kept too many":     func(h *BlockHeader) { h.Kept = h.Rows + 1 },
		"too much payload":  func(h *BlockHeader) { h.Length = MaxBlock + 1 },
	} {
		h := sampleHeader
		change(&h)
		if raw, err := h.AppendMarshal(nil); err == nil {
			t.Errorf("%s: sent as %x", name, raw)
		}
	}
}

func TestBlockSize(t *testing.T) {
	q := WireTypes{Q8_0, Q4_0}
	if k, v, err := (LayerShape{K: 192, V: 192}).BlockSize(q, 77); k != 77*204 || v != 77*108 || err != nil {
		t.Errorf("got %d, %d, %v", k, v, err)
	}
	widest := LayerShape{K: MaxRowElements, V: MaxRowElements}
	if k, v, err := widest.BlockSize(WireTypes{F16, F16}, 256); k+v != MaxBlock || err != nil {
		t.Errorf("the largest block: got %d, %d, %v", k, v, err)
	}
	for name, c := range map[string]struct {
		shape LayerShape
		types WireTypes
		rows  int
		want  error
	}{
		"no rows":         {LayerShape{K: 192, V: 192}, q, 0, nil},
		"rows below zero": {LayerShape{K: 192, V: 192}, q, -1, ErrRange},
		"257 wide rows":   {widest, WireTypes{F16, F16}, 257, ErrRange},
		"most rows":       {LayerShape{K: 192, V: 192}, q, math.MaxInt, ErrRange},
		"K of 33":         {LayerShape{K: 33, V: 32}, q, 1, ErrTypes},
		"V of 33":         {LayerShape{K: 32, V: 33}, q, 1, ErrTypes},
		"no type":         {LayerShape{K: 32, V: 32}, WireTypes{}, 1, ErrTypes},
		"no shape":        {LayerShape{}, q, 1, ErrRange},
	} {
		if k, v, err := c.shape.BlockSize(c.types, c.rows); !errors.Is(err, c.want) {
			t.Errorf("%s: got %d, %d, %v", name, k, v, err)
		}
	}
	centred := WireTypes{Q8_0 | Centred, Q4_0 | Hadamard | Centred}
	if k, v, err := (LayerShape{K: 192, V: 64}).BlockSize(centred, 3); k != 2*192+3*204 || v != 2*64+3*36 || err != nil {
		t.Errorf("with means: got %d, %d, %v", k, v, err)
	}
	if k, v, err := (LayerShape{K: 192, V: 64}).BlockSize(centred, 0); k != 0 || v != 0 || err != nil {
		t.Errorf("no rows have no mean: got %d, %d, %v", k, v, err)
	}
	for _, types := range []WireTypes{q, centred, {F16, F16}} {
		for _, shape := range []LayerShape{{K: 192, V: 192}, {K: 32, V: 32}, widest} {
			most, err := shape.MaxRows(types)
			if err != nil || most < 254 {
				t.Fatalf("%v: %d rows, %v", types, most, err)
			}
			for _, kept := range []int{most, most - 1, 0} {
				if h, err := (BlockHeader{Rows: most, Kept: kept, Types: types}).Sized(shape); err != nil || h.Length > MaxBlock {
					t.Errorf("%v: %d of %d rows of %+v do not fit: %v", types, kept, most, shape, err)
				}
			}
			if h, err := (BlockHeader{Rows: most + 2 + most/50, Kept: most + 2 + most/50, Types: types}).Sized(shape); most < MaxTokens/2 && err == nil {
				t.Errorf("%v: %d rows of %+v fit too", types, h.Rows, shape)
			}
		}
	}
}

func TestStagingSizeBoundsWhatACollectorTakes(t *testing.T) {
	shape := LayerShape{K: 64, V: 32}
	for _, types := range []WireTypes{{Q8_0, Q4_0}, {Q4_0 | Centred, Q4_0 | Centred | Hadamard}} {
		for _, tokens := range []int{1, 7, 100, 3000} {
			for _, per := range []int{1, 5, 16, 512} {
				first := tokens / 3
				most, err := shape.StagingSize(types, tokens, first)
				if err != nil {
					t.Fatal(err)
				}
				c := NewCollector(bookSession, Shape{[]LayerShape{shape}}, Uniform(types, 1))
				if err := c.Expect(0, tokens, mustSchedule(t, "all", 1), []int{first}); err != nil {
					t.Fatal(err)
				}
				for at := first; at < tokens; at += per {
					rows := min(per, tokens-at)
					h, err := BlockHeader{Session: bookSession, First: at, Rows: rows, Kept: rows, Types: types}.Sized(shape)
					if err != nil {
						t.Fatal(err)
					}
					if err := c.Accept(0, h); err != nil && per >= 16 {
						t.Errorf("%v: %d tokens in blocks of %d: %v", types, tokens, per, err)
					}
				}
				if c.Bytes(0) > most || per == 16 && !c.Complete() {
					t.Errorf("%v: %d tokens in blocks of %d take %d bytes, %d are said to be the most", types, tokens, per, c.Bytes(0), most)
				}
			}
		}
	}
	if n, err := shape.StagingSize(WireTypes{F16, F16}, 5, 5); n != 0 || err != nil {
		t.Errorf("no rows take %d bytes, %v", n, err)
	}
}

func TestBlockPayloads(t *testing.T) {
	shape := LayerShape{K: 64, V: 32}
	h := BlockHeader{Session: sampleSession, First: 5, Rows: 3, Kept: 3, Types: WireTypes{Q8_0, F16}, Length: 3 * (68 + 64)}
	payload := make([]byte, h.Length)
	if bitmap, k, v, err := h.Split(shape); bitmap != 0 || k != 204 || v != 192 || err != nil {
		t.Errorf("got %d, %d, %d, %v", bitmap, k, v, err)
	}
	b, err := h.Open(shape, payload)
	if err != nil || len(b.K) != 204 || len(b.V) != 192 || len(b.Rows) != h.Length || !slices.Equal(b.Positions(10), []int32{15, 16, 17}) {
		t.Errorf("%d bytes of K, %d of V, at %v, %v", len(b.K), len(b.V), b.Positions(10), err)
	}
	for name, c := range map[string]struct {
		at   int
		want string
	}{"K": {2 * 68, "K: elements from 128"}, "V": {204 + 2*40, "V: elements from 40"}} {
		bad := bytes.Clone(payload)
		binary.LittleEndian.PutUint16(bad[c.at:], 0x7e00)
		if _, err := h.Open(shape, bad); !errors.Is(err, ErrValue) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NaN in %s: got %v", name, err)
		}
	}
	if _, err := h.Open(shape, payload[1:]); !errors.Is(err, ErrRange) {
		t.Errorf("a short payload: got %v", err)
	}
	h.Length--
	if _, err := h.Open(shape, payload[1:]); !errors.Is(err, ErrRange) {
		t.Errorf("a short length: got %v", err)
	}
	h.Length++
	if n := testing.AllocsPerRun(10, func() { h.Open(shape, payload) }); n != 0 {
		t.Errorf("a good payload costs %g allocations", n)
	}
}

func TestBlocksWithGaps(t *testing.T) {
	shape := LayerShape{K: 64, V: 32}
	types := WireTypes{Q8_0 | Centred, F16}
	keep := []bool{false, true, false, false, true, false, false, false, false, true, false}
	h, err := BlockHeader{Session: sampleSession, First: 5, Rows: 11, Kept: 3, Types: types}.Sized(shape)
	if err != nil || h.Length != 2+128+3*68+3*64 {
		t.Fatalf("%d bytes, %v", h.Length, err)
	}
	payload := AppendBitmap(nil, keep)
	if !bytes.Equal(payload, []byte{0x12, 0x02}) {
		t.Fatalf("bitmap %x", payload)
	}
	payload = append(payload, make([]byte, h.Length-2)...)
	payload[2+128] = 77
	b, err := h.Open(shape, payload)
	if err != nil || !slices.Equal(b.Positions(100), []int32{106, 109, 114}) || len(b.K) != 128+3*68 || len(b.V) != 3*64 || b.K[128] != 77 {
		t.Errorf("rows at %v, %d bytes of K, %d of V, %v", b.Positions(100), len(b.K), len(b.V), err)
	}
	for name, bitmap := range map[string][]byte{
		"a bit too many": {0x13, 0x02}, "a bit too few": {0x10, 0x02}, "a bit beyond the rows": {0x12, 0x08}, "none": {0, 0}, "all": {0xff, 0x07},
	} {
		bad := append(bytes.Clone(bitmap), payload[2:]...)
		if _, err := h.Open(shape, bad); !errors.Is(err, ErrRange) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, at := range map[string]int{"the mean": 2 + 4, "a row": 2 + 128 + 68, "V": 2 + 128 + 3*68} {
		bad := bytes.Clone(payload)
		binary.LittleEndian.PutUint16(bad[at:], 0x7c00)
		if _, err := h.Open(shape, bad); !errors.Is(err, ErrValue) {
			t.Errorf("an infinity in %s: got %v", name, err)
		}
	}

	h.Kept = 0
	if h, err = h.Sized(shape); err != nil || h.Length != 2 {
		t.Fatalf("%d bytes of nothing, %v", h.Length, err)
	}
	if b, err := h.Open(shape, []byte{0, 0}); err != nil || len(b.Rows) != 0 || len(b.Positions(0)) != 0 {
		t.Errorf("no rows: %v, %v", b, err)
	}
	if _, err := h.Open(shape, []byte{0, 1}); !errors.Is(err, ErrRange) {
		t.Errorf("a bit and no row: %v", err)
	}
	if b := AppendBitmap([]byte{9}, []bool{true, true}); !bytes.Equal(b, []byte{9}) {
		t.Errorf("all rows have the bitmap %x", b)
	}
}

// FuzzBlock opens any payload of any header: what is good has as many positions as it says, in order and within the
// block, and rows that decode to what float16 holds.
func FuzzBlock(f *testing.F) {
	f.Add(uint16(11), uint16(3), byte(Q8_0), byte(Q4_0), []byte{0x12, 0x02, 1, 2, 3})
	f.Add(uint16(3), uint16(3), byte(Q4_0|Centred|Hadamard), byte(Q5_1|Hadamard), []byte{0xff, 0x77})
	f.Add(uint16(9), uint16(0), byte(F16|Centred), byte(F16), []byte{})
	f.Fuzz(func(t *testing.T, rows, kept uint16, k, v byte, content []byte) {
		shape := LayerShape{K: 64, V: 96}
		h, err := BlockHeader{First: 2, Rows: int(rows % 600), Kept: int(kept % 600), Types: WireTypes{Type(k), Type(v)}}.Sized(shape)
		if err != nil {
			return
		}
		payload := make([]byte, h.Length)
		copy(payload, content)
		b, err := h.Open(shape, payload)
		if err != nil {
			return
		}
		at := b.Positions(3)
		if len(at) != h.Kept || len(b.K)+len(b.V) != len(b.Rows) {
			t.Fatalf("%d positions of %d rows", len(at), h.Kept)
		}
		for i, pos := range at {
			if int(pos) < 5 || int(pos) >= 5+h.Rows || i > 0 && pos <= at[i-1] {
				t.Fatalf("positions %v of %d rows", at, h.Rows)
			}
		}
		for _, part := range []struct {
			typ      Type
			elements int
			bytes    []byte
		}{{h.Types.K, shape.K, b.K}, {h.Types.V, shape.V, b.V}} {
			out := make([]float32, h.Kept*part.elements)
			if err := part.typ.DecodeRows(out, part.elements, part.bytes); err != nil {
				t.Fatal(err)
			}
			for _, x := range out {
				if !(math.Abs(float64(x)) < 65520) {
					t.Fatalf("%v decodes to %g", part.typ, x)
				}
			}
		}
	})
}

func FuzzBlockHeader(f *testing.F) {
	raw, err := sampleHeader.AppendMarshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:20])
	sealed := sampleHeader
	sealed.Seal = Seal{Sealed: true, To: 5}
	if raw, err = sealed.AppendMarshal(nil); err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		Annotate(raw)
		h, err := ParseBlockHeader(raw)
		if err != nil {
			if CodeOf(err) == CodeInternal {
				t.Fatalf("%v has no code", err)
			}
			return
		}
		again, err := h.AppendMarshal(nil)
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%+v is %x, was %x, %v", h, again, raw, err)
		}
		for n := range len(raw) {
			if h, err := ParseBlockHeader(raw[:n]); err == nil {
				t.Fatalf("%d bytes are %+v", n, h)
			}
		}
	})
}

func FuzzDecodeRow(f *testing.F) {
	for typ := F16; typ <= NF3; typ++ {
		f.Add(byte(typ), typ.AppendRow(nil, make([]float32, 64)))
	}
	f.Fuzz(func(t *testing.T, code byte, src []byte) {
		typ := Type(code)
		if err := typ.CheckFinite(src); err != nil {
			return
		}
		group := types[typ.Base()]
		row := make([]float32, len(src)/group.bytes*group.elements)
		if err := typ.DecodeRow(row, src); err != nil {
			if len(row) > 0 && len(row) <= MaxRowElements {
				t.Fatal(err)
			}
			return
		}
		for i, v := range row {
			if toHalf(v)&0x7c00 == 0x7c00 {
				t.Fatalf("%v: element %d of finite rows is %g", typ, i, v)
			}
		}
		back := make([]float32, len(row))
		if err := typ.DecodeRow(back, typ.AppendRow(nil, row)); err != nil {
			t.Fatal(err)
		}
		if typ == F16 && !reflect.DeepEqual(back, row) {
			t.Fatalf("f16 is not lossless: %v, %v", row, back)
		}
	})
}
