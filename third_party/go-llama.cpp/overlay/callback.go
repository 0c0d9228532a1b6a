package llama

// #include "binding.h"
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// SetTokenCallback sets what later and running calls of Predict and SpeculativeSampling hand each token's text to, unless
// a call brings a callback of its own (the option SetTokenCallback); nil removes it. It may be called at any time.
//
// The texts are as the model made them: a token may be a part of a character. A callback returns false to end the
// generation; that token is not in the result. It runs on the goroutine of the call. In it, calls that evaluate on the
// same model fail; a panic ends the generation and goes on in Predict's caller; runtime.Goexit is not allowed.
func (l *LLama) SetTokenCallback(callback func(token string) bool) {
	if callback == nil {
		l.onToken.Store(nil)
		return
	}
	l.onToken.Store(&callback)
}

// generation is one running call, as bindingPiece finds it.
type generation struct {
	model    *LLama
	option   func(string) bool // of this call; nil: the model's
	self     cgo.Handle
	panicked bool
	panicVal any
}

// listen registers a call until its close.
func listen(l *LLama, option func(string) bool) *generation {
	g := &generation{model: l, option: option}
	g.self = cgo.NewHandle(g)
	return g
}

func (g *generation) handle() C.uintptr_t { return C.uintptr_t(g.self) }

func (g *generation) close() { g.self.Delete() }

// raise continues the callback's panic, on this side of C.
func (g *generation) raise() {
	if g.panicked {
		panic(g.panicVal)
	}
}

func (g *generation) piece(text string) bool {
	callback := g.option
	if callback == nil {
		p := g.model.onToken.Load()
		if p == nil {
			return true
		}
		callback = *p
	}
	g.panicked = true // until it returns: C's frames must not be unwound
	defer func() {
		if g.panicked {
			g.panicVal = recover()
		}
	}()
	more := callback(text)
	g.panicked = false
	return more
}

//export bindingPiece
func bindingPiece(handle C.uintptr_t, piece *C.char, size C.size_t) C.int {
	g := cgo.Handle(handle).Value().(*generation)
	if g.piece(string(unsafe.Slice((*byte)(unsafe.Pointer(piece)), int(size)))) {
		return 1
	}
	return 0
}
