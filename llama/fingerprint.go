//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"strings"

	"fedattn/fedkv"
)

// ropeKeys are the GGUF keys, after the architecture's name, that decide how a position becomes a rotation.
var ropeKeys = []string{
	"rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear", "rope.scaling.type",
	"rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
	"rope.scaling.finetuned", "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
	"rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
}

// Fingerprint says what this model is, for comparing with another device's. weights is the digest of the model file.
func (m *Model) Fingerprint(weights fedkv.Digest) (fedkv.Fingerprint, error) {
	architecture, _ := m.Metadata("general.architecture")
	f := fedkv.Fingerprint{
		Architecture: architecture, Weights: weights, Layers: m.Layers(), ContextTrain: m.ContextTrain(),
	}
	release, err := m.use()
	if err != nil {
		return f, err
	}
	defer release()

	shape := sha256.New()
	put(shape, int(C.llama_model_n_embd(m.ptr)), int(C.llama_model_n_head(m.ptr)), int(C.llama_model_n_head_kv(m.ptr)),
		int(C.llama_model_n_swa(m.ptr)))
	for _, l := range m.shape.Layers {
		put(shape, l.K, l.V, l.Window)
	}
	shape.Sum(f.Shape[:0])

	rope := sha256.New()
	put(rope, int(C.llama_model_rope_type(m.ptr)))
	fmt.Fprintf(rope, "%g\n", float64(C.llama_model_rope_freq_scale_train(m.ptr)))
	for _, key := range ropeKeys {
		value, ok := m.Metadata(architecture + "." + key)
		fmt.Fprintf(rope, "%s %t %q\n", key, ok, value)
	}
	rope.Sum(f.Rope[:0])

	tokenizer := sha256.New()
	n := int(C.llama_vocab_n_tokens(m.vocab))
	put(tokenizer, int(C.llama_vocab_type(m.vocab)), n, int(C.llama_vocab_bos(m.vocab)), int(C.llama_vocab_eos(m.vocab)),
		int(C.llama_vocab_eot(m.vocab)))
	for t := range n {
		id := C.llama_token(t)
		fmt.Fprintf(tokenizer, "%q", C.GoString(C.llama_vocab_get_text(m.vocab, id)))
		put(tokenizer, int(math.Float32bits(float32(C.llama_vocab_get_score(m.vocab, id)))),
			int(C.llama_vocab_get_attr(m.vocab, id)))
	}
	for _, key := range []string{"tokenizer.ggml.model", "tokenizer.ggml.pre"} {
		value, _ := m.Metadata(key)
		fmt.Fprintf(tokenizer, "%s %q\n", key, value)
	}
	tokenizer.Sum(f.Tokenizer[:0])

	template := ""
	if t := C.llama_model_chat_template(m.ptr, nil); t != nil {
		template = strings.TrimSpace(C.GoString(t))
	}
	f.Template = sha256.Sum256([]byte(template))
	return f, nil
}

// put adds integers to a digest.
func put(h hash.Hash, values ...int) {
	for _, v := range values {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(v)))
	}
}
