package apitest

import (
	"os"
	"strings"
	"syscall"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

// Debug writes to the process's standard error.
func TestDebug(t *testing.T) {
	l, draft := model(t), load(t)
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	saved, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(saved)
	if err := syscall.Dup3(int(file.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	_, err = l.Predict(question, greedy(llama.Debug)...)
	if err == nil {
		_, err = l.SpeculativeSampling(draft, question, greedy(llama.Debug)...)
	}
	syscall.Dup3(saved, 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Predict: prompt ", "SpeculativeSampling: prompt ", " guesses right\n"} {
		if !strings.Contains(string(written), want) {
			t.Errorf("no %q in %q", want, written)
		}
	}
}
