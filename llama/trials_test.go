//go:build cgo

package llama

import (
	"math"
	"slices"
	"testing"

	"fedattn/fedkv"
)

// What trials see of a continuation is what a participant that evaluates the same text sends.
func TestTrialsAreWhatParticipantsSend(t *testing.T) {
	m := model(t)
	known, more := tokens(t, m, 1, 20), tokens(t, m, 2, 4)
	layers := schedule(t, m, "0,7,29")
	trials, err := m.NewTrials(24)
	must(t, err)
	defer trials.Close()
	if _, err := trials.Know(tokens(t, m, 3, 24)); err != nil { // something else before
		t.Fatal(err)
	}
	next, err := trials.Know(known)
	must(t, err)

	c := alone(t, m, "all", 24, 24, 1)
	defer c.Close()
	must(t, c.Eval(known, 0, 1, nil))
	if want := allLogits(t, c, 1); maxDiff(next, want) > 0.5 || top(next) != top(want) {
		t.Errorf("what follows the known text differs by %g", maxDiff(next, want))
	}
	must(t, c.Eval(more, 20, 0, nil))
	var others [][]fedkv.Token
	for i := range 299 { // more than go at once
		others = append(others, slices.Concat(tokens(t, m, uint64(10+i%9), 3), []fedkv.Token{fedkv.Token(1000 + i)}))
	}
	const at = 270
	rows, err := trials.Try(slices.Insert(others, at, more), layers)
	must(t, err)
	for l := range m.Layers() {
		shape := m.shape.Layers[l]
		if !layers.Sync(l) {
			if rows[l].K != nil || rows[l].V != nil {
				t.Errorf("layer %d has rows that nobody asked for", l)
			}
			continue
		}
		b, err := c.AppendRows(nil, l, []int32{23}, fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16})
		must(t, err)
		k, v := make([]float32, shape.K), make([]float32, shape.V)
		must(t, fedkv.F16.DecodeRow(k, b[:2*shape.K]))
		must(t, fedkv.F16.DecodeRow(v, b[2*shape.K:]))
		if len(rows[l].K) != 300*shape.K || len(rows[l].V) != 300*shape.V {
			t.Fatalf("layer %d: %d and %d values of 300 continuations", l, len(rows[l].K), len(rows[l].V))
		}
		for i, far := range []bool{at: false, at + 1: true} {
			if i < at {
				continue
			}
			for name, d := range map[string]float64{
				"K": relative(rows[l].K[i*shape.K:][:shape.K], k), "V": relative(rows[l].V[i*shape.V:][:shape.V], v),
			} {
				if far != (d > 0.05) {
					t.Errorf("layer %d, continuation %d: %s is %.4f from what is sent", l, i, name, d)
				}
			}
		}
	}
}

// relative is how far a is from b, as a share of b's length.
func relative(a, b []float32) float64 {
	var d, n float64
	for i := range b {
		d += float64(a[i]-b[i]) * float64(a[i]-b[i])
		n += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(d / n)
}

func top(logits []float32) int { return slices.Index(logits, slices.Max(logits)) }

func TestTrialsRefuse(t *testing.T) {
	m := model(t)
	if _, err := m.NewTrials(0); err == nil {
		t.Error("trials after no tokens")
	}
	trials, err := m.NewTrials(8)
	must(t, err)
	one := [][]fedkv.Token{{1}}
	if _, err := trials.Try(one, schedule(t, m, "0")); err == nil {
		t.Error("a continuation of nothing")
	}
	for _, text := range [][]fedkv.Token{nil, make([]fedkv.Token, 9), {-1}, {fedkv.Token(m.Vocabulary())}} {
		if _, err := trials.Know(text); err == nil {
			t.Errorf("a known text %v", text)
		}
	}
	_, err = trials.Know([]fedkv.Token{1, 2})
	must(t, err)
	for name, try := range map[string][][]fedkv.Token{
		"none": nil, "an empty one": {{}}, "of two lengths": {{1}, {1, 2}}, "outside the vocabulary": {{1}, {-5}},
		"too long": {make([]fedkv.Token, 1000)},
	} {
		if _, err := trials.Try(try, schedule(t, m, "0")); err == nil {
			t.Errorf("continuations: %s", name)
		}
	}
	if _, err := trials.Try(one, schedule(t, m, "none")); err == nil {
		t.Error("rows of no layer")
	}
	must(t, trials.Close())
	must(t, trials.Close())
	if _, err := trials.Know([]fedkv.Token{1}); err == nil {
		t.Error("trials that are closed")
	}
}
