//go:build cgo

package llama

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// publisher is a context with a prefix evaluated, all layers sync layers, and n remote cells after the prefix.
func publisher(t *testing.T, m *Model, prefix []fedkv.Token, n int) *Context {
	t.Helper()
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "all"), LocalCells: 256, SyncCells: 512, MicroBatch: 128, Outputs: 1})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.Eval(prefix, 0, 0, nil))
	must(t, c.Reserve(len(prefix), n))
	return c
}

// contributor is a context without sync layers that evaluated prefix and own at positions from pos.
func contributor(t *testing.T, m *Model, prefix, own []fedkv.Token, pos int) *Context {
	t.Helper()
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "none"), LocalCells: 256, SyncCells: 256, MicroBatch: 128, Outputs: 1})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.Eval(prefix, 0, 0, nil))
	if pos != len(prefix) {
		must(t, c.SetNext(pos))
	}
	must(t, c.Eval(own, pos, 0, nil))
	return c
}

func floats(t *testing.T, typ fedkv.Type, b []byte, elements int) []float32 {
	t.Helper()
	size, err := typ.RowSize(elements)
	must(t, err)
	var out []float32
	for len(b) > 0 {
		row := make([]float32, elements)
		must(t, typ.DecodeRow(row, b[:size]))
		out, b = append(out, row...), b[size:]
	}
	return out
}

// sample is a layer's rows in a contributor's cache.
type sample struct {
	from   *Context
	prefix []fedkv.Token
	layer  int
	pos    []int32
	k, v   []float32 // [rows][elements]
	kBytes int       // of the K rows as float16
}

// sampleRows evaluates n tokens right behind a prefix.
func sampleRows(t *testing.T, m *Model, n int) sample {
	t.Helper()
	s := sample{prefix: tokens(t, m, 1, 8), layer: 7}
	s.from, s.pos = contributor(t, m, s.prefix, tokens(t, m, 2, n), len(s.prefix)), fedkv.Span(len(s.prefix), n)
	shape := m.Shape().Layers[s.layer]
	raw, err := s.from.AppendRows(nil, s.layer, s.pos, f16)
	must(t, err)
	s.kBytes, _, err = shape.BlockSize(f16, n)
	must(t, err)
	s.k, s.v = floats(t, fedkv.F16, raw[:s.kBytes], shape.K), floats(t, fedkv.F16, raw[s.kBytes:], shape.V)
	return s
}

// The rows that ggml quantises are those of the reference codec, bit for bit.
func TestRowsAreBitEqualToTheReferenceCodec(t *testing.T) {
	m := model(t)
	s := sampleRows(t, m, 20)
	shape := m.Shape().Layers[s.layer]
	for _, types := range []string{"f16/f16", "q8_0/q4_0", "q5_1/q4_1", "q4_0/q8_0"} {
		wire, err := fedkv.ParseWireTypes(types)
		must(t, err)
		got, err := s.from.AppendRows(nil, s.layer, s.pos, wire)
		must(t, err)
		want := wire.V.AppendRows(wire.K.AppendRows(nil, slices.Clone(s.k), shape.K), slices.Clone(s.v), shape.V)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: ggml and the reference codec disagree", types)
		}
	}
}

// What is written is what is read back, and rows of other positions stay as they were.
func TestWrittenRowsAreReadBack(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20)
	from, to := contributor(t, m, prefix, own, len(prefix)), publisher(t, m, prefix, len(own))
	for layer := range m.Layers() {
		before, err := to.AppendRows(nil, layer, fedkv.Span(0, len(prefix)), f16)
		must(t, err)
		rows, err := from.AppendRows(nil, layer, fedkv.Span(len(prefix), len(own)), f16)
		must(t, err)
		must(t, to.WriteRows(layer, fedkv.Span(len(prefix), len(own)), 0, f16, rows))
		back, err := to.AppendRows(nil, layer, fedkv.Span(len(prefix), len(own)), f16)
		must(t, err)
		if !bytes.Equal(back, rows) {
			t.Fatalf("layer %d: rows changed on the way", layer)
		}
		after, err := to.AppendRows(nil, layer, fedkv.Span(0, len(prefix)), f16)
		must(t, err)
		if !bytes.Equal(before, after) {
			t.Fatalf("layer %d: the prefix's rows changed", layer)
		}
	}
}

