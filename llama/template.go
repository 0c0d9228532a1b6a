//go:build cgo

package llama

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"fedattn/fedkv"
)

// placeholder stands for the user's content while the template is rendered. It has no white space at its ends, which
// templates trim, and nothing that a template would escape.
const placeholder = "fedattn-user-content-6c1f0a"

// Frame is a chat template around one user turn: what comes before its content and what comes after it.
type Frame struct {
	// Prefix is the public part that every participant evaluates: beginning of the text, system prompt, header of the
	// user's turn.
	Prefix []fedkv.Token
	// Suffix ends the user's turn and opens the assistant's.
	Suffix []fedkv.Token
	// Between ends the assistant's turn and opens the user's next one; empty if the template renders no second turn.
	Between []fedkv.Token
}

// Frame renders the model's chat template around a user turn. Special tokens are parsed here, in the template's own
// parts and in the system prompt's place, never in anybody's text. A template that fails is an error.
func (m *Model) Frame(system string) (Frame, error) {
	var chat []Chat
	if system != "" {
		chat = append(chat, Chat{Role: "system", Content: system})
	}
	text, err := m.ApplyTemplate(append(chat, Chat{Role: "user", Content: placeholder}), true)
	if err != nil {
		return Frame{}, err
	}
	before, after, ok := strings.Cut(text, placeholder)
	if !ok || strings.Contains(after, placeholder) {
		return Frame{}, errors.New("llama: the model's chat template does not render the user's content once")
	}
	var f Frame
	// a template may write the beginning-of-text token itself; llama.cpp would add a second one
	if f.Prefix, err = m.tokenize(before, !m.beginsWithBOS(before), true); err != nil {
		return Frame{}, err
	}
	if f.Suffix, err = m.tokenize(after, false, true); err != nil {
		return Frame{}, err
	}
	f.Between, err = m.between(chat)
	return f, err
}

// between renders a second turn after a first one, and takes what stands between an answer and the user's next words.
func (m *Model) between(system []Chat) ([]fedkv.Token, error) {
	const answer, next = placeholder + "-answer", placeholder + "-next"
	text, err := m.ApplyTemplate(append(system, Chat{Role: "user", Content: placeholder},
		Chat{Role: "assistant", Content: answer}, Chat{Role: "user", Content: next}), true)
	if err != nil {
		return nil, nil // it is for one turn
	}
	_, rest, said := strings.Cut(text, answer)
	before, _, again := strings.Cut(rest, next)
	if !said || !again {
		return nil, nil
	}
	return m.tokenize(before, false, true)
}

// beginsWithBOS says whether text starts with the model's beginning-of-text token, written out.
func (m *Model) beginsWithBOS(text string) bool {
	release, err := m.use()
	if err != nil {
		return false
	}
	bos := C.llama_vocab_bos(m.vocab)
	release()
	if bos == C.LLAMA_TOKEN_NULL {
		return false
	}
	piece := string(m.piece(fedkv.Token(bos), true))
	return piece != "" && strings.HasPrefix(text, piece)
}

// ApplyTemplate renders a conversation with the model's own chat template; generate adds the header of the
// assistant's turn.
func (m *Model) ApplyTemplate(chat []Chat, generate bool) (string, error) {
	release, err := m.use()
	if err != nil {
		return "", err
	}
	defer release()
	if m.template == nil {
		return "", fmt.Errorf("llama: %s", m.noChat)
	}
	// C memory for the arrays: cgo does not allow Go memory that points to other memory
	n := len(chat)
	array := func() []*C.char {
		p := C.calloc(C.size_t(n+1), C.size_t(unsafe.Sizeof((*C.char)(nil))))
		return unsafe.Slice((**C.char)(p), n)
	}
	roles, contents := array(), array()
	defer C.free(unsafe.Pointer(unsafe.SliceData(roles)))
	defer C.free(unsafe.Pointer(unsafe.SliceData(contents)))
	for i, c := range chat {
		roles[i], contents[i] = C.CString(c.Role), C.CString(c.Content)
		defer C.free(unsafe.Pointer(roles[i]))
		defer C.free(unsafe.Pointer(contents[i]))
	}
	var reason errBuf
	buf := make([]byte, 4096)
	for {
		size := C.shim_template_apply(m.template, unsafe.SliceData(roles), unsafe.SliceData(contents), C.size_t(n),
			C.bool(generate), (*C.char)(bytesPtr(buf)), C.size_t(len(buf)), reason.ptr(), reason.size())
		switch {
		case size < 0:
			return "", fmt.Errorf("llama: the model's chat template failed: %s", reason.String())
		case int(size) <= len(buf):
			return string(buf[:size]), nil
		}
		buf = make([]byte, size)
	}
}
