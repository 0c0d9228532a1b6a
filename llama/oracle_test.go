//go:build cgo

package llama

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"fedattn/fedkv"
)

// testModel loads the small real model once; tests that need it fail without it, since `make test` brings it.
var testModel = sync.OnceValues(func() (*Model, error) {
	path := os.Getenv("FEDATTN_TEST_MODEL")
	if path == "" {
		path = filepath.Join("..", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	return Load(path, ModelParams{Threads: 1}) // two threads of one model on a busy machine wait for each other
})

func model(t testing.TB) *Model {
	t.Helper()
	m, err := testModel()
	if err != nil {
		t.Fatalf("the test model is missing (`make model` brings it): %v", err)
	}
	return m
}

// prose is a deterministic text of about n words, grammatical enough for activations to be ordinary.
func prose(seed uint64, words int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(s string) string { f := strings.Fields(s); return f[r.IntN(len(f))] }
	var b strings.Builder
	for n := 0; n < words; n += 9 {
		fmt.Fprintf(&b, "The %s %s %s the %s %s near the %s. ",
			pick("old small quiet broken green distant northern careful"), pick("gardener valve engine harbour teacher river clock"),
			pick("watched repaired carried measured followed painted"), pick("heavy bright copper wooden narrow silver"),
			pick("bridge lamp kettle window ladder letter"), pick("station orchard cellar market lighthouse workshop"))
	}
	return b.String()
}

func tokens(t testing.TB, m *Model, seed uint64, n int) []fedkv.Token {
	t.Helper()
	toks, err := m.Tokenize(prose(seed, 2*n+20))
	if err != nil || len(toks) < n {
		t.Fatalf("%d tokens, want %d: %v", len(toks), n, err)
	}
	return toks[:n]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func schedule(t testing.TB, m *Model, spec string) fedkv.Schedule {
	t.Helper()
	s, err := fedkv.ParseSchedule(spec, m.Layers())
	must(t, err)
	return s
}

// allLogits returns n rows of logits of the last Eval, one after another.
func allLogits(t testing.TB, c *Context, n int) []float32 {
	t.Helper()
	var out []float32
	for i := range n {
		row, err := c.Logits(i)
		must(t, err)
		out = append(out, row...)
	}
	return out
}

func maxDiff(a, b []float32) float64 {
	worst := 0.0
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); d > worst || math.IsNaN(d) {
			worst = d
		}
	}
	return worst
}

// centralised evaluates the segments one after another, each as one micro-batch, in llama.cpp's own context and
// returns the last one's logits.
func centralised(t testing.TB, m *Model, segments ...[]fedkv.Token) []float32 {
	t.Helper()
	total, longest := 0, 0
	for _, s := range segments {
		total += len(s)
		longest = max(longest, len(s))
	}
	last := segments[len(segments)-1]
	c, err := m.NewPlainContext(total, longest, len(last))
	must(t, err)
	defer c.Close()
	pos := 0
	for i, s := range segments {
		outputs := 0
		if i == len(segments)-1 {
			outputs = len(s)
		}
		must(t, c.Eval(s, pos, outputs, nil))
		pos += len(s)
	}
	return allLogits(t, c, len(last))
}

type rowKey struct{ layer, origin int }

// lockstep runs the participants of one prompt one after another, which the triangle allows: each needs the rows of
// earlier ones only. Returned are the last one's logits and its memory.
func lockstep(t testing.TB, m *Model, types fedkv.WireTypes, sync fedkv.Schedule, prefix []fedkv.Token,
	segments ...[]fedkv.Token) ([]float32, Memory) {
	t.Helper()
	counts := make([]int, len(segments))
	for i, s := range segments {
		counts[i] = len(s)
	}
	layout, err := fedkv.NewLayout(len(prefix), counts)
	must(t, err)
	rows := map[rowKey][]byte{}
	var logits []float32
	var memory Memory
	for n, own := range segments {
		seg := layout.Segments[n]
		c, err := m.NewContext(fedkv.CacheSpec{
			Sync: sync, LocalCells: len(prefix) + len(own), SyncCells: seg.Offset + len(own),
			MicroBatch: max(len(own), len(prefix)), Outputs: len(own),
		})
		must(t, err)
		must(t, c.Eval(prefix, 0, 0, nil))
		if remote := seg.Offset - len(prefix); remote > 0 {
			if sync.Count() > 0 {
				must(t, c.Reserve(len(prefix), remote))
			}
			must(t, c.SetNext(seg.Offset))
		}
		last := n == len(segments)-1
		hook := &Hook{Layers: sync, OnLayer: func(layer, first, count int) (bool, error) {
			if first != seg.Offset || count != len(own) {
				return true, fmt.Errorf("micro-batch [%d,+%d), expected [%d,+%d)", first, count, seg.Offset, len(own))
			}
			for o := range n {
				from := layout.Segments[o]
				if err := c.WriteRows(layer, fedkv.Span(from.Offset, from.Tokens), 0, types, rows[rowKey{layer, o}]); err != nil {
					return true, err
				}
			}
			if !last {
				var err error
				rows[rowKey{layer, n}], err = c.AppendRows(nil, layer, fedkv.Span(first, count), types)
				return layer == m.Layers()-1, err
			}
			return false, nil
		}}
		outputs := 0
		if last {
			outputs = len(own)
		}
		must(t, c.Eval(own, seg.Offset, outputs, hook))
		if last {
			logits = allLogits(t, c, len(own))
			memory, err = c.Memory()
			must(t, err)
		}
		must(t, c.Close())
	}
	return logits, memory
}

var f16 = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}

