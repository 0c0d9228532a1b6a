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
	t.Log(out.String())
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || !strings.Contains(lines[0], "30 blocks") {
		t.Fatalf("it printed\n%s", out.String())
	}
	if with := lines[1]; !strings.Contains(with, "rows of 30 layers") || !strings.Contains(with, "4711") {
		t.Errorf("with the rows: %q", with)
	}
	if without := lines[2]; !strings.Contains(without, "rows of 0 layers") || strings.Contains(without, "4711") {
		t.Errorf("without the rows: %q", without)
	}
}
