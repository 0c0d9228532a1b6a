package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fedattn/fedkv/measure"
)

// Formats are the names that Write takes.
var Formats = []string{"md", "csv", "json", "jsonl", "sql"}

// Write prints rows as llama-bench does: its fields under its names and in its order, then those of federated tests.
func Write(w io.Writer, format string, rows []*Row) error {
	out := &sink{w: w}
	switch format {
	case "md":
		markdown(out, rows)
	case "csv":
		writeCSV(out, rows)
	case "json":
		writeJSON(out, rows)
	case "jsonl":
		writeLines(out, rows)
	case "sql":
		writeSQL(out, rows)
	default:
		return fmt.Errorf("%q is no format: known are %s", format, strings.Join(Formats, ", "))
	}
	return out.err
}

// sink keeps the first error.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...)
	}
}

// field is a figure by llama-bench's name: a string, a bool, an int64, a float64, or nil if there is none.
type field struct {
	name  string
	kind  kind
	value any
}

type kind uint8

const (
	textual kind = iota
	logical
	whole
	real
)

// fields of a row. What llama-bench can be told and this program cannot has the value that it has here.
func (r *Row) fields() []field {
	s := r.Subject
	s64 := func(n int) any { return int64(n) }
	ns, rates := r.each(nanoseconds), r.each(Sample.Rate)
	meanNS, _ := measure.MeanSE(ns)
	meanTS, _ := measure.MeanSE(rates)
	some := func(v float64) any {
		if v == 0 {
			return nil
		}
		return v
	}
	words := func(v string) any {
		if v == "" {
			return nil
		}
		return v
	}
	var low, high float64
	if len(r.Speedups) > 0 {
		low, high = measure.Interval(r.Speedups)
	}
	bytes, nodes := any(nil), any(nil)
	if r.Nodes > 0 {
		nodes = s64(r.Nodes)
		if r.Program == Own && r.Prompt > 0 {
			bytes = int64(math.Round(r.mean(func(s Sample) float64 { return float64(s.Bytes) })))
		}
	}
	return []field{
		{"build_commit", textual, s.Build}, {"build_number", whole, s64(0)}, {"cpu_info", textual, s.CPU}, {"gpu_info", textual, ""},
		{"backends", textual, r.Backend}, {"model_filename", textual, s.ModelFile}, {"model_type", textual, s.ModelType},
		{"model_size", whole, s.ModelSize}, {"model_n_params", whole, s.Parameters}, {"n_batch", whole, s64(s.Batch)},
		{"n_ubatch", whole, s64(s.MicroBatch)}, {"n_threads", whole, s64(s.Threads)}, {"cpu_mask", textual, s.CPUMask},
		{"cpu_strict", logical, false}, {"poll", whole, s64(50)}, {"type_k", textual, "f16"}, {"type_v", textual, "f16"},
		{"n_gpu_layers", whole, s64(s.GPULayers)}, {"n_cpu_moe", whole, s64(0)}, {"split_mode", textual, "layer"},
		{"main_gpu", whole, s64(0)}, {"no_kv_offload", logical, false}, {"flash_attn", whole, s64(1)}, {"devices", textual, "auto"},
		{"tensor_split", textual, "0.00"}, {"tensor_buft_overrides", textual, "none"}, {"load_mode", textual, "mmap"},
		{"lazy_mode", textual, "auto"}, {"embeddings", logical, false}, {"no_op_offload", whole, s64(0)}, {"no_host", logical, false},
		{"repack", logical, true}, {"fit_target", whole, s64(0)}, {"fit_min_ctx", whole, s64(0)},
		{"n_prompt", whole, s64(r.Prompt)}, {"n_gen", whole, s64(r.Generate)}, {"n_depth", whole, s64(r.Depth)},
		{"test_time", textual, r.Began.UTC().Format(time.RFC3339)},
		{"avg_ns", whole, int64(meanNS)}, {"stddev_ns", whole, int64(measure.Stdev(ns))},
		{"avg_ts", real, meanTS}, {"stddev_ts", real, measure.Stdev(rates)},

		{"program", textual, string(r.Program)}, {"n_nodes", whole, nodes}, {"schedule", textual, words(r.Schedule)},
		{"wire", textual, words(r.Wire)}, {"kept", textual, words(r.Kept)}, {"link", textual, words(r.Link)}, {"bytes", whole, bytes},
		{"ttft_ms", real, some(r.mean(func(s Sample) float64 { return s.TTFTMS }))},
		{"wait_ms", real, some(r.mean(func(s Sample) float64 { return s.WaitMS }))},
		{"sync_ms", real, some(r.mean(func(s Sample) float64 { return s.SyncMS }))},
		{"predicted_ms", real, some(r.PredictedMS)}, {"joules_per_token", real, some(r.joulesPerToken())},
		{"speedup", real, some(measure.Median(r.Speedups))}, {"speedup_low", real, some(low)}, {"speedup_high", real, some(high)},
	}
}

