package llama

// #include "binding.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// TokenizeString returns the text's tokens and their number. Special tokens are recognised, and the model's first token
// is added if it wants one. When there are more than SetTokens, which is 128 if not set, it fails, and the number is that
// of all tokens, negative. 0 is no limit.
func (l *LLama) TokenizeString(text string, opts ...PredictOption) (int32, []int32, error) {
	o := NewPredictOptions(opts...)
	if o.Tokens < 0 {
		return 0, []int32{}, fmt.Errorf("cannot tokenize to %d tokens: 0 is no limit", o.Tokens)
	}
	tokens := make([]int32, min(o.Tokens, len(text)+2)) // rarely more than bytes
	n, err := l.tokenize(text, tokens)
	if err == nil && o.Tokens == 0 && n > len(tokens) {
		tokens = make([]int32, n)
		n, err = l.tokenize(text, tokens)
	}
	if err != nil {
		return 0, []int32{}, err
	}
	if n > len(tokens) {
		return -int32(n), []int32{}, fmt.Errorf("cannot tokenize: the text has %d tokens, SetTokens allows %d", n, o.Tokens)
	}
	return int32(n), tokens[:n:n], nil
}

// tokenize fills tokens if all fit and returns how many there are.
func (l *LLama) tokenize(s string, tokens []int32) (int, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	var (
		n   C.size_t
		err reason
	)
	if C.binding_tokenize(l.key, lend(&pin, s), (*C.int32_t)(unsafe.SliceData(tokens)), C.size_t(len(tokens)), &n,
		err.ptr(), err.size()) != 0 {
		return 0, err.error("tokenize")
	}
	return int(n), nil
}

// EmbeddingSize is the length of the model's embeddings, 0 after Free.
func (l *LLama) EmbeddingSize() int {
	return int(C.binding_embedding_size(l.key))
}

// Embeddings returns the text's embedding: EmbeddingSize numbers, pooled as the model says or else those of the last
// token, not normalised. The model must be loaded with EnableEmbeddings.
func (l *LLama) Embeddings(text string, opts ...PredictOption) ([]float32, error) {
	return l.embed(opts, func(threads C.int32_t, out []float32, err *reason) C.int {
		var pin runtime.Pinner
		defer pin.Unpin()
		return C.binding_embed_text(l.key, lend(&pin, text), threads, (*C.float)(unsafe.SliceData(out)),
			C.size_t(len(out)), err.ptr(), err.size())
	})
}

// TokenEmbeddings is Embeddings of exactly these tokens.
func (l *LLama) TokenEmbeddings(tokens []int, opts ...PredictOption) ([]float32, error) {
	ids := make([]C.int32_t, len(tokens))
	for i, t := range tokens {
		ids[i] = int32c(t)
	}
	return l.embed(opts, func(threads C.int32_t, out []float32, err *reason) C.int {
		return C.binding_embed_tokens(l.key, unsafe.SliceData(ids), C.size_t(len(ids)), threads,
			(*C.float)(unsafe.SliceData(out)), C.size_t(len(out)), err.ptr(), err.size())
	})
}

func (l *LLama) embed(opts []PredictOption, call func(C.int32_t, []float32, *reason) C.int) ([]float32, error) {
	if !l.embeddings {
		return []float32{}, errors.New("cannot embed: the model was loaded without EnableEmbeddings")
	}
	o := NewPredictOptions(opts...)
	out := make([]float32, l.EmbeddingSize())
	var err reason
	if call(int32c(o.Threads), out, &err) != 0 {
		return []float32{}, err.error("embed")
	}
	return out, nil
}
