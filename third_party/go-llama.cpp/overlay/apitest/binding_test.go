package apitest

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	llama "github.com/go-skynet/go-llama.cpp"
)

const question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"

// greedy makes answers reproducible. One thread: two that wait for each other crawl when the machine has other work.
func greedy(opts ...llama.PredictOption) []llama.PredictOption {
	return append([]llama.PredictOption{
		llama.SetTemperature(0), llama.SetPenalty(1), llama.SetThreads(1), llama.SetSeed(1),
	}, opts...)
}

func modelPath(t *testing.T) string {
	path := os.Getenv("TEST_MODEL")
	if path == "" {
		t.Skip("TEST_MODEL names no model")
	}
	return path
}

func load(t *testing.T, opts ...llama.ModelOption) *llama.LLama {
	t.Helper()
	l, err := llama.New(modelPath(t), append([]llama.ModelOption{llama.SetContext(512)}, opts...)...)
	if err != nil {
		t.Fatalf("New: %v: %v", err, llama.LoadError())
	}
	t.Cleanup(l.Free)
	return l
}

func predict(t *testing.T, l *llama.LLama, prompt string, opts ...llama.PredictOption) string {
	t.Helper()
	text, err := l.Predict(prompt, greedy(opts...)...)
	if err != nil {
		t.Fatalf("Predict: %v: %v", err, l.LastError())
	}
	return text
}

