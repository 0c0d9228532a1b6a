package apitest

import (
	"runtime"
	"strings"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

// grown is by how many kB the memory of the process that is backed by no file grows while f runs n times, after it ran
// a few times for the allocators to settle.
func grown(t *testing.T, n int, f func()) int {
	t.Helper()
	runtime.LockOSThread() // each thread has an arena of its own in malloc
	defer runtime.UnlockOSThread()
	for i := 0; i < max(3, n/10); i++ {
		f()
	}
	runtime.GC()
	before := status(t, "RssAnon")
	for i := 0; i < n; i++ {
		f()
	}
	runtime.GC()
	return status(t, "RssAnon") - before
}

// A context takes more than 20 MB here, so that one that is not freed shows at once.
func TestModelsAreFreed(t *testing.T) {
	path := modelPath(t)
	kb := grown(t, 8, func() {
		l, err := llama.New(path, llama.SetContext(256), llama.EnableEmbeddings)
		if err != nil {
			t.Fatal(err)
		}
		predict(t, l, "one two", llama.SetTokens(1), llama.SetStopWords("x", "y"))
		if _, err := l.Embeddings("one two", oneThread); err != nil {
			t.Fatal(err)
		}
		l.Free()
	})
	t.Logf("%d kB", kb)
	if kb > 16<<10 {
		t.Errorf("8 models left %d kB", kb)
	}
}

// Each call passes 200 kB of text to C, the half of them to fail after that.
func TestCallsLeaveNothing(t *testing.T) {
	l := model(t)
	const calls = 150
	long := strings.Repeat("x", 100_000)
	words := strings.Repeat("word ", 2_000)
	kb := grown(t, calls, func() {
		if _, _, err := l.TokenizeString(words, llama.SetTokens(0), llama.WithGrammar(long)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Predict("x", llama.SetNegativePrompt(long), llama.SetStopWords(long), llama.SetMirostat(9)); err == nil {
			t.Fatal("mirostat 9 is no error")
		}
	})
	t.Logf("%d kB", kb)
	if kb > 8<<10 {
		t.Errorf("%d calls left %d kB", calls, kb)
	}
}

func TestNoLimitNeedsNoMemory(t *testing.T) {
	l := model(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	predict(t, l, question, llama.SetTokens(0))
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("Predict without a limit allocated %d bytes", n)
	}
}
