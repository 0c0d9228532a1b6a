package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// file builds a header value by value.
type file struct{ bytes.Buffer }

func (f *file) put(values ...any) *file {
	for _, v := range values {
		if s, ok := v.(string); ok {
			f.put(uint64(len(s)))
			f.WriteString(s)
			continue
		}
		if err := binary.Write(f, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return f
}

func begin(version uint32, tensors, keys uint64) *file {
	f := &file{}
	f.WriteString("GGUF")
	return f.put(version, tensors, keys)
}

// small is a model of two layers, the second with a window; heads differ between them.
func small() []byte {
	f := begin(3, 1, 10)
	f.put("general.architecture", uint32(typeString), "llama")
	f.put("general.license", uint32(typeString), "mit")
	f.put("llama.block_count", uint32(typeUint32), uint32(2))
	f.put("llama.embedding_length", uint32(typeUint32), uint32(64))
	f.put("llama.context_length", uint32(typeUint64), uint64(2048))
	f.put("llama.attention.head_count", uint32(typeUint32), uint32(4))
	f.put("llama.attention.head_count_kv", uint32(typeArray), uint32(typeInt32), uint64(2), int32(2), int32(1))
	f.put("llama.attention.sliding_window", uint32(typeUint32), uint32(32))
	f.put("llama.attention.sliding_window_pattern", uint32(typeArray), uint32(typeBool), uint64(2), uint8(0), uint8(1))
	f.put("tokenizer.ggml.scores", uint32(typeArray), uint32(typeFloat32), uint64(keptElements+1))
	f.Write(make([]byte, 4*(keptElements+1)))
	f.put("output.weight", uint32(2), uint64(64), uint64(3), uint32(0), uint64(0))
	return f.Bytes()
}

func TestHeaderOfASmallModel(t *testing.T) {
	b := small()
	h, err := Read(bytes.NewReader(append(b, 1, 2, 3)))
	if err != nil {
		t.Fatal(err)
	}
	if h.Size != int64(len(b)) || len(h.Tensors) != 1 || h.Tensors[0].Dimensions[1] != 3 {
		t.Errorf("header: %+v", h)
	}
	if a := h.Metadata["tokenizer.ggml.scores"].(Array); a.Length != keptElements+1 || a.Elements != nil {
		t.Errorf("a long array: %d elements are kept", len(a.Elements))
	}
	m, err := h.Model()
	if err != nil {
		t.Fatal(err)
	}
	// heads of 64/4 = 16 elements; two bytes each, K and V
	if want := int64(2 * (2*32 + 2*16)); m.KVBytes() != want || m.Licence != "mit" || m.Context != 2048 || m.Window != 32 {
		t.Errorf("KV %d bytes, want %d: %+v", m.KVBytes(), want, m)
	}
	if m.Layers[0].Window || !m.Layers[1].Window {
		t.Errorf("windows: %+v", m.Layers)
	}
}

func TestEveryTruncationIsAnError(t *testing.T) {
	b := small()
	for n := range len(b) {
		if n > 600 && n < len(b)-100 {
			continue // within the long array
		}
		if h, err := Read(bytes.NewReader(b[:n])); err == nil {
			t.Fatalf("%d of %d bytes are a header: %+v", n, len(b), h)
		}
	}
}

func TestClaimsAreHeldAgainstLimits(t *testing.T) {
	for name, b := range map[string][]byte{
		"tensors":    begin(3, math.MaxUint64, 0).Bytes(),
		"keys":       begin(3, 0, 1<<40).Bytes(),
		"key":        begin(3, 0, 1).put(uint64(math.MaxUint64)).Bytes(),
		"text":       begin(3, 0, 1).put("a", uint32(typeString), uint64(1<<50)).Bytes(),
		"array":      begin(3, 0, 1).put("a", uint32(typeArray), uint32(typeUint64), uint64(1<<60)).Bytes(),
		"skip":       begin(3, 0, 1).put("a", uint32(typeArray), uint32(typeUint64), uint64(maxElements)).Bytes(),
		"type":       begin(3, 0, 1).put("a", uint32(99)).Bytes(),
		"nested":     begin(3, 0, 1).put("a", uint32(9), uint32(9), uint64(1), uint32(9), uint64(1), uint32(9), uint64(1)).Bytes(),
		"dimensions": begin(3, 1, 0).put("t", uint32(1<<31)).Bytes(),
		"version":    begin(9, 0, 0).Bytes(),
		"twice":      begin(3, 0, 2).put("a", uint32(0), uint8(1), "a", uint32(0), uint8(1)).Bytes(),
	} {
		if _, err := Read(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, b := range []string{"", "GG", "PK\x03\x04", "GGUFX"} {
		_, err := Read(bytes.NewReader([]byte(b)))
		if b == "GGUFX" {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: %v", b, err)
			}
		} else if !errors.Is(err, ErrNotGGUF) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

func TestModelThatDoesNotSayItsShape(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":   begin(3, 0, 0).Bytes(),
		"no layers": begin(3, 0, 1).put("general.architecture", uint32(typeString), "x").Bytes(),
		"too many": begin(3, 0, 3).put("general.architecture", uint32(typeString), "x", "x.block_count", uint32(4), uint32(1<<31),
			"x.embedding_length", uint32(4), uint32(8)).Bytes(),
		"too wide": begin(3, 0, 3).put("general.architecture", uint32(typeString), "x", "x.block_count", uint32(4), uint32(1),
			"x.embedding_length", uint32(10), uint64(math.MaxUint64)).Bytes(),
	} {
		h, err := Read(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m, err := h.Model(); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(small())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := Read(bytes.NewReader(b)); err == nil {
			if m, err := h.Model(); err == nil && m.KVBytes() < 0 {
				t.Errorf("%+v", m)
			}
		}
	})
}

// The model of the demo, where it is: 30 layers, 3 KV heads of 64.
func TestRealModel(t *testing.T) {
	path := os.Getenv("TEST_MODEL")
	if path == "" {
		path = filepath.Join("..", "SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	in, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("make model brings it")
	} else if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	h, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	m, err := h.Model()
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(30 * 2 * 2 * 3 * 64); m.KVBytes() != want || m.Vocabulary != 49152 || m.Template == "" {
		t.Errorf("KV %d bytes, want %d; vocabulary %d", m.KVBytes(), want, m.Vocabulary)
	}
}
