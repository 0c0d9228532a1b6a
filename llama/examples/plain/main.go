//go:build cgo

// Command plain shows go-llama.cpp's own API on the llama.cpp that fedattn pins: load a model, count tokens, stream an
// answer, compare texts by their embeddings, and go on from a state that was saved.
//
//	go run ./llama/examples/plain models/SmolLM2-135M-Instruct.Q4_1.gguf
package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	golama "github.com/go-skynet/go-llama.cpp"
)

// SmolLM2's chat template around a question.
const prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plain MODEL.gguf")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plain:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, path string) error {
	model, err := golama.New(path, golama.SetContext(512), golama.EnableF16Memory, golama.EnableEmbeddings)
	if err != nil {
		return err
	}
	defer model.Free()

	count, _, err := model.TokenizeString(prompt)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "prompt: %d tokens\n", count)

	// greedy, so that the answer is the same each time
	greedy := []golama.PredictOption{golama.SetTemperature(0), golama.SetThreads(1), golama.SetTokens(64)}

	fmt.Fprint(w, "answer: ")
	answer, err := model.Predict(prompt, append(greedy, golama.SetTokenCallback(func(piece string) bool {
		fmt.Fprint(w, piece)
		return true // false would end it here
	}))...)
	if err != nil {
		return err
	}
	fmt.Fprintln(w)

	// what was evaluated once need not be evaluated again, in another process either
	folder, err := os.MkdirTemp("", "plain")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	state := filepath.Join(folder, "state")
	if err := model.Eval(prompt, greedy...); err != nil {
		return err
	}
	if err := model.SaveState(state); err != nil {
		return err
	}
	if err := model.LoadState(state); err != nil {
		return err
	}
	again, err := model.Predict("", greedy...) // without a prompt: go on
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "same answer from the saved state: %t\n", again == answer)

	var rows [3][]float32
	for i, text := range []string{"The cat sleeps on the sofa.", "A kitten naps on the couch.", "Tax law, § 12 (b)"} {
		if rows[i], err = model.Embeddings(text, golama.SetThreads(1)); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "embeddings: %d numbers; cat and kitten are nearer than cat and tax: %t\n", model.EmbeddingSize(),
		cosine(rows[0], rows[1]) > cosine(rows[0], rows[2]))
	return nil
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}
