// Package fedkvtest holds what tests of the federation compare with. Tiny (tiny.go) is a Transformer that is
// written to be read: start there. Federation (federation.go) runs whole sessions of the machines of package
// fedkv on it, in one goroutine and in any order of events.
//
// Everything is float64 and sums in the order of positions, so that two runs which are the same mathematics
// are the same bits.
package fedkvtest

import (
	"math"
	"math/rand/v2"
	"slices"

	"fedattn/fedkv"
)

// Config is the size of a Tiny. Its weights follow from it.
type Config struct {
	Layers      int
	Embed       int // elements of a token's hidden state
	Heads       int // of the queries; a multiple of KVHeads
	KVHeads     int
	HeadDim     int // even
	FeedForward int
	Vocabulary  int
	Seed        uint64

	// Window is the attention window of all layers but every Global-th, which attend to everything, as Gemma's do.
	// 0: no layer has one.
	Window, Global int
}

// Small is a Tiny that runs in a millisecond and whose rows fit every wire type: 6 layers, K and V rows of 64
// elements.
func Small() Config {
	return Config{Layers: 6, Embed: 24, Heads: 4, KVHeads: 2, HeadDim: 32, FeedForward: 32, Vocabulary: 61, Seed: 1}
}

// Sliding is Small with windows of 4 tokens at layers 0, 1, 3 and 4.
func Sliding() Config {
	c := Small()
	c.Window, c.Global = 4, 3
	return c
}

// Tiny is a Transformer of the Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU, and the
// embedding as output matrix. Its weights are random.
type Tiny struct {
	Config
	embedding matrix // [vocabulary][embed]
	layers    []layer
	norm      []float64 // [embed]
}

type layer struct {
	attentionNorm, feedNorm []float64 // [embed]
	q                       matrix    // [heads × head dim][embed]
	k, v                    matrix    // [kv heads × head dim][embed]
	o                       matrix    // [embed][heads × head dim]
	gate, up                matrix    // [feed forward][embed]
	down                    matrix    // [embed][feed forward]
}

// matrix is [out][in].
type matrix [][]float64

// NewTiny is the model of a configuration; the same configuration gives the same weights.
func NewTiny(c Config) *Tiny {
	random := rand.New(rand.NewPCG(c.Seed, 0))
	vector := func(n int, middle, spread float64) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = middle + spread*random.NormFloat64()
		}
		return v
	}
	weights := func(out, in int) matrix {
		m := make(matrix, out)
		for i := range m {
			m[i] = vector(in, 0, 1/math.Sqrt(float64(in)))
		}
		return m
	}
	t := &Tiny{Config: c, embedding: make(matrix, c.Vocabulary), layers: make([]layer, c.Layers), norm: vector(c.Embed, 1, 0.1)}
	for i := range t.embedding {
		t.embedding[i] = vector(c.Embed, 0, 1)
	}
	for l := range t.layers {
		t.layers[l] = layer{
			attentionNorm: vector(c.Embed, 1, 0.1), feedNorm: vector(c.Embed, 1, 0.1),
			q: weights(c.Heads*c.HeadDim, c.Embed), k: weights(c.KVHeads*c.HeadDim, c.Embed),
			v: weights(c.KVHeads*c.HeadDim, c.Embed), o: weights(c.Embed, c.Heads*c.HeadDim),
			gate: weights(c.FeedForward, c.Embed), up: weights(c.FeedForward, c.Embed), down: weights(c.Embed, c.FeedForward),
		}
	}
	return t
}

// Damaged is the model with a mistake at one layer, as a broken kernel or a faulty memory makes it: what its attention
// says is taken away instead of added. Its configuration is the same.
func (t *Tiny) Damaged(at int) *Tiny {
	out := *t
	out.layers = slices.Clone(t.layers)
	o := make(matrix, len(t.layers[at].o))
	for i, row := range t.layers[at].o {
		o[i] = make([]float64, len(row))
		for j, w := range row {
			o[i][j] = -w
		}
	}
	out.layers[at].o = o
	return &out
}

// Shape is the size of the model's rows.
func (t *Tiny) Shape() fedkv.Shape {
	row := t.KVHeads * t.HeadDim
	s := fedkv.Shape{Layers: make([]fedkv.LayerShape, t.Layers)}
	for l := range s.Layers {
		s.Layers[l] = fedkv.LayerShape{K: row, V: row, Heads: t.Heads, KVHeads: t.KVHeads}
		if t.Window > 0 && (l+1)%t.Global != 0 {
			s.Layers[l].Window = t.Window
		}
	}
	return s
}

