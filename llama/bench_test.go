//go:build cgo

package llama

import (
	"math/rand/v2"
	"strings"
	"testing"

	"fedattn/fedkv"
)

const benchTokens = 512

// benchPrefill evaluates a segment after a short prefix and reports tokens per second.
func benchPrefill(b *testing.B, open func(m *Model) *Context, hook func(m *Model, c *Context) *Hook) {
	m := model(b)
	prefix, own := tokens(b, m, 1, 16), tokens(b, m, 2, benchTokens)
	c := open(m)
	defer c.Close()
	must(b, c.Eval(prefix, 0, 0, nil))
	for b.Loop() {
		must(b, c.Eval(own, len(prefix), 0, hook(m, c)))
		b.StopTimer()
		must(b, c.Truncate(len(prefix)))
		b.StartTimer()
	}
	b.ReportMetric(float64(benchTokens*b.N)/b.Elapsed().Seconds(), "tok/s")
}

func noHook(*Model, *Context) *Hook { return nil }

// BenchmarkPrefillPlain is llama.cpp's own context.
func BenchmarkPrefillPlain(b *testing.B) {
	benchPrefill(b, func(m *Model) *Context {
		c, err := m.NewPlainContext(benchTokens+16, benchTokens, 1)
		must(b, err)
		return c
	}, noHook)
}

func fedContext(b *testing.B, m *Model, sync string) *Context {
	c, err := m.NewContext(fedkv.CacheSpec{
		Sync: schedule(b, m, sync), LocalCells: benchTokens + 16, SyncCells: benchTokens + 16, MicroBatch: benchTokens, Outputs: 1,
	})
	must(b, err)
	return c
}

// BenchmarkPrefillFederated is a publisher's context in gather: two caches, no hook.
func BenchmarkPrefillFederated(b *testing.B) {
	benchPrefill(b, func(m *Model) *Context { return fedContext(b, m, "all") }, noHook)
}

// BenchmarkPrefillContributor takes every layer's rows out of the cache on the way, as a contributor does, and unlike
// one goes on to the end of the last layer.
func BenchmarkPrefillContributor(b *testing.B) {
	types := fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}
	benchPrefill(b, func(m *Model) *Context { return fedContext(b, m, "none") }, func(m *Model, c *Context) *Hook {
		var rows []byte
		return &Hook{Layers: schedule(b, m, "all"), OnLayer: func(layer, first, n int) (bool, error) {
			var err error
			rows, err = c.AppendRows(rows[:0], layer, fedkv.Span(first, n), types)
			return false, err
		}}
	})
}

// benchDecode evaluates one token after the other behind a short prefix.
func benchDecode(b *testing.B, open func(m *Model) *Context) {
	const depth = 64
	m := model(b)
	c := open(m)
	defer c.Close()
	all := tokens(b, m, 1, benchTokens)
	must(b, c.Eval(all[:depth], 0, 0, nil))
	at := depth
	for b.Loop() {
		if at == len(all) {
			must(b, c.Truncate(depth))
			at = depth
		}
		must(b, c.Eval(all[at:at+1], at, 1, nil))
		at++
	}
}

// BenchmarkDecodePlain is llama.cpp's own context.
func BenchmarkDecodePlain(b *testing.B) {
	benchDecode(b, func(m *Model) *Context {
		c, err := m.NewPlainContext(benchTokens, benchTokens, 1)
		must(b, err)
		return c
	})
}

// BenchmarkDecodeFederated is a publisher's context.
func BenchmarkDecodeFederated(b *testing.B) {
	benchDecode(b, func(m *Model) *Context { return fedContext(b, m, "all") })
}

// rowTypes are what the row benchmarks run over: every format, and the wires of the presets.
var rowTypes = []string{"f16/f16", "q8_0/q8_0", "q8_0/q4_0", "q5_1/q4_1", "q4_0+c+h/nf3+h", "nf3+c+h/nf3+h"}

// rowsContext has benchTokens remote cells after a prefix, filled with rows like a model's.
func rowsContext(b *testing.B, m *Model) (c *Context, pos []int32, rawBytes int) {
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(b, m, "all"), LocalCells: 64, SyncCells: 1024, MicroBatch: 64, Outputs: 1})
	must(b, err)
	prefix := tokens(b, m, 1, 16)
	must(b, c.Eval(prefix, 0, 0, nil))
	must(b, c.Reserve(len(prefix), benchTokens))
	pos = fedkv.Span(len(prefix), benchTokens)
	shape := m.Shape().Layers[0]
	random := rand.New(rand.NewPCG(1, 2))
	rows := make([]float32, benchTokens*(shape.K+shape.V))
	for i := range rows {
		rows[i] = float32(random.NormFloat64())
	}
	raw := fedkv.F16.AppendRows(nil, rows, shape.K)
	must(b, c.WriteRows(0, pos, 0, f16, raw))
	return c, pos, len(raw)
}

// benchRows measures something that is done with a layer's rows, for each of the wire types. A byte is one of f16 rows, K
// and V, whatever the wire makes of them.
func benchRows(b *testing.B, begin func(b *testing.B, c *Context, pos []int32, wire fedkv.WireTypes) (once func())) {
	c, pos, raw := rowsContext(b, model(b))
	defer c.Close()
	for _, types := range rowTypes {
		b.Run(strings.ReplaceAll(types, "/", ","), func(b *testing.B) {
			wire, err := fedkv.ParseWireTypes(types)
			must(b, err)
			once := begin(b, c, pos, wire)
			b.SetBytes(int64(raw))
			b.ReportAllocs()
			for b.Loop() {
				once()
			}
		})
	}
}

// BenchmarkTakeRows takes a layer's rows out of the cache in wire types.
func BenchmarkTakeRows(b *testing.B) {
	benchRows(b, func(b *testing.B, c *Context, pos []int32, wire fedkv.WireTypes) func() {
		var rows []byte
		var err error
		return func() {
			rows, err = c.AppendRows(rows[:0], 0, pos, wire)
			must(b, err)
		}
	})
}

// BenchmarkPlaceRows places a layer's rows 100 positions further, as a publisher does.
func BenchmarkPlaceRows(b *testing.B) {
	benchRows(b, func(b *testing.B, c *Context, pos []int32, wire fedkv.WireTypes) func() {
		rows, err := c.AppendRows(nil, 0, pos, wire)
		must(b, err)
		return func() { must(b, c.WriteRows(0, pos, 100, wire, rows)) }
	})
}
