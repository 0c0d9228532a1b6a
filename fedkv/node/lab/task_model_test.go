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

// A real model finds in another device's rows what it cannot know by itself.
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
	var line TaskLine
	if err := b.MeasureTask(t.Context(), s, []Case{Default(2)}, func(l TaskLine) { line = l }); err != nil {
		t.Fatal(err)
	}
	if !line.Valid || line.EM != 1 || line.EMCentral != 1 || line.EMLocal != 0 {
		t.Errorf("%+v", line)
	}
	if line.AnswerNLL > line.AnswerNLLCentral+0.5 || line.AnswerNLL > line.AnswerNLLLocal-5 {
		t.Errorf("negative log-likelihood %.2f; %.2f in one process, %.2f alone", line.AnswerNLL, line.AnswerNLLCentral, line.AnswerNLLLocal)
	}
}
