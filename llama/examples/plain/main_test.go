//go:build cgo

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(&out, filepath.Join("..", "..", "..", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")); err != nil {
		t.Fatalf("%v (`make model` brings the test model)", err)
	}
	const want = `prompt: 16 tokens
answer: The capital of France is Paris.
same answer from the saved state: true
embeddings: 576 numbers; cat and kitten are nearer than cat and tax: true
`
	if out.String() != want {
		t.Errorf("it printed\n%s, want\n%s", out.String(), want)
	}
}
