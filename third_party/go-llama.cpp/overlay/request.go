package llama

// #include "binding.h"
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"
)

// newRequest is what C reads of the options, lent until pin lets go.
func newRequest(pin *runtime.Pinner, prompt string, o *PredictOptions) (*C.struct_binding_request, error) {
	tokens := o.Tokens
	if tokens < 0 {
		return nil, fmt.Errorf("cannot generate %d tokens: 0 is no limit", tokens)
	}
	if tokens == 0 {
		tokens = math.MaxInt32
	}
	r := &C.struct_binding_request{
		prompt:            lend(pin, prompt),
		negative_prompt:   lend(pin, o.NegativePrompt),
		grammar:           lend(pin, o.Grammar),
		logit_bias:        lend(pin, o.LogitBias),
		cache_path:        lend(pin, o.PathPromptCache),
		seed:              seed(o.Seed),
		n_predict:         int32c(tokens),
		n_threads:         int32c(o.Threads),
		n_batch:           int32c(o.Batch),
		n_keep:            int32c(o.NKeep),
		n_draft:           int32c(o.NDraft),
		top_k:             int32c(o.TopK),
		penalty_last_n:    int32c(o.Repeat),
		mirostat:          int32c(o.Mirostat),
		top_p:             C.float(o.TopP),
		typical_p:         C.float(o.TypicalP),
		tail_free_z:       C.float(o.TailFreeSamplingZ),
		temperature:       C.float(o.Temperature),
		repeat_penalty:    C.float(o.Penalty),
		frequency_penalty: C.float(o.FrequencyPenalty),
		presence_penalty:  C.float(o.PresencePenalty),
		mirostat_eta:      C.float(o.MirostatETA),
		mirostat_tau:      C.float(o.MirostatTAU),
		negative_scale:    C.float(o.NegativePromptScale),
		ignore_eos:        C.bool(o.IgnoreEOS),
		penalize_newline:  C.bool(o.PenalizeNL),
		cache_all:         C.bool(o.PromptCacheAll),
		cache_read_only:   C.bool(o.PromptCacheRO),
		debug:             C.bool(o.DebugMode),
	}
	if len(o.StopPrompts) > 0 {
		stops := make([]C.struct_binding_text, len(o.StopPrompts))
		for i, s := range o.StopPrompts {
			stops[i] = lend(pin, s)
		}
		pin.Pin(unsafe.SliceData(stops))
		r.stops, r.n_stops = unsafe.SliceData(stops), C.size_t(len(stops))
	}
	return r, nil
}

// seed is the generator's 32 bits, negative for none.
func seed(n int) C.int64_t {
	if n == -1 {
		return -1
	}
	return C.int64_t(uint32(n))
}
