package apitest

import (
	"strings"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestSpeculativeSampling(t *testing.T) {
	target, draft := load(t), load(t)
	want := predict(t, target, question)
	for _, n := range []int{0, 1, 16} {
		var all strings.Builder
		got, err := target.SpeculativeSampling(draft, question, greedy(llama.SetNDraft(n),
			llama.SetTokenCallback(func(piece string) bool { all.WriteString(piece); return true }))...)
		if err != nil {
			t.Fatal(err)
		}
		if got != want || all.String() != want {
			t.Errorf("%d drafted tokens: %q, its pieces %q, want %q", n, got, all.String(), want)
		}
	}
	got, err := target.SpeculativeSampling(draft, question, greedy(llama.SetStopWords("Paris"))...)
	if err != nil || got != want[:strings.Index(want, "Paris")] {
		t.Errorf("with a stop word: %q, %v", got, err)
	}
	_, err = target.SpeculativeSampling(target, question, greedy()...)
	wantError(t, err, "loaded separately")
}
