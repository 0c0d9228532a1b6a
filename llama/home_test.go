//go:build cgo

package llama

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node"
)

// guest is a contributor whose text was evaluated right after the prefix: its rows leave it, or stay.
type guest struct {
	rows []([]byte) // [layer], f16
	kept node.KeptRows
	n    int
}

func guests(t *testing.T, m *Model, prefix []fedkv.Token, texts ...[]fedkv.Token) (out []guest) {
	t.Helper()
	all := schedule(t, m, "all")
	for _, text := range texts {
		c, err := m.NewContext(fedkv.CacheSpec{
			Sync: schedule(t, m, "none"), LocalCells: len(prefix) + len(text), SyncCells: len(prefix) + len(text), MicroBatch: 512, Outputs: 1,
		})
		must(t, err)
		must(t, c.Eval(prefix, 0, 0, nil))
		must(t, c.Eval(text, len(prefix), 0, nil))
		g := guest{n: len(text)}
		for layer := range m.Layers() {
			rows, err := c.AppendRows(nil, layer, fedkv.Span(len(prefix), len(text)), f16)
			must(t, err)
			g.rows = append(g.rows, rows)
		}
		g.kept, err = c.KeepRows(all, fedkv.Span(len(prefix), len(text)))
		must(t, err)
		must(t, c.Close())
		t.Cleanup(func() { _ = g.kept.Close() })
		out = append(out, g)
	}
	return out
}

// answer evaluates own tokens after the guests' texts and some more, one by one: the logits of all. Guests that stay are
// asked, the rows of the others are placed.
func answer(t *testing.T, m *Model, prefix, own, more []fedkv.Token, list []guest, stays func(i int) bool) []float32 {
	t.Helper()
	all, sync := schedule(t, m, "all"), schedule(t, m, "none")
	offset, remote := len(prefix), 0
	for i, g := range list {
		if !stays(i) {
			sync, remote = all, remote+g.n
		}
		offset += g.n
	}
	cells := len(prefix) + len(own) + len(more)
	c, err := m.NewContext(fedkv.CacheSpec{
		Sync: sync, LocalCells: cells, SyncCells: cells + remote, MicroBatch: max(len(own), len(prefix)), Outputs: len(own),
	})
	must(t, err)
	defer c.Close()
	must(t, c.Eval(prefix, 0, 0, nil))
	at := len(prefix)
	shifts := make([]int, len(list))
	for i, g := range list {
		shifts[i] = at - len(prefix)
		if !stays(i) {
			must(t, c.Reserve(at, g.n))
			for layer, rows := range g.rows {
				must(t, c.WriteRows(layer, fedkv.Span(at, g.n), shifts[i], f16, rows))
			}
		}
		at += g.n
	}
	must(t, c.SetNext(offset))
	var partials []fedkv.Partial
	must(t, c.SetHome(&node.Home{
		Layers: all,
		Ask: func(layer, first, n int, queries []float32) error {
			_, out, heads, ok := m.Shape().Layers[layer].HomeSizes()
			if !ok {
				t.Fatal("the model does not tell its heads")
			}
			partials = partials[:0]
			for i, g := range list {
				if stays(i) {
					p := fedkv.Partial{Out: make([]float32, n*out), LSE: make([]float32, n*heads)}
					if err := g.kept.Attend(layer, shifts[i], first, n, queries, p); err != nil {
						return err
					}
					partials = append(partials, p)
				}
			}
			return nil
		},
		Merge: func(_, _, _ int, own fedkv.Partial) error {
			own.Merge(partials...)
			return nil
		},
	}))
	must(t, c.Eval(own, offset, len(own), nil))
	logits := allLogits(t, c, len(own))
	for i, token := range more {
		must(t, c.Eval([]fedkv.Token{token}, offset+len(own)+i, 1, nil))
		logits = append(logits, allLogits(t, c, 1)...)
	}
	return logits
}

func compared(t *testing.T, m *Model, base, run []float32, tokens []fedkv.Token) measure.Result {
	t.Helper()
	r, err := measure.Compare(base, run, m.Vocabulary(), tokens)
	must(t, err)
	return r
}

// Rows that stay home give what rows give that are placed, but for the order of float additions; also with windows,
// and where only some stay.
func TestHomeIsGather(t *testing.T) {
	for name, of := range map[string]struct {
		m       *Model
		lengths [3]int
		limit   float64 // about what the order of float additions costs on its own
	}{"plain": {model(t), [3]int{60, 1, 40}, 0.004}, "windows": {window(t), [3]int{330, 1, 200}, 0.02}} {
		t.Run(name, func(t *testing.T) {
			m := of.m
			prefix, own, more := tokens(t, m, 1, 8), tokens(t, m, 2, 24), tokens(t, m, 3, 6)
			list := guests(t, m, prefix, tokens(t, m, 4, of.lengths[0]), tokens(t, m, 5, of.lengths[1]), tokens(t, m, 6, of.lengths[2]))
			tail := append(slices.Clone(own), more...)
			gather := answer(t, m, prefix, own, more, list, func(int) bool { return false })
			without := answer(t, m, prefix, own, more, list[:1], func(int) bool { return false })
			if r := compared(t, m, gather, without, tail); r.KLMean < 0.02 {
				t.Errorf("mean KL %g without two of three guests: the test sees nothing", r.KLMean)
			}
			for what, stays := range map[string]func(int) bool{
				"all": func(int) bool { return true }, "some": func(i int) bool { return i != 1 },
			} {
				r := compared(t, m, gather, answer(t, m, prefix, own, more, list, stays), tail)
				if r.KLMean > of.limit {
					t.Errorf("%s stay: mean KL to gather %g", what, r.KLMean)
				}
			}
		})
	}
}

