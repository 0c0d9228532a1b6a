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
	Types:   WireTypes{Q8_0, Q4_0},
	Length:  77 * (204 + 108), // rows of 192 elements
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
		Types:   WireTypes{Q4_0, Q4_0},
		Length:  MaxBlock,
	}
	for _, h := range []BlockHeader{sampleHeader, largest, {Session: sampleSession, First: MaxTokens - 1, Rows: 1, Types: WireTypes{F16, F16}, Length: 1}} {
		raw, err := h.AppendMarshal([]byte{9})
		if err != nil || len(raw) != 1+BlockHeaderSize || raw[0] != 9 {
			t.Fatalf("%+v: %x, %v", h, raw, err)
		}
		if got, err := ParseBlockHeader(raw[1:]); err != nil || got != h {
			t.Errorf("got %+v, %v, want %+v", got, err, h)
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
		"type of V 6":           {37, "\x06", ErrTypes},
		"no payload":            {40, "\x00\x00\x00\x00", ErrRange},
		"payload of 64 MiB + 1": {40, "\x04\x00\x00\x01", ErrRange},
		"payload of 2^32-1":     {40, "\xff\xff\xff\xff", ErrRange},
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
	if k, v, err := (LayerShape{192, 192}).BlockSize(q, 77); k != 77*204 || v != 77*108 || err != nil {
		t.Errorf("got %d, %d, %v", k, v, err)
	}
	widest := LayerShape{MaxRowElements, MaxRowElements}
	if k, v, err := widest.BlockSize(WireTypes{F16, F16}, 256); k+v != MaxBlock || err != nil {
		t.Errorf("the largest block: got %d, %d, %v", k, v, err)
	}
	for name, c := range map[string]struct {
		shape LayerShape
		types WireTypes
		rows  int
		want  error
	}{
		"no rows":         {LayerShape{192, 192}, q, 0, ErrRange},
		"rows below zero": {LayerShape{192, 192}, q, -1, ErrRange},
		"257 wide rows":   {widest, WireTypes{F16, F16}, 257, ErrRange},
		"most rows":       {LayerShape{192, 192}, q, math.MaxInt, ErrRange},
		"K of 33":         {LayerShape{33, 32}, q, 1, ErrTypes},
		"V of 33":         {LayerShape{32, 33}, q, 1, ErrTypes},
		"no type":         {LayerShape{32, 32}, WireTypes{}, 1, ErrTypes},
		"no shape":        {LayerShape{}, q, 1, ErrRange},
	} {
		if k, v, err := c.shape.BlockSize(c.types, c.rows); !errors.Is(err, c.want) {
			t.Errorf("%s: got %d, %d, %v", name, k, v, err)
		}
	}
	most, err := (LayerShape{192, 192}).MaxRows(q)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (LayerShape{192, 192}).BlockSize(q, most); err != nil {
		t.Errorf("%d rows do not fit: %v", most, err)
	}
	if _, _, err := (LayerShape{192, 192}).BlockSize(q, most+1); !errors.Is(err, ErrRange) {
		t.Errorf("%d rows fit", most+1)
	}
}

func TestBlockPayloads(t *testing.T) {
	shape := LayerShape{64, 32}
	h := BlockHeader{Session: sampleSession, Rows: 3, Types: WireTypes{Q8_0, F16}, Length: 3 * (68 + 64)}
	payload := make([]byte, h.Length)
	if k, v, err := h.Split(shape); k != 204 || v != 192 || err != nil {
		t.Errorf("got %d, %d, %v", k, v, err)
	}
	if err := h.CheckFinite(shape, payload); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		at   int
		want string
	}{"K": {2 * 68, "K: elements from 128"}, "V": {204 + 2*40, "V: elements from 40"}} {
		bad := bytes.Clone(payload)
		binary.LittleEndian.PutUint16(bad[c.at:], 0x7e00)
		if err := h.CheckFinite(shape, bad); !errors.Is(err, ErrValue) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NaN in %s: got %v", name, err)
		}
	}
	if err := h.CheckFinite(shape, payload[1:]); !errors.Is(err, ErrRange) {
		t.Errorf("a short payload: got %v", err)
	}
	h.Length--
	if err := h.CheckFinite(shape, payload[1:]); !errors.Is(err, ErrRange) {
		t.Errorf("a short length: got %v", err)
	}
	h.Length++
	if n := testing.AllocsPerRun(10, func() { h.CheckFinite(shape, payload) }); n != 0 {
		t.Errorf("a good payload costs %g allocations", n)
	}
}

func FuzzBlockHeader(f *testing.F) {
	raw, err := sampleHeader.AppendMarshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:20])
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
	for typ := F16; typ <= Q4_0; typ++ {
		f.Add(byte(typ), typ.AppendRow(nil, make([]float32, 64)))
	}
	f.Fuzz(func(t *testing.T, code byte, src []byte) {
		typ := Type(code)
		if err := typ.CheckFinite(src); err != nil {
			return
		}
		row := make([]float32, len(src)/types[typ].bytes*types[typ].elements)
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