func TestNewReportsWhy(t *testing.T) {
	silence(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text.gguf")
	broken := filepath.Join(dir, "broken.gguf")
	for path, content := range map[string]string{text: "not a model", broken: "GGUF but nothing else"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.gguf"): "No such file",
		dir:                             "is a directory",
		text:                            "not a GGUF file",
		broken:                          "cannot load it",
	} {
		if l, err := llama.New(path); err == nil || l != nil {
			t.Errorf("New(%s) = %v, %v; want an error", path, l, err)
		}
		if err := llama.LoadError(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("LoadError after New(%s) = %v; want %q in it", path, err, want)
		}
	}
}

func TestNewRefusesWrongOptions(t *testing.T) {
	silence(t)
	path := modelPath(t)
	for name, opt := range map[string]llama.ModelOption{
		"main GPU":        llama.SetMainGPU("first"),
		"tensor split":    llama.SetTensorSplit("1;2"),
		"missing adapter": llama.SetLoraAdapter("/nonexistent/adapter.gguf"),
	} {
		if l, err := llama.New(path, opt); err == nil {
			l.Free()
			t.Errorf("%s: New succeeded", name)
		} else {
			t.Log(llama.LoadError())
		}
	}
}

func TestContextIsMadeByTheFirstEvaluation(t *testing.T) {
	l := load(t)
	if l.ModelHandle() == nil {
		t.Error("no model handle after New")
	}
	if l.ContextHandle() != nil {
		t.Error("New made a context")
	}
	if _, _, err := l.TokenizeString("one two"); err != nil || l.ContextHandle() != nil {
		t.Errorf("TokenizeString: %v, context %v; want none", err, l.ContextHandle())
	}
	if err := l.Eval("one two", greedy()...); err != nil {
		t.Fatalf("Eval: %v: %v", err, l.LastError())
	}
	if l.ContextHandle() == nil {
		t.Error("no context after Eval")
	}
}

func TestFreeTwiceAndUseAfterFree(t *testing.T) {
	silence(t)
	path := modelPath(t)
	l, err := llama.New(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Free()
	l.Free()
	other := load(t) // must not be taken for the freed one
	l.Free()
	if _, err := l.Predict("x"); err == nil {
		t.Error("Predict after Free succeeded")
	}
	if _, _, err := l.TokenizeString("x"); err == nil {
		t.Error("TokenizeString after Free succeeded")
	}
	if l.ModelHandle() != nil || l.ContextHandle() != nil || l.EmbeddingSize() != 0 {
		t.Error("handles after Free")
	}
	if err := l.LastError(); err == nil || !strings.Contains(err.Error(), "freed") {
		t.Errorf("LastError = %v", err)
	}
	if other.ModelHandle() == nil {
		t.Error("freeing a model again freed another")
	}
}

func TestTokenizeString(t *testing.T) {
	silence(t)
	l := load(t)
	n, tokens, err := l.TokenizeString("A STRANGE GAME.\nTHE ONLY WINNING MOVE IS NOT TO PLAY.")
	if err != nil || int(n) != len(tokens) || n < 10 {
		t.Fatalf("TokenizeString = %d, %v, %v", n, tokens, err)
	}
	special, _, err := l.TokenizeString("<|im_start|>")
	if err != nil || special != 1 {
		t.Errorf("a special token is %d tokens, %v; want 1", special, err)
	}
	short, _, err := l.TokenizeString("A STRANGE GAME.\nTHE ONLY WINNING MOVE IS NOT TO PLAY.", llama.SetTokens(3))
	if err == nil || short != -n {
		t.Errorf("with room for 3 tokens: %d, %v; want %d and an error", short, err, -n)
	}
}

func TestPredict(t *testing.T) {
	for name, opt := range map[string]llama.ModelOption{
		"f32 cache": func(*llama.ModelOptions) {},
		"f16 cache": llama.EnableF16Memory,
		"no mmap":   llama.SetMMap(false),
	} {
		t.Run(name, func(t *testing.T) {
			l := load(t, opt)
			var pieces []string
			got := predict(t, l, question, llama.SetTokenCallback(func(piece string) bool {
				pieces = append(pieces, piece)
				return true
			}))
			if !strings.Contains(got, "Paris") {
				t.Errorf("answer %q", got)
			}
			if strings.Join(pieces, "") != got {
				t.Errorf("pieces %q, answer %q", pieces, got)
			}
			if again := predict(t, l, question); again != got {
				t.Errorf("second answer %q, first %q", again, got)
			}
		})
	}
}

func TestPredictSeed(t *testing.T) {
	l := load(t)
	ask := func(seed int) string {
		text, err := l.Predict("Once upon a time", llama.SetSeed(seed), llama.SetTemperature(1), llama.SetThreads(1),
			llama.SetTokens(40))
		if err != nil {
			t.Fatal(err, l.LastError())
		}
		return text
	}
	if a, b := ask(7), ask(7); a != b {
		t.Errorf("one seed, two texts: %q, %q", a, b)
	}
	if a, b := ask(7), ask(8); a == b {
		t.Errorf("two seeds, one text: %q", a)
	}
}

func TestPredictStops(t *testing.T) {
	l := load(t)
	whole := predict(t, l, question)
	at := strings.Index(whole, "Paris")
	if at < 0 {
		t.Fatalf("answer %q", whole)
	}
	if got := predict(t, l, question, llama.SetStopWords("Paris")); got != strings.TrimRight(whole[:at], "Paris") {
		t.Errorf("with a stop word: %q, whole: %q", got, whole)
	}

	calls := 0
	got := predict(t, l, question, llama.SetTokenCallback(func(string) bool {
		calls++
		return calls < 3
	}))
	if calls != 3 || !strings.HasPrefix(whole, got) || len(got) >= len(whole) {
		t.Errorf("a callback that stops at the third token: %d calls, %q", calls, got)
	}

	count := 0
	predict(t, l, question, llama.SetTokens(2), llama.SetTokenCallback(func(string) bool { count++; return true }))
	if count != 2 {
		t.Errorf("SetTokens(2) made %d tokens", count)
	}
}

// The buffer that llama.go passes has as many bytes as tokens were asked for.
func TestPredictCutsToTheBuffer(t *testing.T) {
	l := load(t)
	for n := 1; n < 12; n++ {
		got := predict(t, l, question, llama.SetTokens(n))
		if len(got) > n-1 || !utf8.ValidString(got) {
			t.Errorf("SetTokens(%d): %q", n, got)
		}
	}
}

func TestPredictShiftsAFullContext(t *testing.T) {
	l := load(t, llama.SetContext(256), llama.EnableF16Memory)
	count := 0
	predict(t, l, "Once upon a time", llama.IgnoreEOS, llama.SetTokens(400),
		llama.SetTokenCallback(func(string) bool { count++; return true }))
	if count != 400 {
		t.Errorf("%d tokens of 400", count)
	}
}

func TestPredictOptions(t *testing.T) {
	l := load(t)
	plain := predict(t, l, question)

	if got := predict(t, l, question, llama.WithGrammar(`root ::= "Lyon" | "Rome"`)); got != "Lyon" && got != "Rome" {
		t.Errorf("grammar: %q", got)
	}
	_, paris, err := l.TokenizeString(" Paris")
	if err != nil || len(paris) != 1 {
		t.Fatalf("\" Paris\" is %v, %v", paris, err)
	}
	bias := llama.SetLogitBias(strconv.Itoa(int(paris[0])) + "-100")
	if got := predict(t, l, question, bias); strings.Contains(got, " Paris") {
		t.Errorf("logit bias: %q", got)
	}
	if got := predict(t, l, question, llama.SetNegativePrompt(question), llama.SetNegativePromptScale(1.5)); got == "" {
		t.Error("negative prompt: no answer")
	}
	for _, mode := range []int{1, 2} {
		if got := predict(t, l, question, llama.SetMirostat(mode), llama.SetTemperature(0.7)); got == "" {
			t.Errorf("mirostat %d: no answer", mode)
		}
	}
	if got := predict(t, l, question); got != plain {
		t.Errorf("options of one call stay for the next: %q, %q", got, plain)
	}
}

func TestPredictRefuses(t *testing.T) {
	silence(t)
	l := load(t)
	for name, opt := range map[string]llama.PredictOption{
		"tail-free": llama.SetTailFreeSamplingZ(0.5),
		"mirostat":  llama.SetMirostat(3),
		"bias":      llama.SetLogitBias("x+1"),
		"bias id":   llama.SetLogitBias("99999999+1"),
		"grammar":   llama.WithGrammar("root := oops"),
		"penalty":   llama.SetPenalty(0),
	} {
		if got, err := l.Predict(question, greedy(opt)...); err == nil {
			t.Errorf("%s: answer %q", name, got)
		}
		if err := l.LastError(); err == nil {
			t.Errorf("%s: no reason", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if got, err := l.Predict(strings.Repeat("word ", 600), greedy()...); err == nil {
		t.Errorf("prompt longer than the context: %q", got)
	}
	predict(t, l, question)
	if err := l.LastError(); err != nil {
		t.Errorf("LastError after success: %v", err)
	}
}

func TestCallbackCannotUseItsModel(t *testing.T) {
	silence(t)
	l := load(t)
	var inner error
	predict(t, l, question, llama.SetTokens(8), llama.SetTokenCallback(func(string) bool {
		inner = l.Eval("x")
		return true
	}))
	if inner == nil {
		t.Error("Eval inside the callback succeeded")
	}
}

func TestConcurrentCalls(t *testing.T) {
	l := load(t)
	want := predict(t, l, question)
	var wg sync.WaitGroup
	for i := 0; i < 3; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			got, err := l.Predict(question, greedy()...)
			if err != nil || got != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}()
	}
	wg.Wait()
}

func TestEmbeddings(t *testing.T) {
	silence(t)
	l := load(t, llama.EnableEmbeddings)
	n := l.EmbeddingSize()
	if n == 0 {
		t.Fatal("EmbeddingSize 0")
	}
	embed := func(text string) []float32 {
		row, err := l.Embeddings(text, llama.SetTokens(n), llama.SetThreads(1))
		if err != nil {
			t.Fatal(err, l.LastError())
		}
		return row
	}
	cat, kitten, tax := embed("The cat sleeps on the sofa."), embed("A kitten naps on the couch."), embed("Tax law, § 12 (b)")
	if c, d := cosine(cat, kitten), cosine(cat, tax); !(c > d) || c > 1.001 {
		t.Errorf("cosine of similar texts %.3f, of others %.3f", c, d)
	}

	_, tokens, err := l.TokenizeString("The cat sleeps on the sofa.")
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int, len(tokens))
	for i, v := range tokens {
		ids[i] = int(v)
	}
	for _, size := range []int{n, 0} {
		row, err := l.TokenEmbeddings(ids, llama.SetTokens(size), llama.SetThreads(1))
		if err != nil {
			t.Fatal(err, l.LastError())
		}
		if c := cosine(cat, row[:n]); c < 0.9999 {
			t.Errorf("TokenEmbeddings with a buffer of %d: cosine to Embeddings %.5f", size, c)
		}
	}

	if _, err := l.Embeddings("x", llama.SetTokens(n-1), llama.SetThreads(1)); err == nil {
		t.Error("an embedding fits a buffer that is too small")
	}
	if _, err := l.TokenEmbeddings([]int{1 << 30}, llama.SetTokens(n)); err == nil {
		t.Error("an unknown token has an embedding")
	}
	if _, err := l.TokenEmbeddings(nil, llama.SetTokens(n)); err == nil {
		t.Error("no token has an embedding")
	}
	if got := predict(t, l, question); !strings.Contains(got, "Paris") {
		t.Errorf("answer after embeddings: %q", got)
	}
}

func TestStateAndEval(t *testing.T) {
	silence(t)
	l := load(t)
	path := filepath.Join(t.TempDir(), "state")
	if err := l.SaveState(path); err == nil {
		t.Error("SaveState before any evaluation succeeded")
	}
	want := predict(t, l, question)

	if err := l.Eval(question, greedy()...); err != nil {
		t.Fatal(err, l.LastError())
	}
	if err := l.SaveState(path); err != nil {
		t.Fatal(err, l.LastError())
	}
	if got := predict(t, l, ""); got != want {
		t.Errorf("going on from Eval: %q, want %q", got, want)
	}

	other := load(t)
	if err := other.LoadState(path); err != nil {
		t.Fatal(err, other.LastError())
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
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": state[:len(state)/2], "long": append(bytes.Clone(state), 0), "flipped": flipped,
		"other": bytes.Repeat([]byte("something else "), 10),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := other.LoadState(path); err == nil {
			t.Errorf("%s state was loaded", name)
		} else {
			t.Logf("%s: %v", name, other.LastError())
		}
	}
	if got := predict(t, other, question); got != want {
		t.Errorf("after a state that failed to load: %q, want %q", got, want)
	}
	if err := l.SaveState(filepath.Join(path, "below", "a", "file")); err == nil {
		t.Error("SaveState to an impossible path succeeded")
	}
}

func TestPromptCache(t *testing.T) {
	l := load(t)
	want := predict(t, l, question)
	path := filepath.Join(t.TempDir(), "cache")
	if got := predict(t, l, question, llama.SetPathPromptCache(path), llama.EnablePromptCacheRO); got != want {
		t.Errorf("without the file: %q, want %q", got, want)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a read-only cache was written")
	}
	for _, step := range []string{"making", "using"} {
		if got := predict(t, l, question, llama.SetPathPromptCache(path), llama.EnablePromptCacheAll); got != want {
			t.Errorf("%s the file: %q, want %q", step, got, want)
		}
	}
}

func TestSpeculativeSampling(t *testing.T) {
	silence(t)
	target, draft := load(t), load(t)
	want := predict(t, target, question)
	for _, n := range []int{0, 1, 16} {
		got, err := target.SpeculativeSampling(draft, question, greedy(llama.SetNDraft(n))...)
		if err != nil {
			t.Fatal(err, target.LastError())
		}
		if got != want {
			t.Errorf("%d drafted tokens: %q, want %q", n, got, want)
		}
	}
	if _, err := target.SpeculativeSampling(target, question, greedy()...); err == nil {
		t.Error("a model can draft for itself")
	}
}

func TestLog(t *testing.T) {
	var mu sync.Mutex
	lines := map[llama.LogLevel]int{}
	llama.SetLog(llama.LogInfo, func(level llama.LogLevel, text string) {
		mu.Lock()
		defer mu.Unlock()
		lines[level]++
	})
	t.Cleanup(func() { llama.SetLog(llama.LogError, nil) })
	load(t)
	mu.Lock()
	defer mu.Unlock()
	if lines[llama.LogInfo] == 0 || lines[llama.LogDebug] != 0 {
		t.Errorf("lines by level: %v", lines)
	}
}

// silence keeps expected errors out of the test's output.
func silence(t *testing.T) {
	llama.SetLog(llama.LogError, func(llama.LogLevel, string) {})
	t.Cleanup(func() { llama.SetLog(llama.LogError, nil) })
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}