// Reaches reports whether the token at position q may see the one at position k at a layer: it is no later one, and
// within the layer's window.
func (t *Tiny) Reaches(layer, q, k int) bool {
	window := t.Shape().Window(layer)
	return k <= q && (window == 0 || k > q-window)
}

// Centralised is plain causal attention, within the layers' windows: the logits of every token, [tokens][vocabulary].
func (t *Tiny) Centralised(tokens []fedkv.Token) [][]float64 {
	return t.Run(tokens, t.Reaches)
}

// Masked is FedAttn as one run with an explicit mask: token q sees token k at a layer if fedkv.Visible says
// so. It is the logits of every token, [tokens][vocabulary]; tokens are the layout's, prefix first.
func (t *Tiny) Masked(tokens []fedkv.Token, l fedkv.Layout, s fedkv.Schedules, local fedkv.RowPolicy) [][]float64 {
	shape := t.Shape()
	return t.Run(tokens, func(layer, q, k int) bool { return fedkv.Visible(l, s, local, shape, layer, q, k) })
}

// Run is the logits of every token under any mask: whether token q sees token k at a layer.
func (t *Tiny) Run(tokens []fedkv.Token, see func(layer, q, k int) bool) [][]float64 {
	positions := make([]int, len(tokens))
	for i := range positions {
		positions[i] = i
	}
	p := t.Begin(tokens, positions)
	for range t.layers {
		p.Attend(p.Rows(), func(q, k int) bool { return see(p.layer, q, k) })
	}
	return p.Logits()
}

// Rows is K, rotated to its positions, and V of some tokens at one layer: both [tokens][kv heads × head dim].
type Rows struct{ K, V [][]float64 }

// Slice is the rows [first, end).
func (r Rows) Slice(first, end int) Rows { return Rows{r.K[first:end], r.V[first:end]} }

// Append is the rows of r followed by those of o, in new slices.
func (r Rows) Append(o Rows) Rows {
	return Rows{append(r.K[:len(r.K):len(r.K)], o.K...), append(r.V[:len(r.V):len(r.V)], o.V...)}
}

// Shift is the rows with K rotated by so many positions.
func (r Rows) Shift(by, headDim int) Rows {
	out := Rows{make([][]float64, len(r.K)), r.V}
	for i, k := range r.K {
		out.K[i] = append([]float64(nil), k...)
		rotate(out.K[i], by, headDim)
	}
	return out
}

// Pass is a forward pass of some tokens, layer by layer: Rows, then Attend.
type Pass struct {
	model     *Tiny
	layer     int         // the next one
	x         [][]float64 // [tokens][embed]
	positions []int       // of the tokens
}

// Begin is a pass of tokens at these positions, before the first layer.
func (t *Tiny) Begin(tokens []fedkv.Token, positions []int) *Pass {
	p := &Pass{model: t, x: make([][]float64, len(tokens)), positions: positions}
	for i, token := range tokens {
		p.x[i] = append([]float64(nil), t.embedding[token]...)
	}
	return p
}

// Layer is the layer that the next Rows and Attend are about.
func (p *Pass) Layer() int { return p.layer }

// Rows computes K and V of the pass's tokens at the next layer. Of the last layer that a contributor is needed
// for, this is all that has to be computed.
func (p *Pass) Rows() Rows {
	l := &p.model.layers[p.layer]
	r := Rows{make([][]float64, len(p.x)), make([][]float64, len(p.x))}
	for i, x := range p.x {
		h := normalise(x, l.attentionNorm)
		r.K[i], r.V[i] = l.k.times(h), l.v.times(h)
		rotate(r.K[i], p.positions[i], p.model.HeadDim)
	}
	return r
}

// Queries is what the pass's tokens look for at the next layer, not rotated: the queries that share a KV head averaged,
// [tokens][kv heads × head dim].
func (p *Pass) Queries() [][]float64 {
	l, m := &p.model.layers[p.layer], p.model
	group := m.Heads / m.KVHeads
	out := make([][]float64, len(p.x))
	for i, x := range p.x {
		out[i] = make([]float64, m.KVHeads*m.HeadDim)
		for j, v := range l.q.times(normalise(x, l.attentionNorm)) {
			out[i][j/m.HeadDim/group*m.HeadDim+j%m.HeadDim] += v / float64(group)
		}
	}
	return out
}

