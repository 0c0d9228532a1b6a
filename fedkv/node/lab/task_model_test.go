//go:build cgo

package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/llama"
)

// A real model finds in another device's rows what it cannot know by itself, and in a quarter of them more if the question
// chose them than if chance did, at the same bytes.
func TestTaskOnARealModel(t *testing.T) {
	path := os.Getenv("FEDATTN_TEST_MODEL")
	if path == "" {
		path = filepath.Join("..", "..", "..", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	m, err := llama.Load(path, llama.ModelParams{Threads: 1}) // two threads of one model on a busy machine wait for each other
	if err != nil {
		t.Fatalf("the test model is missing (`make model` brings it): %v", err)
	}
	defer m.Close()
	e, err := llama.NewEngine(m, fedkv.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	begin, err := m.TokenizeDocument("")
	if err != nil {
		t.Fatal(err)
	}
	b := Bench{Engine: e, Network: Memory, Log: zerolog.Nop(), Self: fedkv.Hello{
		Protocol: fedkv.Protocol, Name: "lab", Engine: llama.Commit(), Model: e.Fingerprint(),
		Types: []fedkv.Type{fedkv.Q8_0, fedkv.Q4_0, fedkv.F16}, Role: fedkv.RolePublisher,
	}}
	s := TaskSetting{Task: mustTask(t, "needle"), Problems: 2, Seed: 1, Begin: begin}
	cases := []Case{Default(2)}
	for _, rows := range []string{"random=0.25", "query=0.25"} {
		c := Default(2)
		c.Rows = rows
		cases = append(cases, c)
	}
	lines := map[string]TaskLine{}
	if err := b.MeasureTask(t.Context(), s, cases, func(l TaskLine) { lines[l.Rows] = l }); err != nil {
		t.Fatal(err)
	}
	line := lines[AllRows]
	if !line.Valid || line.EM != 1 || line.EMCentral != 1 || line.EMLocal != 0 {
		t.Errorf("%+v", line)
	}
	if line.AnswerNLL > line.AnswerNLLCentral+0.5 || line.AnswerNLL > line.AnswerNLLLocal-5 {
		t.Errorf("negative log-likelihood %.2f; %.2f in one process, %.2f alone", line.AnswerNLL, line.AnswerNLLCentral, line.AnswerNLLLocal)
	}
	random, query := lines["random=0.25"], lines["query=0.25"]
	if query.KVBytes != random.KVBytes || !(query.AnswerNLL < random.AnswerNLL-2) {
		t.Errorf("negative log-likelihood %.2f in %d bytes; %.2f in %d at random", query.AnswerNLL, query.KVBytes, random.AnswerNLL, random.KVBytes)
	}
}
