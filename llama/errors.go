package llama

import "errors"

// Errors that callers tell apart. Others carry llama.cpp's own words.
var (
	// ErrClosed: the Model, Context, Sampler or Template was closed before.
	ErrClosed = errors.New("llama: used after Close")
	// ErrNoEngine: the program was built without cgo.
	ErrNoEngine = errors.New("llama: this build has no engine; build with CGO_ENABLED=1")
	// ErrNotGGUF: the file is not a GGUF model.
	ErrNotGGUF = errors.New("not a GGUF file")
	// ErrUnsupported: the model's attention cannot be federated.
	ErrUnsupported = errors.New("the model cannot be federated")
	// ErrNoGPU: layers were to be evaluated on a GPU, and this build has no code for one, or the machine has none.
	ErrNoGPU = errors.New("llama: no GPU that this build can use")
	// ErrContextFull: no free cell for the tokens.
	ErrContextFull = errors.New("llama: the context is full")
	// ErrInterrupted: Interrupt stopped the evaluation.
	ErrInterrupted = errors.New("llama: evaluation interrupted")
)
