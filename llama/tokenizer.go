//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"fedattn/fedkv"
)

// Tokenize turns plain text into tokens. Special tokens in it stay text, and none is added.
func (m *Model) Tokenize(text string) ([]fedkv.Token, error) { return m.tokenize(text, false, false) }

// tokenize is llama_tokenize; special: parse special tokens in text; begin: add what the model wants at the start.
func (m *Model) tokenize(text string, begin, special bool) ([]fedkv.Token, error) {
	release, err := m.use()
	if err != nil {
		return nil, err
	}
	defer release()
	if len(text) > math.MaxInt32/2 {
		return nil, fmt.Errorf("llama: a text of %d bytes is too long to tokenize", len(text))
	}
	s := C.CString(text)
	defer C.free(unsafe.Pointer(s))
	tokens := make([]fedkv.Token, len(text)+8)
	for {
		n := C.llama_tokenize(m.vocab, s, C.int32_t(len(text)), (*C.llama_token)(unsafe.SliceData(tokens)),
			C.int32_t(len(tokens)), C.bool(begin), C.bool(special))
		if n >= 0 {
			return tokens[:n], nil
		}
		if n == math.MinInt32 {
			return nil, errors.New("llama: the text is too long to tokenize")
		}
		tokens = make([]fedkv.Token, -n)
	}
}

// Piece is a token's text: a sequence of bytes that need not be valid UTF-8 by itself. Special tokens have none.
func (m *Model) Piece(token fedkv.Token) []byte { return m.piece(token, false) }

func (m *Model) piece(token fedkv.Token, special bool) []byte {
	release, err := m.use()
	if err != nil || token < 0 || token >= fedkv.Token(C.llama_vocab_n_tokens(m.vocab)) {
		if err == nil {
			release()
		}
		return nil
	}
	defer release()
	buf := make([]byte, 32)
	for {
		n := C.llama_token_to_piece(m.vocab, C.llama_token(token), (*C.char)(bytesPtr(buf)), C.int32_t(len(buf)), 0,
			C.bool(special))
		if n >= 0 {
			return buf[:n]
		}
		buf = make([]byte, -n)
	}
}

// EndsGeneration says whether a token ends the model's turn.
func (m *Model) EndsGeneration(token fedkv.Token) bool {
	release, err := m.use()
	if err != nil {
		return true
	}
	defer release()
	return bool(C.llama_vocab_is_eog(m.vocab, C.llama_token(token)))
}

// TokenizeDocument tokenises plain text as the start of a token stream: with the model's beginning-of-text token if it
// wants one, special tokens in the text staying text.
func (m *Model) TokenizeDocument(text string) ([]fedkv.Token, error) {
	return m.tokenize(text, true, false)
}
