package apitest

import (
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestPredict(t *testing.T) {
	for name, opt := range map[string]llama.ModelOption{
		"f32 cache": func(*llama.ModelOptions) {},
		"f16 cache": llama.EnableF16Memory,
	} {
		l := load(t, opt)
		got := predict(t, l, question)
		if !strings.Contains(got, "Paris") {
			t.Errorf("%s: answer %q", name, got)
		}
		if all := strings.Join(pieces(t, l, question, greedy()), ""); all != got {
			t.Errorf("%s: pieces %q, answer %q", name, all, got)
		}
	}
}

// The text has as many bytes as its tokens, whatever their number.
func TestPredictReturnsAllOfTheText(t *testing.T) {
	l := model(t)
	for _, n := range []int{1, 2, 14} {
		var all strings.Builder
		count := 0
		got := predict(t, l, story, llama.SetTokens(n), llama.IgnoreEOS, llama.SetTokenCallback(func(piece string) bool {
			all.WriteString(piece)
			count++
			return true
		}))
		if count != n {
			t.Errorf("SetTokens(%d) made %d tokens", n, count)
		}
		if trimmed := strings.TrimPrefix(strings.TrimPrefix(all.String(), " "), "\n"); got != trimmed {
			t.Errorf("SetTokens(%d): %q, its pieces %q", n, got, trimmed)
		}
	}
	if got := predict(t, l, question, llama.SetTokens(0)); got != predict(t, l, question) {
		t.Errorf("without a limit: %q", got)
	}
	// characters of several bytes and tokens
	if got := predict(t, l, "x", llama.WithGrammar(`root ::= "żółć 漢字 🦙"`)); got != "żółć 漢字 🦙" || !utf8.ValidString(got) {
		t.Errorf("characters outside ASCII: %q", got)
	}
	_, err := l.Predict(story, llama.SetTokens(-1))
	wantError(t, err, "-1 tokens")
}

func TestPredictTakesAnyBytes(t *testing.T) {
	l := model(t)
	a, _, err := l.TokenizeString("a\x00b")
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := l.TokenizeString("a"); err != nil || a <= b {
		t.Errorf("%d tokens with a zero byte and what follows, %d without, %v", a, b, err)
	}
	predict(t, l, "a\x00b\xff\xfe", llama.SetTokens(1))
}

func TestStopWords(t *testing.T) {
	l := model(t)
	whole := predict(t, l, question)
	at := strings.Index(whole, "Paris")
	if at < 0 {
		t.Fatalf("answer %q", whole)
	}
	for _, stops := range [][]string{{"Paris"}, {"never", "Paris", ""}, {"is."}, {" Par"}} {
		want := whole[:strings.Index(whole, stops[min(1, len(stops)-1)])]
		if got := predict(t, l, question, llama.SetStopWords(stops...)); got != want {
			t.Errorf("with stop words %q: %q, want %q", stops, got, want)
		}
	}
}

func TestContextShift(t *testing.T) {
	l := load(t, llama.SetContext(256), llama.EnableF16Memory)
	prompt := strings.Repeat("one two three four five six seven eight ", 29) + story
	keep := func(n int) []string {
		return pieces(t, l, prompt, greedy(llama.IgnoreEOS, llama.SetTokens(36), llama.SetNKeep(n)))
	}
	all, none := keep(-1), keep(0)
	if len(all) != 36 || len(none) != 36 {
		t.Fatalf("%d and %d tokens of 36", len(all), len(none))
	}
	if a, b := strings.Join(all, ""), strings.Join(none, ""); a == b || a[:20] != b[:20] {
		t.Errorf("keeping the prompt: %q; keeping nothing: %q; want them to part when the context is full", a, b)
	}
}

func TestPredictRefusesWhatDoesNotFit(t *testing.T) {
	l := model(t)
	_, err := l.Predict(strings.Repeat("word ", 600), greedy()...)
	wantError(t, err, "a context of 512")
	predict(t, l, question, llama.SetTokens(1))
}

func TestThreadsAndBatch(t *testing.T) {
	l := model(t)
	want := predict(t, l, question, llama.SetTokens(2))
	for name, opt := range map[string]llama.PredictOption{
		"SetThreads(2)": llama.SetThreads(2),
		"SetBatch(3)":   llama.SetBatch(3),
		"SetBatch(0)":   llama.SetBatch(0),
	} {
		if got := predict(t, l, question, llama.SetTokens(2), opt); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// Of these the model, which exists already, knows what they say.
func TestPredictOptionsWithoutEffect(t *testing.T) {
	l := model(t)
	want := predict(t, l, story, llama.SetTokens(3))
	for name, opt := range map[string]llama.PredictOption{
		"EnableF16KV":              llama.EnableF16KV,
		"SetMlock":                 llama.SetMlock(true),
		"SetMemoryMap":             llama.SetMemoryMap(false),
		"SetRopeFreqBase":          llama.SetRopeFreqBase(1),
		"SetRopeFreqScale":         llama.SetRopeFreqScale(9),
		"SetPredictionMainGPU":     llama.SetPredictionMainGPU("5"),
		"SetPredictionTensorSplit": llama.SetPredictionTensorSplit("x"),
		"NewPredictOptions":        func(o *llama.PredictOptions) { *o = llama.NewPredictOptions(greedy(llama.SetTokens(3))...) },
	} {
		if got := predict(t, l, story, llama.SetTokens(3), opt); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestConcurrentCalls(t *testing.T) {
	l := model(t)
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

func TestFreeWaitsForARunningCall(t *testing.T) {
	l := load(t)
	got := predict(t, l, question, llama.SetTokenCallback(func(string) bool {
		l.Free()
		return true
	}))
	if !strings.Contains(got, "Paris") {
		t.Errorf("answer %q", got)
	}
	_, err := l.Predict(question)
	wantError(t, err, "freed")
}
