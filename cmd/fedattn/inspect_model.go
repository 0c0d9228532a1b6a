package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/llama"
	"fedattn/models"
	"fedattn/models/gguf"
)

// isModelFile reports whether a file begins as GGUF models do.
func isModelFile(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && bytes.Equal(magic, []byte("GGUF"))
}

// modelFacts is what inspect tells of a model. Bytes are those of an f16 cache unless they say otherwise.
type modelFacts struct {
	File         string  `json:"file"`
	Bytes        int64   `json:"bytes"`
	Files        int     `json:"files"`
	Name         string  `json:"name"`
	Architecture string  `json:"architecture"`
	Licence      string  `json:"licence"`
	Context      int     `json:"context"`
	Vocabulary   int     `json:"vocabulary"`
	Federates    string  `json:"federates"` // yes, or why not; unknown without an engine
	KVBytes      int64   `json:"kv_bytes_per_token"`
	WireBytes    int64   `json:"wire_bytes_per_token"` // of the default types
	Memory2k     int64   `json:"memory_2k_bytes"`
	Memory8k     int64   `json:"memory_8k_bytes"`
	Available    int64   `json:"available_bytes"`
	Template     string  `json:"template"` // ok, none, or why it fails
	Layers       []layer `json:"layers"`
}

type layer struct {
	K         int    `json:"k"` // elements of a row over all KV heads
	V         int    `json:"v"`
	Attention string `json:"attention"` // full, or the window
	KVBytes   int64  `json:"kv_bytes_per_token"`
	Sync      bool   `json:"sync"` // may be a sync layer
}

// inspectModel shows what a model is, as far as a session cares.
func inspectModel(c *cli.Context, path string) error {
	header, err := models.ReadHeader(path)
	if err != nil {
		return fmt.Errorf("%s cannot be read as a model: %w; bring the file anew", path, err)
	}
	need, m, err := models.NeedOfFile(path)
	if err != nil {
		return fmt.Errorf("%s cannot be read as a model: %w; bring the file anew", path, err)
	}
	facts := modelFacts{
		File: path, Bytes: need.Weights, Files: len(models.Shards(path)), Name: m.Name, Architecture: m.Architecture, Licence: m.Licence,
		Context: m.Context, Vocabulary: m.Vocabulary, KVBytes: m.KVBytes(), Memory2k: need.At(2048), Memory8k: need.At(8192),
		Available: models.Available(), Template: "none", Federates: "unknown",
	}
	if m.Template != "" {
		facts.Template = "in the file"
	}
	shape := headerShape(m)
	shape = facts.ask(path, shape)
	if w, err := fedkv.ParseWire(defaultWire, max(1, len(shape.Layers))); err == nil {
		for i, l := range shape.Layers {
			if size, err := l.StagingSize(w.At(i), 1, 0); err == nil {
				facts.WireBytes += size
			}
		}
	}
	for _, l := range shape.Layers {
		attention := "full"
		if l.Window > 0 {
			attention = fmt.Sprintf("in a window of %d tokens", l.Window)
		}
		facts.Layers = append(facts.Layers, layer{l.K, l.V, attention, 2 * int64(l.K+l.V), facts.Federates == "yes"})
	}
	if c.Bool("json") {
		out := json.NewEncoder(c.App.Writer)
		out.SetEscapeHTML(false)
		return out.Encode(facts)
	}
	facts.print(c.App.Writer)
	if c.Bool("verbose") {
		printMetadata(c.App.Writer, header)
	}
	return nil
}

// headerShape is the shape as far as the header tells it: which layers have windows is often known to the engine only.
func headerShape(m gguf.Model) (s fedkv.Shape) {
	for _, l := range m.Layers {
		window := 0
		if l.Window {
			window = m.Window
		}
		s.Layers = append(s.Layers, fedkv.LayerShape{K: l.K, V: l.V, Window: window})
	}
	return s
}

// ask lets the engine look at the model: only it knows whether the attention can be federated, which layers have windows
// and whether the template renders.
func (f *modelFacts) ask(path string, fallback fedkv.Shape) fedkv.Shape {
	m, err := llama.Load(path, llama.ModelParams{Threads: 1})
	switch {
	case errors.Is(err, llama.ErrNoEngine):
		return fallback
	case err != nil:
		f.Federates = "no: " + oneLine(err)
		return fallback
	}
	defer m.Close()
	f.Federates = "yes"
	switch _, err := m.Frame(""); {
	case err == nil:
		f.Template = "ok"
	case f.Template != "none":
		f.Template = "fails: " + engineText(err)
	}
	if e, err := llama.NewEngine(m, fedkv.Digest{}); err == nil {
		return e.Shape()
	}
	return fallback
}

func (f modelFacts) print(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-13s%s\n", name, fmt.Sprintf(format, args...))
	}
	line("model", "%s", strings.TrimSpace(f.Name+" ("+f.Architecture+")"))
	line("file", "%s, %s", bytesText(f.Bytes), count(f.Files, "file"))
	if f.Licence != "" {
		line("licence", "%s", f.Licence)
	}
	line("context", "%d tokens, vocabulary of %d", f.Context, f.Vocabulary)
	line("template", "%s", f.Template)
	line("federates", "%s", f.Federates)
	line("rows", "%d bytes a token in the cache (f16), %d on the wire (%s)", f.KVBytes, f.WireBytes, defaultWire)
	free := ""
	if f.Available > 0 {
		free = fmt.Sprintf("; %s are free here", bytesText(f.Available))
	}
	line("memory", "%s with 2048 tokens, %s with 8192%s", bytesText(f.Memory2k), bytesText(f.Memory8k), free)
	for _, group := range f.layerGroups() {
		line("layers", "%s", group)
	}
}

// layerGroups has a line for layers that are alike.
func (f modelFacts) layerGroups() (groups []string) {
	var kinds []layer
	members := map[layer][]int{}
	for i, l := range f.Layers {
		if members[l] == nil {
			kinds = append(kinds, l)
		}
		members[l] = append(members[l], i)
	}
	for _, l := range kinds {
		sync := "may sync"
		if !l.Sync {
			sync = "cannot sync"
		}
		groups = append(groups, fmt.Sprintf("%s: attention %s, rows of %d and %d elements, %d bytes a token, %s",
			ranges(members[l]), l.Attention, l.K, l.V, l.KVBytes, sync))
	}
	return groups
}

// ranges writes numbers in ascending order as 0-4,6.
func ranges(numbers []int) string {
	var b strings.Builder
	for i := 0; i < len(numbers); {
		end := i
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, numbers[i])
		if end > i {
			fmt.Fprintf(&b, "-%d", numbers[end])
		}
		i = end + 1
	}
	return b.String()
}

// longestValue is how much of a metadata value is shown.
const longestValue = 80

func printMetadata(w io.Writer, h *gguf.Header) {
	fmt.Fprintf(w, "\n%d metadata, %d tensors, GGUF version %d\n", len(h.Keys), len(h.Tensors), h.Version)
	for _, key := range h.Keys {
		text := fmt.Sprint(h.Metadata[key])
		if a, ok := h.Metadata[key].(gguf.Array); ok {
			text = count(a.Length, "element")
		}
		if s, ok := h.Metadata[key].(string); ok {
			text = fmt.Sprintf("%q", s)
		}
		if r := []rune(text); len(r) > longestValue {
			text = string(r[:longestValue]) + "…"
		}
		fmt.Fprintf(w, "  %s = %s\n", key, text)
	}
}
