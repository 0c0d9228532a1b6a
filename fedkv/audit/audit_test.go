package audit

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"fedattn/fedkv"
)

// toy is a model whose rows are a token's own vector and, from layer 1 on, a share of the vectors before it. What it
// expects next is a fixed order of the vocabulary for each last token.
type toy struct {
	layers, vocabulary, elements int

	known []fedkv.Token
	tries int // evaluations
}

func (m *toy) vector(t fedkv.Token, salt uint64) []float32 {
	r := rand.New(rand.NewPCG(uint64(t), salt))
	v := make([]float32, m.elements)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// rows of a text's last token at a layer.
func (m *toy) rows(text []fedkv.Token, layer int) (k, v []float32) {
	mixed := func(salt uint64) []float32 {
		sum := m.vector(text[len(text)-1], salt)
		share := float32(0.5)
		for i := len(text) - 2; i >= 0 && layer > 0; i-- {
			for j, x := range m.vector(text[i], salt+uint64(layer)) {
				sum[j] += share * x
			}
			share /= 2
		}
		return sum
	}
	return mixed(1), mixed(100)
}

func (m *toy) Know(text []fedkv.Token) ([]float32, error) {
	m.known = slices.Clone(text)
	r := rand.New(rand.NewPCG(uint64(text[len(text)-1]), 7))
	next := make([]float32, m.vocabulary)
	for i := range next {
		next[i] = float32(r.NormFloat64())
	}
	return next, nil
}

func (m *toy) Try(continuations [][]fedkv.Token, layers fedkv.Schedule) ([]Rows, error) {
	m.tries++
	out := make([]Rows, m.layers)
	for _, c := range continuations {
		for _, l := range layers.Layers() {
			k, v := m.rows(slices.Concat(m.known, c), l)
			out[l].K, out[l].V = append(out[l].K, k...), append(out[l].V, v...)
		}
	}
	return out, nil
}

func newToy() *toy { return &toy{layers: 3, vocabulary: 200, elements: 32} }

var prefix = []fedkv.Token{5, 6}

// expose makes what a peer has of text; kept nil: of all of it.
func (m *toy) expose(text []fedkv.Token, layer int, types fedkv.WireTypes, kept func(i int) bool) Exposure {
	e := Exposure{Layer: layer, K: make([][]float32, len(text)), V: make([][]float32, len(text))}
	over := func(t fedkv.Type, row []float32) []float32 {
		out := make([]float32, len(row))
		if err := t.DecodeRow(out, t.AppendRow(nil, row)); err != nil {
			panic(err)
		}
		return out
	}
	for i := range text {
		if kept != nil && !kept(i) {
			continue
		}
		k, v := m.rows(slices.Concat(prefix, text[:i+1]), layer)
		e.K[i], e.V[i] = over(types.K, k), over(types.V, v)
	}
	return e
}

func (m *toy) draw(n int) []fedkv.Token {
	r := rand.New(rand.NewPCG(3, 4))
	text := make([]fedkv.Token, n)
	for i := range text {
		text[i] = fedkv.Token(r.IntN(m.vocabulary))
	}
	return text
}

func search(t *testing.T, m *toy, exposures ...Exposure) []Reading {
	t.Helper()
	s := Search{Trials: m, Layers: m.layers, Prefix: prefix, Batch: 20, Tries: m.vocabulary}
	readings, err := s.Text(context.Background(), exposures)
	if err != nil {
		t.Fatal(err)
	}
	return readings
}

var (
	f16 = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	q4  = fedkv.WireTypes{K: fedkv.Q4_0, V: fedkv.Q4_0}
)

// Whatever the layer and the format, rows of every token tell the text.
func TestSearchReadsEveryToken(t *testing.T) {
	m := newToy()
	text := m.draw(24)
	var exposures []Exposure
	for layer := range m.layers {
		exposures = append(exposures, m.expose(text, layer, f16, nil), m.expose(text, layer, q4, nil))
	}
	for i, r := range search(t, m, exposures...) {
		if !slices.Equal(r, Reading(text)) {
			t.Errorf("layer %d: read %v, the text is %v", exposures[i].Layer, r, text)
		}
	}
	together := m.tries
	m.tries = 0
	search(t, m, exposures[0])
	if together > 2*m.tries {
		t.Errorf("%d evaluations for %d exposures that agree, %d for one of them", together, len(exposures), m.tries)
	}
}

// Without rows there is nothing but the model's guess; with the rows of another text there is not even that.
func TestSearchNeedsTheRows(t *testing.T) {
	m := newToy()
	text := m.draw(24)
	none := m.expose(text, 1, f16, func(int) bool { return false })
	other := m.expose(m.draw(48)[24:], 1, f16, nil)
	for i, r := range search(t, m, none, other) {
		if all, _ := r.Recovered(none, text); all > 2 {
			t.Errorf("exposure %d: %d of %d tokens without rows", i, all, len(text))
		}
	}
}

// Tokens that are left out are told by the rows after them, but for those of layer 0, which know nothing of each other.
func TestLaterRowsTellWhatWasLeftOut(t *testing.T) {
	m := newToy()
	text := m.draw(30)
	kept := func(i int) bool { return i%3 == 0 }
	of := func(layer int) (all, sent int) {
		e := m.expose(text, layer, f16, kept)
		s := Search{Trials: m, Layers: m.layers, Prefix: prefix, Batch: m.vocabulary, Tries: m.vocabulary}
		r, err := s.Text(context.Background(), []Exposure{e})
		if err != nil {
			t.Fatal(err)
		}
		return r[0].Recovered(e, text)
	}
	if all, sent := of(0); sent != 10 || all-sent > 1 {
		t.Errorf("layer 0: %d tokens, %d of those with rows", all, sent)
	}
	if all, sent := of(1); sent < 9 || all-sent < 4 {
		t.Errorf("layer 1: %d tokens, %d of those with rows", all, sent)
	}
}

func TestLookup(t *testing.T) {
	m := newToy()
	text := m.draw(24)
	table, err := NewLookup(context.Background(), m, m.layers, prefix)
	if err != nil {
		t.Fatal(err)
	}
	e := m.expose(text, 0, q4, func(i int) bool { return i != 3 })
	r, err := table.Text(e)
	if err != nil {
		t.Fatal(err)
	}
	if all, sent := r.Recovered(e, text); all != 23 || sent != 23 || r[3] != -1 {
		t.Errorf("%d and %d of 23 tokens, token 3 read as %d", all, sent, r[3])
	}
	if _, err := table.Text(m.expose(text, 1, q4, nil)); err == nil {
		t.Error("rows of layer 1 were looked up in a table of layer 0")
	}
}

func TestSearchRefuses(t *testing.T) {
	m := newToy()
	e := m.expose(m.draw(3), 1, f16, nil)
	short := e
	short.K = short.K[:2]
	beyond := e
	beyond.Layer = 3
	for name, s := range map[string]struct {
		Search
		exposures []Exposure
	}{
		"no prefix":        {Search{m, 3, nil, 20, 20}, []Exposure{e}},
		"one at a time":    {Search{m, 3, prefix, 1, 20}, []Exposure{e}},
		"no candidates":    {Search{m, 3, prefix, 20, 0}, []Exposure{e}},
		"different texts":  {Search{m, 3, prefix, 20, 20}, []Exposure{e, short}},
		"no such layer":    {Search{m, 3, prefix, 20, 20}, []Exposure{beyond}},
		"K but no V":       {Search{m, 3, prefix, 20, 20}, []Exposure{{Layer: 1, K: e.K}}},
		"model without it": {Search{m, 1, prefix, 20, 20}, []Exposure{e}},
	} {
		if _, err := s.Text(context.Background(), s.exposures); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (Search{m, 3, prefix, 20, 20}).Text(ended, []Exposure{e}); err == nil {
		t.Error("a search that was cancelled went on")
	}
}
