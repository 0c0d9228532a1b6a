//go:build !cgo

package llama

import (
	"fedattn/fedkv"
	"fedattn/fedkv/audit"
	"fedattn/fedkv/node"
)

// Allocated is 0 without an engine.
func Allocated() int64 { return 0 }

// Commit is empty without an engine.
func Commit() string { return "none" }

// Without cgo there is no engine: Load says so, and everything else exists so that callers compile. No value of these
// types can be had.

// GrammarOf fails with ErrNoEngine.
func GrammarOf(string) (string, error) { return "", ErrNoEngine }

// Model is a loaded GGUF model.
type Model struct{}

// Load fails with ErrNoEngine.
func Load(string, ModelParams) (*Model, error) { return nil, ErrNoEngine }

// Close does nothing.
func (*Model) Close() error { return nil }

// Frame is a chat template around one user turn.
type Frame struct{ Prefix, Suffix, Between []fedkv.Token }

// Frame fails with ErrNoEngine.
func (*Model) Frame(string) (Frame, error) { return Frame{}, ErrNoEngine }

// Path, Layers, ContextTrain, Vocabulary, Description, Size and Parameters are empty without an engine.
func (*Model) Path() string        { return "" }
func (*Model) Layers() int         { return 0 }
func (*Model) ContextTrain() int   { return 0 }
func (*Model) Vocabulary() int     { return 0 }
func (*Model) Description() string { return "" }
func (*Model) Size() int64         { return 0 }
func (*Model) Parameters() int64   { return 0 }

// Threads is 0, and UseThreads does nothing.
func (*Model) Threads() int   { return 0 }
func (*Model) UseThreads(int) {}

// Engine is a Model as participants use it.
type Engine struct{ *Model }

var _ node.Engine = (*Engine)(nil)

// NewEngine fails with ErrNoEngine.
func NewEngine(*Model, fedkv.Digest) (*Engine, error) { return nil, ErrNoEngine }

// The methods of node.Engine.

// Shape is empty.
func (*Engine) Shape() fedkv.Shape { return fedkv.Shape{} }

// Fingerprint is empty.
func (*Engine) Fingerprint() fedkv.Fingerprint { return fedkv.Fingerprint{} }

// Canary fails with ErrNoEngine.
func (*Engine) Canary() (fedkv.Canary, error) { return nil, ErrNoEngine }

// Tokenize fails with ErrNoEngine.
func (*Engine) Tokenize(string) ([]fedkv.Token, error) { return nil, ErrNoEngine }

// Piece is empty.
func (*Engine) Piece(fedkv.Token) []byte { return nil }

// EndsGeneration is true.
func (*Engine) EndsGeneration(fedkv.Token) bool { return true }

// Open fails with ErrNoEngine.
func (*Engine) Open(fedkv.CacheSpec) (node.Cache, error) { return nil, ErrNoEngine }

// Sampler fails with ErrNoEngine.
func (*Engine) Sampler(Sampling) (node.Sampler, func() error, error) { return nil, nil, ErrNoEngine }

// OpenPlain fails with ErrNoEngine.
func (*Engine) OpenPlain(int, int, int) (node.Cache, error) { return nil, ErrNoEngine }

// TokenizeDocument fails with ErrNoEngine.
func (*Model) TokenizeDocument(string) ([]fedkv.Token, error) { return nil, ErrNoEngine }

// Trials tries continuations of one known text side by side.
type Trials struct{}

var _ audit.Trials = (*Trials)(nil)

// NewTrials fails with ErrNoEngine.
func (*Model) NewTrials(int) (*Trials, error) { return nil, ErrNoEngine }

// Know fails with ErrNoEngine.
func (*Trials) Know([]fedkv.Token) ([]float32, error) { return nil, ErrNoEngine }

// Try fails with ErrNoEngine.
func (*Trials) Try([][]fedkv.Token, fedkv.Schedule) ([]audit.Rows, error) { return nil, ErrNoEngine }

// Close does nothing.
func (*Trials) Close() error { return nil }