// Attend finishes the next layer: token q of the pass attends to those of the rows that see accepts, in their
// order, and goes through the feed-forward part.
func (p *Pass) Attend(rows Rows, see func(q, k int) bool) {
	queries := p.HeadQueries()
	heads := make([][]float64, len(p.x))
	for q := range p.x {
		heads[q], _ = p.model.Heard(queries[q], rows, func(k int) bool { return see(q, k) })
	}
	p.Finish(heads)
}

// HeadQueries is the queries of the pass's tokens at the next layer, rotated: [tokens][heads × head dim].
func (p *Pass) HeadQueries() [][]float64 {
	l := &p.model.layers[p.layer]
	queries := make([][]float64, len(p.x))
	for q, x := range p.x {
		queries[q] = l.q.times(normalise(x, l.attentionNorm))
		rotate(queries[q], p.positions[q], p.model.HeadDim)
	}
	return queries
}

// Heard is attention of one token's query over the rows that see accepts: what each head hears, [heads × head dim], and
// the logarithm of each head's sum of exponentials, −∞ if no row is seen.
func (t *Tiny) Heard(query []float64, rows Rows, see func(k int) bool) (heads, sums []float64) {
	for head := range t.Heads {
		at := head / (t.Heads / t.KVHeads) * t.HeadDim // of the KV head that this head shares
		out, sum := attend(query[head*t.HeadDim:][:t.HeadDim], rows, at, see)
		heads, sums = append(heads, out...), append(sums, sum)
	}
	return heads, sums
}

// Finish finishes the next layer with what the heads of each token heard, [tokens][heads × head dim].
func (p *Pass) Finish(heads [][]float64) {
	l := &p.model.layers[p.layer]
	for q, x := range p.x {
		add(x, l.o.times(heads[q]))

		h := normalise(x, l.feedNorm)
		gate, up := l.gate.times(h), l.up.times(h)
		for i, g := range gate {
			up[i] *= g / (1 + math.Exp(-g))
		}
		add(x, l.down.times(up))
	}
	p.layer++
}

// Hidden is the residual stream after the layers so far, [tokens][embed]. It is the pass's own.
func (p *Pass) Hidden() [][]float64 { return p.x }

// Logits is the output after the last layer, [tokens][vocabulary].
func (p *Pass) Logits() [][]float64 {
	out := make([][]float64, len(p.x))
	for i, x := range p.x {
		out[i] = p.model.embedding.times(normalise(x, p.model.norm))
	}
	return out
}

// attend is softmax(q·K / √d)·V of one head, whose part of the rows begins at element at, and the logarithm of the sum of
// exponentials.
func attend(query []float64, rows Rows, at int, see func(k int) bool) ([]float64, float64) {
	scores := make([]float64, len(rows.K))
	most := math.Inf(-1)
	for k := range rows.K {
		scores[k] = math.Inf(-1)
		if see(k) {
			scores[k] = dot(query, rows.K[k][at:][:len(query)]) / math.Sqrt(float64(len(query)))
			most = max(most, scores[k])
		}
	}
	out := make([]float64, len(query))
	sum := 0.0
	for k, score := range scores {
		if weight := math.Exp(score - most); weight > 0 { // exp(-∞) is 0: not seen
			sum += weight
			for i := range out {
				out[i] += float64(weight * rows.V[k][at+i])
			}
		}
	}
	if sum == 0 {
		return out, math.Inf(-1)
	}
	for i := range out {
		out[i] /= sum
	}
	return out, most + math.Log(sum)
}

// rotate turns every head of a row by position: elements i and i + d/2 by position · 10000^(-2i/d).
func rotate(row []float64, position, headDim int) {
	half := headDim / 2
	for head := 0; head < len(row); head += headDim {
		for i := range half {
			sin, cos := math.Sincos(float64(position) * math.Pow(10000, -2*float64(i)/float64(headDim)))
			a, b := &row[head+i], &row[head+half+i]
			*a, *b = float64(*a*cos)-float64(*b*sin), float64(*a*sin)+float64(*b*cos)
		}
	}
}

// normalise is RMSNorm with a weight per element.
func normalise(x, weight []float64) []float64 {
	scale := 1 / math.Sqrt(dot(x, x)/float64(len(x))+1e-6)
	out := make([]float64, len(x))
	for i := range x {
		out[i] = x[i] * scale * weight[i]
	}
	return out
}

func (m matrix) times(x []float64) []float64 {
	out := make([]float64, len(m))
	for i, row := range m {
		out[i] = dot(row, x)
	}
	return out
}

// dot rounds every product, so that machines which fuse multiply and add give the same bits.
func dot(a, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i] * b[i])
	}
	return sum
}

func add(x, y []float64) {
	for i := range x {
		x[i] += y[i]
	}
}
