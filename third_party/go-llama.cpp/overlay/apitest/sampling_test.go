package apitest

import (
	"fmt"
	"strings"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestSeed(t *testing.T) {
	l := model(t)
	if a, b := text(t, l, story, drawn(7)), text(t, l, story, drawn(7)); a != b {
		t.Errorf("one seed, two texts: %q, %q", a, b)
	}
	if a, b := text(t, l, story, drawn(7)), text(t, l, story, drawn(8)); a == b {
		t.Errorf("two seeds, one text: %q", a)
	}
	if a, b := text(t, l, story, drawn(-1)), text(t, l, story, drawn(-1)); a == b {
		t.Errorf("no seed, twice the same text: %q", a)
	}
}

// At their narrowest these leave one token to draw, the likeliest.
func TestSamplersAtTheirNarrowestAreGreedy(t *testing.T) {
	l := model(t)
	want := predict(t, l, story, llama.SetTokens(8))
	for name, opts := range map[string][]llama.PredictOption{
		"SetTopK":        {llama.SetTopK(1)},
		"SetTopP":        {llama.SetTopP(1e-6)},
		"SetTemperature": {llama.SetTemperature(1e-3)},
		"SetMirostatTAU": {llama.SetMirostat(2), llama.SetMirostatTAU(0)},
	} {
		if got := text(t, l, story, drawn(3, opts...)); got != want {
			t.Errorf("%s: %q, greedily %q", name, got, want)
		}
	}
	if got := text(t, l, story, drawn(3)); got == want {
		t.Errorf("at their widest too: %q", got)
	}
}

// A tiny p keeps the one token whose surprise is nearest to the expected one.
func TestTypicalP(t *testing.T) {
	l := model(t)
	a, b := text(t, l, story, drawn(3, llama.SetTypicalP(1e-6))), text(t, l, story, drawn(4, llama.SetTypicalP(1e-6)))
	if a != b {
		t.Errorf("two seeds draw from one token: %q, %q", a, b)
	}
}

func TestMirostat(t *testing.T) {
	l := model(t)
	texts := map[string]string{}
	for name, opts := range map[string][]llama.PredictOption{
		"off":            nil,
		"1":              {llama.SetMirostat(1)},
		"2":              {llama.SetMirostat(2)},
		"2, another ETA": {llama.SetMirostat(2), llama.SetMirostatETA(0.9)},
		"2, another TAU": {llama.SetMirostat(2), llama.SetMirostatTAU(1)},
	} {
		got := text(t, l, story, drawn(5, append(opts, llama.SetTokens(16))...))
		if other, ok := texts[got]; ok {
			t.Errorf("mirostat %s and %s: %q", name, other, got)
		}
		texts[got] = name
	}
	_, err := l.Predict(story, llama.SetMirostat(3))
	wantError(t, err, "mirostat 3")
}

// repeated is a token text that comes twice among the generated ones within a distance; the empty string if none does.
func repeated(pieces []string, within int) string {
	for i, a := range pieces {
		for j := max(0, i-within); j < i; j++ {
			if pieces[j] == a {
				return a
			}
		}
	}
	return ""
}

// A penalty beyond all logits forbids what was said.
func TestPenalties(t *testing.T) {
	l := model(t)
	run := func(opts ...llama.PredictOption) []string {
		return pieces(t, l, "ha ha ha ha", greedy(append(opts, llama.SetTokens(12), llama.SetPenalizeNL(true))...))
	}
	if repeated(run(), 12) == "" {
		t.Fatal("the text repeats nothing by itself")
	}
	for name, opt := range map[string]llama.PredictOption{
		"SetPenalty":          llama.SetPenalty(1e4),
		"SetFrequencyPenalty": llama.SetFrequencyPenalty(1e4),
		"SetPresencePenalty":  llama.SetPresencePenalty(1e4),
	} {
		if word := repeated(run(opt, llama.SetRepeat(-1)), 12); word != "" {
			t.Errorf("%s: %q comes again", name, word)
		}
		short := run(opt, llama.SetRepeat(1))
		if word := repeated(short, 1); word != "" {
			t.Errorf("%s, SetRepeat(1): %q comes again at once", name, word)
		}
		if repeated(short, 12) == "" {
			t.Errorf("%s, SetRepeat(1): nothing comes again, ever", name)
		}
		if got, want := strings.Join(run(opt, llama.SetRepeat(0)), ""), strings.Join(run(), ""); got != want {
			t.Errorf("%s, SetRepeat(0): %q, want %q", name, got, want)
		}
	}
	_, err := l.Predict(story, greedy(llama.SetPenalty(0))...)
	wantError(t, err, "repeat")
}

func TestPenalizeNL(t *testing.T) {
	l := model(t)
	newlines := func(penalize bool) int {
		return strings.Count(strings.Join(pieces(t, l, story, greedy(llama.SetTokens(8), llama.SetRepeat(-1),
			llama.SetPresencePenalty(1e4), llama.SetPenalizeNL(penalize),
			llama.SetLogitBias(fmt.Sprintf("%d+1000", token(t, l, "\n"))))), ""), "\n")
	}
	if n := newlines(false); n != 8 {
		t.Errorf("%d line feeds of 8 when they are spared", n)
	}
	if n := newlines(true); n != 1 {
		t.Errorf("%d line feeds when one is penalised", n)
	}
}

func TestLogitBias(t *testing.T) {
	l := model(t)
	paris, rome := token(t, l, " Paris"), token(t, l, " Rome")
	if got := predict(t, l, question, llama.SetLogitBias(fmt.Sprintf("%d-100", paris))); strings.Contains(got, " Paris") {
		t.Errorf("a token with -100: %q", got)
	}
	both := fmt.Sprintf("%d-100,%d+100", paris, rome)
	if got := predict(t, l, question, llama.SetLogitBias(both), llama.SetTokens(4)); got != "Rome Rome Rome Rome" {
		t.Errorf("a token with +100: %q", got)
	}
	for _, wrong := range []string{"x+1", "1", "1+", "1+nan", "1+1;2+2", "99999999+1", "-1+1"} {
		_, err := l.Predict(question, greedy(llama.SetLogitBias(wrong))...)
		wantError(t, err, "logit bias")
	}
}

func TestIgnoreEOS(t *testing.T) {
	l := model(t)
	if n := len(pieces(t, l, question, greedy(llama.SetTokens(20)))); n == 20 {
		t.Fatal("the answer has no end")
	}
	if n := len(pieces(t, l, question, greedy(llama.SetTokens(20), llama.IgnoreEOS))); n != 20 {
		t.Errorf("%d tokens of 20", n)
	}
}

func TestGrammar(t *testing.T) {
	l := model(t)
	for seed := 0; seed < 2; seed++ {
		got := text(t, l, question, drawn(seed, llama.WithGrammar(`root ::= ("Lyon" | "Rome") "!"?`)))
		if got = strings.TrimSuffix(got, "!"); got != "Lyon" && got != "Rome" {
			t.Errorf("%q is not of the grammar", got)
		}
	}
	silence(t)
	_, err := l.Predict(question, greedy(llama.WithGrammar("root := oops"))...)
	wantError(t, err, "grammar does not parse")
}

// Moving away from a negative prompt that is the prompt itself moves nothing.
func TestNegativePrompt(t *testing.T) {
	l := model(t)
	want := predict(t, l, story, llama.SetTokens(8))
	run := func(negative string, scale float32) string {
		return predict(t, l, story, llama.SetTokens(8), llama.SetNegativePrompt(negative), llama.SetNegativePromptScale(scale))
	}
	if got := run(story, 3); got != want {
		t.Errorf("away from itself: %q, want %q", got, want)
	}
	if got := run("A sad story of a little girl. Once upon a time", 3); got == want {
		t.Errorf("away from another: %q too", got)
	}
	if got := run("A sad story of a little girl. Once upon a time", 1); got != want {
		t.Errorf("a scale of 1: %q, want %q", got, want)
	}
}

func TestTailFreeSamplingIsGone(t *testing.T) {
	l := model(t)
	want := predict(t, l, question)
	if got := predict(t, l, question, llama.SetTailFreeSamplingZ(1)); got != want {
		t.Errorf("z of 1: %q, want %q", got, want)
	}
	_, err := l.Predict(question, llama.SetTailFreeSamplingZ(0.5))
	wantError(t, err, "tail-free")
}

func TestOptionsOfOneCallDoNotStay(t *testing.T) {
	l := model(t)
	want := predict(t, l, question)
	predict(t, l, question, llama.WithGrammar(`root ::= "no"`), llama.SetStopWords("x"), llama.IgnoreEOS)
	if got := predict(t, l, question); got != want {
		t.Errorf("%q, before that %q", got, want)
	}
}
