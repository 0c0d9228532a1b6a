package apitest

import (
	"math"
	"strings"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestTokenizeString(t *testing.T) {
	l := model(t)
	const game = "A STRANGE GAME.\nTHE ONLY WINNING MOVE IS NOT TO PLAY."
	n, tokens, err := l.TokenizeString(game)
	if err != nil || int(n) != len(tokens) || n < 10 {
		t.Fatalf("%d, %v, %v", n, tokens, err)
	}
	if n := token(t, l, "<|im_start|>"); n != 1 {
		t.Errorf("a special token is %d, want 1", n)
	}
	if n, tokens, err := l.TokenizeString(""); err != nil || n != 0 || len(tokens) != 0 {
		t.Errorf("no text: %d, %v, %v", n, tokens, err)
	}

	short, tokens, err := l.TokenizeString(game, llama.SetTokens(3))
	if short != -n || len(tokens) != 0 {
		t.Errorf("with room for 3 tokens: %d, %v; want %d", short, tokens, -n)
	}
	wantError(t, err, "SetTokens allows 3")
	if exact, _, err := l.TokenizeString(game, llama.SetTokens(int(n))); err != nil || exact != n {
		t.Errorf("with room for all: %d, %v", exact, err)
	}
	// the default is 128
	const words = 5000
	long := strings.Repeat(" word", words)
	if n, _, err := l.TokenizeString(long); err == nil || n != -words {
		t.Errorf("%d words: %d, %v", words, n, err)
	}
	if n, tokens, err := l.TokenizeString(long, llama.SetTokens(0)); err != nil || n != words || len(tokens) != words {
		t.Errorf("%d words without a limit: %d, %v", words, n, err)
	}
	_, _, err = l.TokenizeString("x", llama.SetTokens(-1))
	wantError(t, err, "-1 tokens")
}

func TestEmbeddings(t *testing.T) {
	l := load(t, llama.EnableEmbeddings)
	const n = 576 // of SmolLM2-135M
	if got := l.EmbeddingSize(); got != n {
		t.Fatalf("EmbeddingSize %d, want %d", got, n)
	}
	embed := func(text string, opts ...llama.PredictOption) []float32 {
		row, err := l.Embeddings(text, append(opts, oneThread)...)
		if err != nil {
			t.Fatal(err)
		}
		if len(row) != n {
			t.Errorf("%d numbers, want %d", len(row), n)
		}
		return row
	}
	cat, kitten, tax := embed("The cat sleeps on the sofa."), embed("A kitten naps on the couch."), embed("Tax law, § 12 (b)")
	if c, d := cosine(cat, kitten), cosine(cat, tax); !(c > d) || c > 1.001 {
		t.Errorf("cosine of similar texts %.3f, of others %.3f", c, d)
	}
	if c := cosine(cat, embed("The cat sleeps on the sofa.", llama.SetTokens(0))); c < 0.9999 {
		t.Errorf("SetTokens changes an embedding, cosine %.5f", c)
	}
	if got := predict(t, l, question); !strings.Contains(got, "Paris") {
		t.Errorf("answer after embeddings: %q", got)
	}
	_, err := l.Embeddings("")
	wantError(t, err, "nothing to embed")
	_, err = model(t).Embeddings("x")
	wantError(t, err, "EnableEmbeddings")
}

func TestTokenEmbeddings(t *testing.T) {
	l := load(t, llama.EnableEmbeddings)
	want, err := l.Embeddings("The cat sleeps on the sofa.", oneThread)
	if err != nil {
		t.Fatal(err)
	}
	_, tokens, err := l.TokenizeString("The cat sleeps on the sofa.")
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int, len(tokens))
	for i, v := range tokens {
		ids[i] = int(v)
	}
	row, err := l.TokenEmbeddings(ids, oneThread)
	if err != nil {
		t.Fatal(err)
	}
	if c := cosine(want, row); len(row) != len(want) || c < 0.9999 {
		t.Errorf("%d numbers, cosine to Embeddings %.5f", len(row), c)
	}
	for _, ids := range [][]int{{1 << 30}, {1 << 40}, {-1}} {
		_, err := l.TokenEmbeddings(ids)
		wantError(t, err, "is not a token")
	}
	_, err = l.TokenEmbeddings(nil)
	wantError(t, err, "nothing to embed")
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}
