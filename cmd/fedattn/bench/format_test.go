package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expected output")

// measured is a table with all that may be in one.
func measured() []*Row {
	subject := &Subject{
		Build: "0c1e57098", CPU: "A \"quoted\" CPU", ModelFile: "models/it's.gguf", ModelType: "llama 135M Q4_1", ModelSize: 96_573_184,
		Parameters: 134_515_008, Threads: 1, Batch: 2048, MicroBatch: 512, CPUMask: "0x1",
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	row := func(t Test, took ...time.Duration) *Row {
		r := &Row{Test: t, Subject: subject, Backend: "CPU", Began: at}
		for _, d := range took {
			s := Sample{Took: d, Tokens: t.tokens()}
			if t.Generate == 0 {
				s.TTFTMS = milliseconds(d)
			}
			r.Samples = append(r.Samples, s)
		}
		return r
	}
	const s = time.Second
	rows := []*Row{
		row(Test{Program: Own, Prompt: 2048}, 8*s, 10*s),
		row(Test{Program: LlamaCPP, Prompt: 2048}, 8*s, 8*s),
		row(Test{Program: LlamaCPP, Generate: 32, Depth: 2048}, s, 2*s),
		row(Test{Program: Own, Prompt: 2048, Nodes: 2, Schedule: "gather", Wire: "q8_0/q4_0", Kept: Cold, Link: "100mbit/2ms"}, 4*s, 5*s),
		row(Test{Program: Own, Generate: 32, Depth: 2048, Nodes: 2, Schedule: "gather", Wire: "q8_0/q4_0", Link: "100mbit/2ms"}, s, 2*s),
		row(Test{Program: LlamaRPC, Prompt: 2048, Nodes: 2, Link: "100mbit/2ms"}, 6*s, 6*s),
	}
	rows[5].Backend = "CPU,RPC"
	fed := rows[3]
	fed.PredictedMS = 4321
	for i := range fed.Samples {
		fed.Samples[i].WaitMS, fed.Samples[i].SyncMS, fed.Samples[i].Bytes, fed.Samples[i].Joules = 3000, 12.5, 8_800_000+int64(i), 20.48
	}
	compare(rows)
	return rows
}

func TestFormats(t *testing.T) {
	for _, format := range Formats {
		var got bytes.Buffer
		if err := Write(&got, format, measured()); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "rows."+format)
		if *update {
			if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
	if err := Write(&bytes.Buffer{}, "xml", nil); err == nil {
		t.Error("xml is a format")
	}
}

// The formats for programs have the same keys and say the same.
func TestFormatsAgree(t *testing.T) {
	text := map[string][]byte{}
	for _, format := range Formats {
		var out bytes.Buffer
		if err := Write(&out, format, measured()); err != nil {
			t.Fatal(err)
		}
		text[format] = out.Bytes()
	}
	var list []map[string]any
	if err := json.Unmarshal(text["json"], &list); err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range bytes.Lines(text["jsonl"]) {
		var object map[string]any
		if err := json.Unmarshal(line, &object); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, object)
	}
	if diff := cmp.Diff(list, lines); diff != "" || len(list) != 6 {
		t.Errorf("json and jsonl differ: %s", diff)
	}
	records, err := csv.NewReader(bytes.NewReader(text["csv"])).ReadAll()
	if err != nil || len(records) != 7 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for i, name := range records[0] {
		for k, object := range list {
			if value := object[name]; value == nil != (records[k+1][i] == "") && name != "gpu_info" {
				t.Errorf("%s of row %d: %v and %q", name, k, value, records[k+1][i])
			}
		}
	}
	fed := list[3]
	for name, want := range map[string]any{"speedup": 1.8, "speedup_low": 1.6, "speedup_high": 2.0, "ttft_ms": 4500.0, "n_nodes": 2.0, "bytes": 8_800_001.0,
		"joules_per_token": 0.01, "avg_ns": 4.5e9, "predicted_ms": 4321.0} {
		if fed[name] != want {
			t.Errorf("%s is %v, want %v", name, fed[name], want)
		}
	}
	if list[1]["speedup"] != nil || list[0]["speedup"] == nil {
		t.Error("ratios are to llama.cpp's program on one device")
	}
}

// The first keys are those of the llama-bench that is pinned, in its order.
func TestKeysAreLlamaBenchs(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "..", "third_party", "llama.cpp", "src", "tools", "llama-bench", "llama-bench.cpp"))
	if err != nil {
		t.Skip("llama.cpp's source is not here: make deps brings it")
	}
	list := regexp.MustCompile(`(?s)get_fields\(\) \{.*?fields = \{(.*?)\};`).FindSubmatch(source)
	if list == nil {
		t.Fatal("llama-bench names its fields elsewhere")
	}
	var want, got []string
	for _, name := range regexp.MustCompile(`"(\w+)"`).FindAllSubmatch(list[1], -1) {
		want = append(want, string(name[1]))
	}
	for _, f := range measured()[0].fields() {
		got = append(got, f.name)
	}
	if len(want) < 30 || !slices.Equal(got[:len(want)], want) {
		t.Errorf("llama-bench has\n%s\nhere are\n%s", strings.Join(want, " "), strings.Join(got, " "))
	}
}
