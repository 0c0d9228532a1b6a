package apitest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

const question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"

// story is a prompt that the model goes on from for as long as it may.
const story = "Once upon a time"

// one thread: two that wait for each other crawl when the machine has other work
var oneThread = llama.SetThreads(1)

// greedy makes texts reproducible.
func greedy(opts ...llama.PredictOption) []llama.PredictOption {
	return append([]llama.PredictOption{
		llama.SetTemperature(0), llama.SetPenalty(1), oneThread, llama.SetSeed(1),
	}, opts...)
}

// drawn samples from the whole distribution, without penalties.
func drawn(seed int, opts ...llama.PredictOption) []llama.PredictOption {
	return append([]llama.PredictOption{
		llama.SetTemperature(1), llama.SetPenalty(1), llama.SetTopK(0), llama.SetTopP(1), oneThread, llama.SetSeed(seed),
		llama.SetTokens(8),
	}, opts...)
}

func modelPath(t testing.TB) string {
	path := os.Getenv("TEST_MODEL")
	if path == "" {
		t.Skip("TEST_MODEL names no model")
	}
	return path
}

func load(t testing.TB, opts ...llama.ModelOption) *llama.LLama {
	t.Helper()
	l, err := llama.New(modelPath(t), append([]llama.ModelOption{llama.SetContext(512)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Free)
	return l
}

var shared = sync.OnceValues(func() (*llama.LLama, error) {
	return llama.New(os.Getenv("TEST_MODEL"), llama.SetContext(512))
})

// model is one for all tests that only predict with it.
func model(t testing.TB) *llama.LLama {
	t.Helper()
	modelPath(t)
	l, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// text predicts with exactly these options.
func text(t testing.TB, l *llama.LLama, prompt string, opts []llama.PredictOption) string {
	t.Helper()
	got, err := l.Predict(prompt, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// predict is greedy.
func predict(t testing.TB, l *llama.LLama, prompt string, opts ...llama.PredictOption) string {
	t.Helper()
	return text(t, l, prompt, greedy(opts...))
}

// pieces are the texts of the generated tokens.
func pieces(t testing.TB, l *llama.LLama, prompt string, opts []llama.PredictOption) []string {
	t.Helper()
	var out []string
	text(t, l, prompt, append(opts, llama.SetTokenCallback(func(piece string) bool {
		out = append(out, piece)
		return true
	})))
	return out
}

// token is the number of a text that is one token.
func token(t testing.TB, l *llama.LLama, s string) int {
	t.Helper()
	n, tokens, err := l.TokenizeString(s)
	if err != nil || n != 1 {
		t.Fatalf("%q is %v, %v; want one token", s, tokens, err)
	}
	return int(tokens[0])
}

// logged is what llama.cpp says while f runs.
func logged(t testing.TB, f func()) string {
	t.Helper()
	var mu sync.Mutex
	var b strings.Builder
	llama.SetLog(llama.LogInfo, func(_ llama.LogLevel, text string) {
		mu.Lock()
		defer mu.Unlock()
		b.WriteString(text)
	})
	defer llama.SetLog(llama.LogError, nil)
	f()
	mu.Lock()
	defer mu.Unlock()
	return b.String()
}

// silence keeps expected errors of llama.cpp out of the test's output.
func silence(t testing.TB) {
	llama.SetLog(llama.LogError, func(llama.LogLevel, string) {})
	t.Cleanup(func() { llama.SetLog(llama.LogError, nil) })
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("error %v, want one with %q", err, part)
		}
	}
}