// The kernel against attention written down in float64, on rows that end anywhere before and within the window.
func TestKeptRowsAttend(t *testing.T) {
	for name, of := range map[string]struct {
		m *Model
		n int
	}{"plain": {model(t), 70}, "windows": {window(t), 540}} {
		t.Run(name, func(t *testing.T) {
			m := of.m
			prefix := tokens(t, m, 1, 8)
			g := guests(t, m, prefix, tokens(t, m, 4, of.n))[0]
			random := rand.New(rand.NewPCG(1, 2))
			for layer, shape := range m.Shape().Layers {
				queries, outputs, heads, _ := shape.HomeSizes()
				k, _, err := shape.BlockSize(f16, g.n)
				must(t, err)
				keys, values := floats(t, fedkv.F16, g.rows[layer][:k], shape.K), floats(t, fedkv.F16, g.rows[layer][k:], shape.V)
				dim, dimV := queries/heads, outputs/heads
				scale := 1 / math.Sqrt(float64(dim)) // which the other model's queries have already
				for _, first := range []int{len(prefix) + g.n, len(prefix) + g.n + 100, len(prefix) + 511, len(prefix) + g.n + 511} {
					if first < len(prefix)+g.n {
						continue
					}
					const n = 3
					q := make([]float32, n*queries)
					for i := range q {
						q[i] = float32(random.NormFloat64())
						if m == window(t) {
							q[i] *= float32(scale)
						}
					}
					p := fedkv.Partial{Out: make([]float32, n*outputs), LSE: make([]float32, n*heads)}
					must(t, g.kept.Attend(layer, 0, first, n, q, p))
					for i := range n {
						for head := range heads {
							kv := head / (shape.Heads / shape.KVHeads)
							var scores []float64
							from := 0
							if shape.Window > 0 {
								from = max(0, min(g.n, first+i-shape.Window+1-len(prefix)))
							}
							most, sum := math.Inf(-1), 0.0
							for row := from; row < g.n; row++ {
								dot := 0.0
								for j := range dim {
									dot += float64(q[i*queries+head*dim+j]) * float64(keys[row*shape.K+kv*dim+j])
								}
								if m == window(t) {
									dot /= scale
								}
								scores = append(scores, dot*scale)
								most = max(most, dot*scale)
							}
							want := make([]float64, dimV)
							for j, s := range scores {
								w := math.Exp(s - most)
								sum += w
								for d := range want {
									want[d] += w * float64(values[(from+j)*shape.V+kv*dimV+d])
								}
							}
							lse := float64(p.LSE[i*heads+head])
							if len(scores) == 0 {
								if !math.IsInf(lse, -1) || p.Out[i*outputs+head*dimV] != 0 {
									t.Fatalf("layer %d: token %d sees nothing, and gets %g", layer, i, lse)
								}
								continue
							}
							if d := math.Abs(lse - most - math.Log(sum)); !(d < 0.02) {
								t.Fatalf("layer %d, first %d, token %d, head %d: log of the sum off by %g", layer, first, i, head, d)
							}
							for d := range want {
								if diff := math.Abs(float64(p.Out[i*outputs+head*dimV+d]) - want[d]/sum); !(diff < 0.02*(1+math.Abs(want[d]/sum))) {
									t.Fatalf("layer %d, first %d, token %d, head %d: output off by %g of %g", layer, first, i, head, diff, want[d]/sum)
								}
							}
						}
					}
				}
			}
		})
	}
}

// What cannot be answered is refused, and nothing breaks.
func TestKeptRowsRefuse(t *testing.T) {
	m := model(t)
	prefix := tokens(t, m, 1, 8)
	g := guests(t, m, prefix, tokens(t, m, 2, 40))[0]
	queries, out, heads, _ := m.Shape().Layers[0].HomeSizes()
	ask := func(layer, shift, first, n, tokens int) error {
		return g.kept.Attend(layer, shift, first, n, make([]float32, tokens*queries),
			fedkv.Partial{Out: make([]float32, tokens*out), LSE: make([]float32, tokens*heads)})
	}
	must(t, ask(0, 0, 48, 1, 1))
	for name, err := range map[string]error{
		"no layer":           ask(m.Layers(), 0, 48, 1, 1),
		"a negative layer":   ask(-1, 0, 48, 1, 1),
		"no tokens":          ask(0, 0, 48, 0, 0),
		"other sizes":        ask(0, 0, 48, 2, 1),
		"among the rows":     ask(0, 0, 47, 1, 1),
		"before the rows":    ask(0, 0, 0, 1, 1),
		"beyond positions":   ask(0, 1<<31-1, 1<<31-1, 1, 1),
		"negative positions": ask(0, -9, 48, 1, 1),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// an error of the other devices ends the evaluation
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "none"), LocalCells: 64, SyncCells: 64, MicroBatch: 64, Outputs: 1})
	must(t, err)
	defer c.Close()
	gone := errors.New("gone")
	asked := 0
	must(t, c.SetHome(&node.Home{
		Layers: schedule(t, m, "2-"),
		Ask: func(layer, _, _ int, _ []float32) error {
			if asked++; layer == 4 {
				return gone
			}
			return nil
		},
		Merge: func(_, _, _ int, _ fedkv.Partial) error { return nil },
	}))
	if err := c.Eval(prefix, 0, 1, nil); !errors.Is(err, gone) || asked != 3 {
		t.Errorf("%v after %d questions", err, asked)
	}
	must(t, c.SetHome(nil))
	must(t, c.Eval(prefix, len(prefix), 1, nil))
	if _, err := c.KeepRows(schedule(t, m, "all"), fedkv.Span(0, 2*len(prefix)+1)); err == nil || !strings.Contains(err.Error(), "cell") {
		t.Errorf("rows that are not there are kept: %v", err)
	}
}
