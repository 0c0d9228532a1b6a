package main

import (
	"os"
	"testing"
)

// The list fits the source: each line that it changes is there once.
func TestListIsUpToDate(t *testing.T) {
	t.Chdir("../..")
	mutants, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	if len(mutants) < 20 {
		t.Errorf("%d mutants, at least 20 are promised", len(mutants))
	}
	for _, m := range mutants {
		if _, err := m.source(); err != nil {
			t.Error(err)
		}
	}
}

func TestSourceRefuses(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("x.go", []byte("package x\n\tone\n\ttwice\n\ttwice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for was, ok := range map[string]bool{"one": true, "twice": false, "never": false} {
		if text, err := (mutant{file: "x.go", was: was, is: "other"}).source(); (err == nil) != ok || ok && text != "package x\nother\n\ttwice\n\ttwice\n" {
			t.Errorf("%s: %q, %v", was, text, err)
		}
	}
	for _, bad := range []string{"+ x", "file: f\n- a\n+ b", "file: f\ntest: p T\n- a\n+ a", "nonsense"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