// text is a value as llama-bench has it between quotes; what there is not is empty.
func (f field) text() string {
	switch v := f.value.(type) {
	case string:
		return v
	case bool:
		if v {
			return "1"
		}
		return "0"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', 6, 64)
	}
	return ""
}

// json is a value in JSON.
func (f field) json() string {
	switch v := f.value.(type) {
	case string:
		text, _ := json.Marshal(v) // a string has no error
		return string(text)
	case bool:
		return strconv.FormatBool(v)
	case nil:
		return "null"
	}
	return f.text()
}

func (f field) sql() string {
	if f.value == nil {
		return "NULL"
	}
	return "'" + strings.ReplaceAll(f.text(), "'", "''") + "'"
}

var sqlTypes = map[kind]string{textual: "TEXT", logical: "INTEGER", whole: "INTEGER", real: "REAL"}

func writeCSV(out *sink, rows []*Row) {
	for i, r := range rows {
		var names, values []string
		for _, f := range r.fields() {
			names, values = append(names, f.name), append(values, `"`+strings.ReplaceAll(f.text(), `"`, `""`)+`"`)
		}
		if i == 0 {
			out.printf("%s\n", strings.Join(names, ","))
		}
		out.printf("%s\n", strings.Join(values, ","))
	}
}

// series are the samples of a row, for JSON.
func (r *Row) series() []field {
	list := func(format string, values []float64) string {
		var text []string
		for _, v := range values {
			text = append(text, fmt.Sprintf(format, v))
		}
		return strings.Join(text, ", ")
	}
	out := []field{
		{name: "samples_ns", value: list("%.0f", r.each(nanoseconds))},
		{name: "samples_ts", value: list("%g", r.each(Sample.Rate))},
	}
	if len(r.Speedups) > 0 {
		out = append(out, field{name: "samples_speedup", value: list("%.4f", r.Speedups)})
	}
	return out
}

func writeJSON(out *sink, rows []*Row) {
	out.printf("[\n")
	for i, r := range rows {
		if i > 0 {
			out.printf(",\n")
		}
		out.printf("  {\n")
		for _, f := range r.fields() {
			out.printf("    \"%s\": %s,\n", f.name, f.json())
		}
		series := r.series()
		for k, f := range series {
			comma := ","
			if k == len(series)-1 {
				comma = ""
			}
			out.printf("    \"%s\": [ %s ]%s\n", f.name, f.value, comma)
		}
		out.printf("  }")
	}
	out.printf("\n]\n")
}

func writeLines(out *sink, rows []*Row) {
	for _, r := range rows {
		var parts []string
		for _, f := range r.fields() {
			parts = append(parts, fmt.Sprintf("%q: %s", f.name, f.json()))
		}
		for _, f := range r.series() {
			parts = append(parts, fmt.Sprintf("%q: [ %s ]", f.name, f.value))
		}
		out.printf("{%s}\n", strings.Join(parts, ", "))
	}
}

// table is the name of the table in SQL: it has columns that llama-bench's lacks.
const table = "fedattn_bench"

func writeSQL(out *sink, rows []*Row) {
	for i, r := range rows {
		fields := r.fields()
		var names, values, columns []string
		for _, f := range fields {
			names, values = append(names, f.name), append(values, f.sql())
			columns = append(columns, "  "+f.name+" "+sqlTypes[f.kind])
		}
		if i == 0 {
			out.printf("CREATE TABLE IF NOT EXISTS %s (\n%s\n);\n\n", table, strings.Join(columns, ",\n"))
		}
		out.printf("INSERT INTO %s (%s) VALUES (%s);\n", table, strings.Join(names, ", "), strings.Join(values, ", "))
	}
}

// modelName is what a table calls the model.
func (s *Subject) modelName() string {
	if s.ModelType != "" {
		return s.ModelType
	}
	return filepath.Base(s.ModelFile)
}
