package gguf

import "fmt"

// Layer is one layer's attention, as the header tells it.
type Layer struct {
	HeadsKV, K, V int  // K and V: elements of one token's row over all KV heads
	Window        bool // attends to a sliding window, where the header says which layers do
}

// Model is what a header says of a model's attention.
type Model struct {
	Architecture, Name, Licence string
	Context                     int // positions that it was trained for
	Width, FeedForward, Heads   int
	Vocabulary                  int
	Window                      int // tokens of sliding windows; 0: none
	Layers                      []Layer
	Template                    string // chat template, empty: none
	Splits                      int    // files that it is in; 0 and 1: one
}

// maxLayers is far beyond any model.
const maxLayers = 4096

// maxWidth bounds heads and elements, so that their products stay numbers.
const maxWidth = 1 << 24

// Model interprets the metadata. It fails for a file that does not say how many layers of which width it has.
func (h *Header) Model() (Model, error) {
	m := Model{Architecture: h.Text("general.architecture"), Name: h.Text("general.name"), Licence: h.Text("general.license"),
		Template: h.Text("tokenizer.chat_template")}
	if m.Architecture == "" {
		return m, fmt.Errorf("it names no architecture")
	}
	key := func(name string) string { return m.Architecture + "." + name }
	var failed error
	number := func(name string, fallback int) int {
		n, ok := h.Number(key(name))
		switch {
		case !ok:
			return fallback
		case n > maxWidth:
			failed = fmt.Errorf("its %s is %d", key(name), n)
			return 0
		}
		return int(n)
	}
	m.Width, m.FeedForward = number("embedding_length", 0), number("feed_forward_length", 0)
	if context, ok := h.Number(key("context_length")); ok && context < 1<<40 {
		m.Context = int(context)
	}
	layers := number("block_count", 0)
	if layers < 1 || layers > maxLayers || m.Width < 1 {
		return m, fmt.Errorf("it does not say how many layers of which width it has")
	}
	m.Window = number("attention.sliding_window", 0)
	m.Vocabulary = number("vocab_size", 0)
	if tokens, ok := h.Metadata["tokenizer.ggml.tokens"].(Array); ok {
		m.Vocabulary = tokens.Length
	}
	if splits, ok := h.Number("split.count"); ok && splits < 1<<16 {
		m.Splits = int(splits)
	}
	heads := h.perLayer(key("attention.head_count"), layers)
	headsKV := h.perLayer(key("attention.head_count_kv"), layers)
	windows := h.perLayer(key("attention.sliding_window_pattern"), layers)
	for il := range layers {
		queries := max(heads(il, 0), 0)
		m.Heads = max(m.Heads, queries)
		l := Layer{HeadsKV: headsKV(il, queries)}
		size := 0
		if queries > 0 {
			size = m.Width / queries
		}
		k, v := number("attention.key_length", size), number("attention.value_length", size)
		if k > 1<<16 || v > 1<<16 || l.HeadsKV > 1<<16 || l.HeadsKV < 0 {
			return m, fmt.Errorf("its layer %d has heads of an impossible size", il)
		}
		l.K, l.V = k*l.HeadsKV, v*l.HeadsKV
		if a, ok := h.Metadata[key("attention.sliding_window_pattern")].(Array); ok && a.Length == layers {
			l.Window = windows(il, 0) == 1
		}
		m.Layers = append(m.Layers, l)
	}
	return m, failed
}

// Text is a metadata value that is text, empty if there is none.
func (h *Header) Text(key string) string {
	s, _ := h.Metadata[key].(string)
	return s
}

// Number is a metadata value that is a whole number ≥ 0.
func (h *Header) Number(key string) (uint64, bool) { return wholeNumber(h.Metadata[key]) }

func wholeNumber(v any) (uint64, bool) {
	switch v := v.(type) {
	case uint64:
		return v, true
	case int64:
		return uint64(v), v >= 0
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// perLayer returns a value for each layer: one number for all, or an array of them.
func (h *Header) perLayer(key string, layers int) func(layer, fallback int) int {
	value := h.Metadata[key]
	return func(layer, fallback int) int {
		v := value
		if a, ok := v.(Array); ok {
			if a.Length != layers || a.Elements == nil {
				return fallback
			}
			v = a.Elements[layer]
		}
		if n, ok := wholeNumber(v); ok && n <= maxWidth {
			return int(n)
		}
		return fallback
	}
}

// KVBytes is what one token's rows take in an f16 cache, over all layers.
func (m Model) KVBytes() int64 {
	var n int64
	for _, l := range m.Layers {
		n += 2 * int64(l.K+l.V)
	}
	return n
}
