// Package llama runs GGUF models for fedattn: it is the engine behind the participants of a session.
//
// It stands on github.com/go-skynet/go-llama.cpp, carried forward to a current llama.cpp (third_party/), which loads
// the model; contexts, KV rows and the layer hook come from llama.cpp's C API and from our extension of it,
// third_party/llama.cpp/fed/llama-fed.h. This is the project's only package with import "C".
//
// Start reading at model.go, then context.go (a participant's forward pass), hook.go (what runs in the middle of it)
// and rows.go (what is exchanged there). engine.go fits all of it to the interfaces of fedkv/node.
//
// The package promises: no C type in its API; Close may be called twice; a method on something closed returns
// ErrClosed; one cgo call per layer, not per row; no panic and no abort on bad input.
package llama
