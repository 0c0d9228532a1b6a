package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
)

// The models of these tests are files of a few hundred kilobytes with random weights: commands treat them as any
// other model, and a process that loads one is ready at once. What they answer means nothing.

// ggufFile is a GGUF file being written: metadata, then float32 tensors.
type ggufFile struct {
	metadata, directory, data bytes.Buffer
	keys, tensors             uint64
	random                    *rand.Rand
	steps                     float64 // of a weight, to its standard deviation; 0: no rounding
}

func newGGUF(architecture string) *ggufFile {
	g := &ggufFile{random: rand.New(rand.NewPCG(1, 2))}
	g.text("general.architecture", architecture)
	return g
}

// The numbers of GGUF's value types that are used here.
const (
	ggufUint32  = 4
	ggufInt32   = 5
	ggufFloat32 = 6
	ggufString  = 8
	ggufArray   = 9
)

// ggufAlignment is of each tensor's first byte, and of the first tensor's in the file.
const ggufAlignment = 32

func ggufPut(b *bytes.Buffer, values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			ggufPut(b, uint64(len(s)))
			b.WriteString(s)
			continue
		}
		if err := binary.Write(b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
}

func (g *ggufFile) key(name string, kind uint32, value ...any) {
	g.keys++
	ggufPut(&g.metadata, name, kind)
	ggufPut(&g.metadata, value...)
}

func (g *ggufFile) text(name, value string)          { g.key(name, ggufString, value) }
func (g *ggufFile) number(name string, value uint32) { g.key(name, ggufUint32, value) }
func (g *ggufFile) fraction(name string, v float32)  { g.key(name, ggufFloat32, v) }
func (g *ggufFile) list(name string, kind uint32, values ...any) {
	g.key(name, ggufArray, append([]any{kind, uint64(len(values))}, values...)...)
}

// tensor adds random float32 values around mean; dimensions are in ggml's order, the contiguous one first.
func (g *ggufFile) tensor(name string, mean float32, dimensions ...uint64) {
	// narrow enough for activations to keep their size from layer to layer
	spread := 1 / math.Sqrt(float64(dimensions[0]))
	g.values(name, func() float32 {
		x := spread * g.random.NormFloat64()
		if g.steps > 0 {
			x = math.Round(x*g.steps/spread) * spread / g.steps
		}
		return mean + float32(x)
	}, dimensions...)
}

// values adds a tensor of float32 values, element by element from next.
func (g *ggufFile) values(name string, next func() float32, dimensions ...uint64) {
	g.tensors++
	ggufPut(&g.directory, name, uint32(len(dimensions)))
	n := uint64(1)
	for _, d := range dimensions {
		ggufPut(&g.directory, d)
		n *= d
	}
	const f32 = 0
	ggufPut(&g.directory, uint32(f32), uint64(g.data.Len()))
	for range n {
		ggufPut(&g.data, next())
	}
	for g.data.Len()%ggufAlignment != 0 {
		g.data.WriteByte(0)
	}
}

func (g *ggufFile) bytes() []byte {
	var b bytes.Buffer
	b.WriteString("GGUF")
	const version = 3
	ggufPut(&b, uint32(version), g.tensors, g.keys)
	b.Write(g.metadata.Bytes())
	b.Write(g.directory.Bytes())
	for b.Len()%ggufAlignment != 0 {
		b.WriteByte(0)
	}
	b.Write(g.data.Bytes())
	return b.Bytes()
}

// byteVocabulary is SentencePiece's smallest: three special tokens, one for each byte, and the space. Every text has
// about as many tokens as bytes.
func (g *ggufFile) byteVocabulary() (size uint64) {
	const normal, unknown, control, ofByte = 1, 2, 3, 6
	tokens, scores, types := []any{}, []any{}, []any{}
	add := func(token string, kind int32) {
		tokens, scores, types = append(tokens, token), append(scores, float32(-len(tokens))), append(types, kind)
	}
	add("<unk>", unknown)
	add("<s>", control)
	add("</s>", control)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), ofByte)
	}
	add("▁", normal)
	g.text("tokenizer.ggml.model", "llama")
	g.list("tokenizer.ggml.tokens", ggufString, tokens...)
	g.list("tokenizer.ggml.scores", ggufFloat32, scores...)
	g.list("tokenizer.ggml.token_type", ggufInt32, types...)
	g.number("tokenizer.ggml.unknown_token_id", 0)
	g.number("tokenizer.ggml.bos_token_id", 1)
	g.number("tokenizer.ggml.eos_token_id", 2)
	return uint64(len(tokens))
}

