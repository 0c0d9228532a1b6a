package apitest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestEval(t *testing.T) {
	l := load(t)
	want := predict(t, l, question)
	if err := l.Eval(question, greedy()...); err != nil {
		t.Fatal(err)
	}
	if got := predict(t, l, ""); got != want {
		t.Errorf("going on from Eval: %q, want %q", got, want)
	}
}

func TestSaveAndLoadState(t *testing.T) {
	silence(t)
	l := load(t)
	path := filepath.Join(t.TempDir(), "state")
	wantError(t, l.SaveState(path), "nothing has been evaluated")
	want := predict(t, l, question)
	if err := l.Eval(question, greedy()...); err != nil {
		t.Fatal(err)
	}
	if err := l.SaveState(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: others can read the file", info.Mode(), err)
	}

	other := load(t)
	if err := other.LoadState(path); err != nil {
		t.Fatal(err)
	}
	if got := predict(t, other, question); got != want {
		t.Errorf("going on from LoadState: %q, want %q", got, want)
	}

	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(state)
	flipped[len(flipped)/2] ^= 1
	for want, bad := range map[string][]byte{
		"not a state file":    nil,
		"not a state file ":   bytes.Repeat([]byte("something else "), 10),
		"the file is damaged": state[:len(state)/2],
		"file is damaged":     append(bytes.Clone(state), 0),
		"is damaged":          flipped,
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, other.LoadState(path), path, string(bytes.TrimSpace([]byte(want))))
	}
	wantError(t, other.LoadState(path+".none"), "cannot be read")
	if got := predict(t, other, question); got != want {
		t.Errorf("after a state that failed to load: %q, want %q", got, want)
	}

	// a failure leaves what was there
	if err := os.WriteFile(path, state, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, l.SaveState(filepath.Join(path, "below", "a", "file")), "below")
	if err := other.LoadState(path); err != nil {
		t.Error(err)
	}
}

func TestPromptCache(t *testing.T) {
	l := model(t)
	want := predict(t, l, question)
	path := filepath.Join(t.TempDir(), "cache")
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	run := func(opts ...llama.PredictOption) {
		t.Helper()
		if got := predict(t, l, question, append(opts, llama.SetPathPromptCache(path))...); got != want {
			t.Errorf("%q, without a cache %q", got, want)
		}
	}
	run(llama.EnablePromptCacheRO)
	if size() != 0 {
		t.Error("a read-only cache was written")
	}
	run()
	prompt := size()
	if prompt == 0 {
		t.Error("no cache was written")
	}
	run()
	run(llama.EnablePromptCacheAll, llama.EnablePromptCacheRO)
	if size() != prompt {
		t.Error("a read-only cache was written over")
	}
	run(llama.EnablePromptCacheAll)
	if size() <= prompt {
		t.Errorf("prompt and answer take %d bytes, the prompt %d", size(), prompt)
	}
	run()

	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := l.Predict(question, greedy(llama.SetPathPromptCache(path))...)
	wantError(t, err, path, "not a state file")
}
