package apitest

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

// Of SmolLM2-135M, whose first query projection the adapter changes.
const (
	embedding = 576
	rank      = 4
)

// adapter writes a LoRA adapter in GGUF: the query weights of layer 0 plus alpha/rank · b·a, where all of b is weight.
func adapter(t *testing.T, weight float32) string {
	t.Helper()
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if s, ok := v.(string); ok {
				put := uint64(len(s))
				binary.Write(&b, binary.LittleEndian, put)
				b.WriteString(s)
				continue
			}
			binary.Write(&b, binary.LittleEndian, v)
		}
	}
	const typeFloat, typeString = uint32(6), uint32(8)
	b.WriteString("GGUF")
	put(uint32(3), uint64(2), uint64(4)) // version, tensors, keys
	put("general.type", typeString, "adapter")
	put("general.architecture", typeString, "llama")
	put("adapter.type", typeString, "lora")
	put("adapter.lora.alpha", typeFloat, float32(rank))
	const float32Tensor = uint32(0)
	size := uint64(embedding * rank * 4)
	put("blk.0.attn_q.weight.lora_a", uint32(2), uint64(embedding), uint64(rank), float32Tensor, uint64(0))
	put("blk.0.attn_q.weight.lora_b", uint32(2), uint64(rank), uint64(embedding), float32Tensor, size)
	for b.Len()%32 != 0 {
		b.WriteByte(0)
	}
	for i := 0; i < embedding*rank; i++ {
		put(float32(i%7-3) / 4)
	}
	for i := 0; i < embedding*rank; i++ {
		put(weight * float32(i%5-2))
	}
	path := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoraAdapter(t *testing.T) {
	want := predict(t, model(t), story, llama.SetTokens(6))
	if got := predict(t, load(t, llama.SetLoraAdapter(adapter(t, 0))), story, llama.SetTokens(6)); got != want {
		t.Errorf("an adapter of zeros changes %q to %q", want, got)
	}
	if got := predict(t, load(t, llama.SetLoraAdapter(adapter(t, 5))), story, llama.SetTokens(6)); got == want {
		t.Error("an adapter changes nothing")
	}
}
