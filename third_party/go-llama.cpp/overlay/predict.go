package llama

// #include "binding.h"
import "C"

import (
	"runtime"
	"strings"
	"unsafe"
)

// Predict continues the prompt and returns the text: all of it, up to a stop word, without that, and without one leading
// space or line feed. It ends with the model's turn, a stop word, a callback's false, or after SetTokens tokens; 0 of
// them is no limit. A full context drops the older half of what lies behind SetNKeep tokens of the prompt.
//
// Special tokens in the prompt are recognised. It starts from an empty cache, or goes on from Eval or LoadState: tokens
// that the prompt shares with them are not evaluated again, and an empty prompt continues them.
func (l *LLama) Predict(text string, opts ...PredictOption) (string, error) {
	return l.generate("predict", text, opts, func(r *C.struct_binding_request, out *C.struct_binding_output, err *reason) C.int {
		return C.binding_predict(l.key, r, out, err.ptr(), err.size())
	})
}

// SpeculativeSampling is Predict with a smaller model ll of the same vocabulary that guesses SetNDraft tokens ahead (0:
// 8), which l then checks at once. With a temperature of 0 the text is Predict's. Tokens that l draws are those of its
// own distribution, whatever ll guesses. Negative prompts and prompt caches are Predict's alone.
func (l *LLama) SpeculativeSampling(ll *LLama, text string, opts ...PredictOption) (string, error) {
	var draft C.uint64_t // none: C refuses it
	if ll != nil {
		draft = ll.key
	}
	return l.generate("predict", text, opts, func(r *C.struct_binding_request, out *C.struct_binding_output, err *reason) C.int {
		return C.binding_speculate(l.key, draft, r, out, err.ptr(), err.size())
	})
}

// Eval evaluates a text into the emptied cache, for a Predict that goes on from it or for SaveState.
func (l *LLama) Eval(text string, opts ...PredictOption) error {
	o := NewPredictOptions(opts...)
	var pin runtime.Pinner
	defer pin.Unpin()
	r, failed := newRequest(&pin, text, &o)
	if failed != nil {
		return failed
	}
	var err reason
	if C.binding_eval(l.key, r, err.ptr(), err.size()) != 0 {
		return err.error("evaluate the text")
	}
	return nil
}

func (l *LLama) generate(what, prompt string, opts []PredictOption,
	call func(*C.struct_binding_request, *C.struct_binding_output, *reason) C.int,
) (string, error) {
	o := NewPredictOptions(opts...)
	var pin runtime.Pinner
	defer pin.Unpin()
	r, failed := newRequest(&pin, prompt, &o)
	if failed != nil {
		return "", failed
	}
	run := listen(l, o.TokenCallback)
	defer run.close()
	r.callback = run.handle()

	var (
		out C.struct_binding_output
		err reason
	)
	status := call(r, &out, &err)
	defer C.binding_output_free(&out)
	run.raise()
	if status != 0 {
		return "", err.error(what)
	}
	text := string(unsafe.Slice((*byte)(unsafe.Pointer(out.text)), int(out.size)))
	text = strings.TrimPrefix(text, " ")
	return strings.TrimPrefix(text, "\n"), nil
}