// The oracle: every layer a sync layer, rows as the cache holds them.
func TestLockstepAtEveryLayerIsBitIdenticalToOneProcess(t *testing.T) {
	m := model(t)
	prefix := tokens(t, m, 1, 16)
	for _, lengths := range [][]int{{64, 32}, {70, 1, 33}, {40, 90, 25, 31}, {12, 9, 1, 30, 17, 5, 22, 120}} {
		segments := make([][]fedkv.Token, len(lengths))
		for i, n := range lengths {
			segments[i] = tokens(t, m, uint64(10+i), n)
		}
		want := centralised(t, m, append([][]fedkv.Token{prefix}, segments...)...)
		got, _ := lockstep(t, m, f16, schedule(t, m, "all"), prefix, segments...)
		if d := maxDiff(got, want); d != 0 {
			t.Errorf("segments %v: max |Δ logit| = %g, want 0", lengths, d)
		}
	}
}

func TestOneParticipantIsOneProcessAtAnySchedule(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 16), tokens(t, m, 2, 60)
	want := centralised(t, m, prefix, own)
	for _, spec := range []string{"all", "none", "H=3", "2-"} {
		got, _ := lockstep(t, m, f16, schedule(t, m, spec), prefix, own)
		if d := maxDiff(got, want); d != 0 {
			t.Errorf("schedule %s: max |Δ logit| = %g, want 0", spec, d)
		}
	}
}

// A schedule with local layers must change the result, or the oracle above would hold for a mask that hides nothing.
func TestLocalLayersDoNotSeeOthers(t *testing.T) {
	m := model(t)
	prefix, a, b := tokens(t, m, 1, 16), tokens(t, m, 2, 60), tokens(t, m, 3, 30)
	want := centralised(t, m, prefix, a, b)
	got, _ := lockstep(t, m, f16, schedule(t, m, "none"), prefix, a, b)
	if d := maxDiff(got, want); d < 0.1 {
		t.Errorf("max |Δ logit| = %g without any exchange: the segments see each other", d)
	}
}

// Remote rows cost memory at sync layers only.
func TestLocalLayersDoNotGrowWithParticipants(t *testing.T) {
	m := model(t)
	prefix := tokens(t, m, 1, 16)
	sync := schedule(t, m, "H=3")
	own := tokens(t, m, 9, 40)
	var local, remote []int64
	for _, others := range []int{1, 4, 12} {
		var segments [][]fedkv.Token
		for i := range others {
			segments = append(segments, tokens(t, m, uint64(20+i), 128))
		}
		_, mem := lockstep(t, m, f16, sync, prefix, append(segments, own)...)
		if mem.LocalLayers != 20 || mem.SyncLayers != 10 {
			t.Fatalf("%d local and %d sync layers, want 20 and 10", mem.LocalLayers, mem.SyncLayers)
		}
		if want := len(prefix) + len(own); mem.LocalUsed != want {
			t.Errorf("%d others: %d local cells in use, want %d", others, mem.LocalUsed, want)
		}
		if want := len(prefix) + len(own) + others*128; mem.SyncUsed != want {
			t.Errorf("%d others: %d sync cells in use, want %d", others, mem.SyncUsed, want)
		}
		local, remote = append(local, mem.LocalBytes), append(remote, mem.SyncBytes)
	}
	if local[0] != local[1] || local[1] != local[2] {
		t.Errorf("bytes of the local layers grow with the participants: %v", local)
	}
	if remote[0] >= remote[1] || remote[1] >= remote[2] {
		t.Errorf("bytes of the sync layers do not grow with the participants: %v", remote)
	}
}
