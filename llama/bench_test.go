//go:build cgo

package llama

import (
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

// BenchmarkPlaceRows writes a layer's rows, rotated, as a publisher does.
func BenchmarkPlaceRows(b *testing.B) {
	m := model(b)
	types := fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}
	prefix := tokens(b, m, 1, 16)
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(b, m, "all"), LocalCells: 64, SyncCells: 1024, MicroBatch: 64, Outputs: 1})
	must(b, err)
	defer c.Close()
	must(b, c.Eval(prefix, 0, 0, nil))
	must(b, c.Reserve(len(prefix), benchTokens))
	k, v, err := m.Shape().Layers[0].BlockSize(types, benchTokens)
	must(b, err)
	rows := make([]byte, k+v)
	b.SetBytes(int64(k + v))
	for b.Loop() {
		must(b, c.WriteRows(0, fedkv.Span(len(prefix), benchTokens), 100, types, rows))
	}
}