// At layer 0 a row depends on its token and position only, so a row rotated to a position must be the row evaluated
// there, but for rounding to f16 twice.
func TestRotatedRowsAreTheRowsEvaluatedInPlace(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20)
	for _, shift := range []int{1, 57, 200} {
		pos := len(prefix) + shift
		canonical := contributor(t, m, prefix, own, len(prefix))
		inPlace := contributor(t, m, prefix, own, pos)
		rows, err := canonical.AppendRows(nil, 0, fedkv.Span(len(prefix), len(own)), f16)
		must(t, err)
		want, err := inPlace.AppendRows(nil, 0, fedkv.Span(pos, len(own)), f16)
		must(t, err)

		to := publisher(t, m, prefix, 300)
		must(t, to.WriteRows(0, fedkv.Span(pos, len(own)), shift, f16, rows))
		got, err := to.AppendRows(nil, 0, fedkv.Span(pos, len(own)), f16)
		must(t, err)
		k, _, err := m.Shape().Layers[0].BlockSize(f16, len(own))
		must(t, err)
		if !bytes.Equal(got[k:], want[k:]) {
			t.Errorf("shift %d: V rows changed", shift)
		}
		g, w := floats(t, fedkv.F16, got[:k], m.Shape().Layers[0].K), floats(t, fedkv.F16, want[:k], m.Shape().Layers[0].K)
		if d := maxDiff(g, w); d > largest(w)*0x1p-9 {
			t.Errorf("shift %d: max |Δ K| = %g with |K| up to %g", shift, d, largest(w))
		}
	}
}

func TestRefusedRowsChangeNothing(t *testing.T) {
	m := model(t)
	prefix := tokens(t, m, 1, 8)
	c := publisher(t, m, prefix, 4)
	k, v, err := m.Shape().Layers[3].BlockSize(f16, 4)
	must(t, err)
	good := make([]byte, k+v)
	nan, inf := bytes.Clone(good), bytes.Clone(good)
	binary.LittleEndian.PutUint16(nan[k+v-2:], 0x7e00)
	binary.LittleEndian.PutUint16(inf[6:], 0x7c00)
	before, err := c.AppendRows(nil, 3, fedkv.Span(len(prefix), 4), f16)
	must(t, err)
	for name, call := range map[string]func() error{
		"NaN in V":           func() error { return c.WriteRows(3, fedkv.Span(len(prefix), 4), 0, f16, nan) },
		"infinite K":         func() error { return c.WriteRows(3, fedkv.Span(len(prefix), 4), 0, f16, inf) },
		"one byte short":     func() error { return c.WriteRows(3, fedkv.Span(len(prefix), 4), 0, f16, good[1:]) },
		"no rows":            func() error { return c.WriteRows(3, fedkv.Span(len(prefix), 0), 0, f16, nil) },
		"no such layer":      func() error { return c.WriteRows(30, fedkv.Span(len(prefix), 4), 0, f16, good) },
		"negative layer":     func() error { return c.WriteRows(-1, fedkv.Span(len(prefix), 4), 0, f16, good) },
		"no such cell":       func() error { return c.WriteRows(3, fedkv.Span(len(prefix)+2, 4), 0, f16, good) },
		"unknown type":       func() error { return c.WriteRows(3, fedkv.Span(len(prefix), 4), 0, fedkv.WireTypes{K: 99, V: 1}, good) },
		"reserved twice":     func() error { return c.Reserve(len(prefix)+1, 1) },
		"more than there is": func() error { return c.Reserve(100, 600) },
		"released twice":     func() error { return c.Release(100, 2) },
		"masked outside":     func() error { return c.Mask(len(prefix), 4) },
		"next in the past":   func() error { return c.SetNext(2) },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	after, err := c.AppendRows(nil, 3, fedkv.Span(len(prefix), 4), f16)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("a refused call changed rows")
	}
}

// Where the scales alone cannot tell whether all values fit into f16, the values do: rows just below the edge are placed, a
// row beyond it is refused, also one that only the rotation takes there, and then nothing is placed.
func TestRowsAtTheEdgeOfHalfPrecision(t *testing.T) {
	m := model(t)
	prefix := tokens(t, m, 1, 8)
	const layer, rows, shift = 3, 40, 7
	shape := m.Shape().Layers[layer]
	at := fedkv.Span(len(prefix), rows)
	q8 := fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q8_0}
	block := func(k, v float32) []byte { // of one value each, in the last row only
		values := make([]float32, rows*shape.K)
		for i := range shape.K {
			values[len(values)-1-i] = k
		}
		b := fedkv.Q8_0.AppendRows(nil, values, shape.K)
		for i := range shape.V {
			values[len(values)-1-i] = v
		}
		return fedkv.Q8_0.AppendRows(b, values, shape.V)
	}
	for name, c := range map[string]struct {
		k, v  float32
		shift int
		taken bool
	}{
		"at the edge":      {65400, -65400, 0, true},
		"K beyond":         {65600, 1, 0, false},
		"V beyond":         {1, -65600, 0, false},
		"K rotated":        {45000, 1, shift, true},
		"K rotated beyond": {65400, 1, shift, false},
	} {
		to := publisher(t, m, prefix, rows)
		before, err := to.AppendRows(nil, layer, at, f16)
		must(t, err)
		err = to.WriteRows(layer, at, c.shift, q8, block(c.k, c.v))
		if (err == nil) != c.taken {
			t.Errorf("%s: error %v", name, err)
		}
		after, err := to.AppendRows(nil, layer, at, f16)
		must(t, err)
		if bytes.Equal(before, after) == c.taken {
			t.Errorf("%s: placed %t", name, !c.taken)
		}
	}
}