const (
	tinyLayers  = 3
	tinyContext = 2048    // tokens that most of them were trained for
	hugeContext = 1 << 15 // room for an answer that takes seconds
	// tinyTemplate renders one turn as "user: …\nassistant:".
	tinyTemplate = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)

// tinyTransformer is a model of three layers with rows of 32 elements, trained for context tokens. seed chooses the
// weights.
func tinyTransformer(template string, seed uint64, context uint32) []byte {
	return tinyRounded(template, seed, context, 0)
}

// tinyRounded has weights of so many steps to their standard deviation, as quantisation makes them; 0: as they are.
func tinyRounded(template string, seed uint64, context uint32, steps float64) []byte {
	const width, heads, hidden = 64, 2, 96
	const headSize = width / heads
	g := newGGUF("llama")
	g.random, g.steps = rand.New(rand.NewPCG(seed, 0)), steps
	g.number("llama.context_length", context)
	g.number("llama.embedding_length", width)
	g.number("llama.block_count", tinyLayers)
	g.number("llama.feed_forward_length", hidden)
	g.number("llama.attention.head_count", heads)
	g.number("llama.attention.head_count_kv", 1)
	g.number("llama.rope.dimension_count", headSize)
	g.fraction("llama.attention.layer_norm_rms_epsilon", 1e-5)
	tokens := g.byteVocabulary()
	if template != "" {
		g.text("tokenizer.chat_template", template)
	}
	g.tensor("token_embd.weight", 0, width, tokens)
	g.tensor("output_norm.weight", 1, width)
	g.tensor("output.weight", 0, width, tokens)
	for i := range tinyLayers {
		layer := func(name string) string { return fmt.Sprintf("blk.%d.%s.weight", i, name) }
		g.tensor(layer("attn_norm"), 1, width)
		g.tensor(layer("attn_q"), 0, width, width)
		g.tensor(layer("attn_k"), 0, width, headSize)
		g.tensor(layer("attn_v"), 0, width, headSize)
		g.tensor(layer("attn_output"), 0, width, width)
		g.tensor(layer("ffn_norm"), 1, width)
		g.tensor(layer("ffn_gate"), 0, width, hidden)
		g.tensor(layer("ffn_up"), 0, width, hidden)
		g.tensor(layer("ffn_down"), 0, hidden, width)
	}
	return g.bytes()
}

// tinyRecurrent is a Mamba model: state-space layers, no attention and no KV cache.
func tinyRecurrent() []byte {
	const width, inner, convolution, state, step = 32, 64, 4, 8, 2
	g := newGGUF("mamba")
	g.number("mamba.context_length", tinyContext)
	g.number("mamba.embedding_length", width)
	g.number("mamba.block_count", 1)
	g.number("mamba.feed_forward_length", 0)
	g.number("mamba.attention.head_count", 0)
	g.number("mamba.ssm.conv_kernel", convolution)
	g.number("mamba.ssm.inner_size", inner)
	g.number("mamba.ssm.state_size", state)
	g.number("mamba.ssm.time_step_rank", step)
	g.fraction("mamba.attention.layer_norm_rms_epsilon", 1e-5)
	tokens := g.byteVocabulary()
	g.tensor("token_embd.weight", 0, width, tokens)
	g.tensor("output_norm.weight", 1, width)
	g.tensor("blk.0.attn_norm.weight", 1, width)
	g.tensor("blk.0.ssm_in.weight", 0, width, 2*inner)
	g.tensor("blk.0.ssm_conv1d.weight", 0, convolution, inner)
	g.tensor("blk.0.ssm_conv1d.bias", 0, inner)
	g.tensor("blk.0.ssm_x.weight", 0, inner, step+2*state)
	g.tensor("blk.0.ssm_dt.weight", 0, step, inner)
	g.tensor("blk.0.ssm_dt.bias", 0, inner)
	g.tensor("blk.0.ssm_a", -1, state, inner)
	g.tensor("blk.0.ssm_d", 1, inner)
	g.tensor("blk.0.ssm_out.weight", 0, inner, width)
	return g.bytes()
}