func TestReleasedCellsAreErasedAndFree(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20)
	from, to := contributor(t, m, prefix, own, len(prefix)), publisher(t, m, prefix, len(own))
	for layer := range m.Layers() {
		rows, err := from.AppendRows(nil, layer, fedkv.Span(len(prefix), len(own)), f16)
		must(t, err)
		must(t, to.WriteRows(layer, fedkv.Span(len(prefix), len(own)), 0, f16, rows))
	}
	must(t, to.Release(len(prefix), len(own)))
	if mem, err := to.Memory(); err != nil || mem.SyncUsed != len(prefix) {
		t.Errorf("%d cells in use after release, want %d (%v)", mem.SyncUsed, len(prefix), err)
	}
	must(t, to.Reserve(len(prefix), len(own)))
	rows, err := to.AppendRows(nil, 11, fedkv.Span(len(prefix), len(own)), f16)
	must(t, err)
	if !bytes.Equal(rows, make([]byte, len(rows))) {
		t.Error("released rows are still there")
	}
}

// Rows of a masked participant count for nothing from that layer on: whatever they are, the logits are the same.
func TestMaskedCellsAreNotAttendedTo(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20)
	run := func(mask bool, scale float32) []float32 {
		c := publisher(t, m, prefix, 16)
		must(t, c.SetNext(len(prefix)+16))
		hook := &Hook{Layers: schedule(t, m, "all"), OnLayer: func(layer, _, _ int) (bool, error) {
			if layer == 0 && mask {
				return false, c.Mask(len(prefix), 16)
			}
			if layer > 0 && mask {
				return false, nil
			}
			row := make([]float32, m.Shape().Layers[layer].K)
			for i := range row {
				row[i] = scale * float32(i%7)
			}
			var k []byte
			for range 16 {
				k = fedkv.F16.AppendRow(k, row)
			}
			return false, c.WriteRows(layer, fedkv.Span(len(prefix), 16), 0, f16, append(k, k...))
		}}
		must(t, c.Eval(own, len(prefix)+16, 1, hook))
		logits, err := c.Logits(-1)
		must(t, err)
		return logits
	}
	if d := maxDiff(run(false, 0.1), run(false, 0.5)); d == 0 {
		t.Fatal("unmasked rows are not attended to: the test cannot fail")
	}
	absent := func() []float32 { // the same positions, nothing ever reserved
		c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "all"), LocalCells: 256, SyncCells: 512, MicroBatch: 128, Outputs: 1})
		must(t, err)
		defer c.Close()
		must(t, c.Eval(prefix, 0, 0, nil))
		must(t, c.SetNext(len(prefix)+16))
		must(t, c.Eval(own, len(prefix)+16, 1, nil))
		logits, err := c.Logits(-1)
		must(t, err)
		return logits
	}()
	if d := maxDiff(run(true, 0.5), absent); d > 1e-3 {
		t.Errorf("max |Δ logit| = %g between masked and absent", d)
	}
}

func TestHookErrorsAndPanicsComeBack(t *testing.T) {
	m := model(t)
	c := publisher(t, m, tokens(t, m, 1, 8), 4)
	must(t, c.SetNext(12))
	own := tokens(t, m, 2, 4)
	broken := errors.New("broken")
	for name, on := range map[string]func(int, int, int) (bool, error){
		"broken":       func(int, int, int) (bool, error) { return false, broken },
		"panic":        func(int, int, int) (bool, error) { panic("boom") },
		"inside":       func(int, int, int) (bool, error) { return false, c.Eval(own, 20, 0, nil) },
		"Close inside": func(int, int, int) (bool, error) { return false, c.Close() },
	} {
		err := c.Eval(own, 12, 1, &Hook{Layers: schedule(t, m, "0,5"), OnLayer: on})
		if err == nil || !strings.Contains(err.Error(), strings.Fields(name)[0]) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := c.Logits(-1); err == nil {
			t.Errorf("%s: logits after a stopped evaluation", name)
		}
		must(t, c.Truncate(12))
	}
}

func TestUseAfterCloseIsAnError(t *testing.T) {
	m := model(t)
	c := publisher(t, m, tokens(t, m, 1, 8), 4)
	s, err := m.NewSampler(Sampling{})
	must(t, err)
	must(t, s.Close())
	must(t, s.Close())
	if _, err := s.Next(c, -1); !errors.Is(err, ErrClosed) {
		t.Errorf("sampler: %v", err)
	}
	must(t, c.Close())
	must(t, c.Close())
	c.Interrupt()
	if err := c.Eval(tokens(t, m, 1, 1), 8, 0, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Eval: %v", err)
	}
	if _, err := c.Memory(); !errors.Is(err, ErrClosed) {
		t.Errorf("Memory: %v", err)
	}
	if err := c.Reserve(100, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Reserve: %v", err)
	}
	if _, err := c.AppendRows(nil, 0, fedkv.Span(0, 1), f16); !errors.Is(err, ErrClosed) {
		t.Errorf("AppendRows: %v", err)
	}
}
