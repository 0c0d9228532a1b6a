//go:build cgo

package llama

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"fedattn/fedkv"
)

// Rows in every type and with every flag are those of the reference codec, bit for bit, where the engine has not to
// rotate them: V always.
func TestTransformedRowsAreBitEqualToTheReferenceCodec(t *testing.T) {
	m := model(t)
	s := sampleRows(t, m, 23)
	elements := m.Shape().Layers[s.layer].V
	for base := fedkv.F16; base <= fedkv.NF3; base++ {
		for _, flags := range []fedkv.Type{0, fedkv.Centred, fedkv.Hadamard, fedkv.Centred | fedkv.Hadamard} {
			typ := base | flags
			if !typ.Valid() {
				continue
			}
			types := fedkv.WireTypes{K: fedkv.F16, V: typ}
			got, err := s.from.AppendRows(nil, s.layer, s.pos, types)
			must(t, err)
			if want := typ.AppendRows(nil, slices.Clone(s.v), elements); !bytes.Equal(got[s.kBytes:], want) {
				t.Errorf("%v: the engine and the reference codec disagree", typ)
			}
			// and back, into another context's cells
			to := publisher(t, m, s.prefix, len(s.pos))
			must(t, to.WriteRows(s.layer, s.pos, 0, types, got))
			back, err := to.AppendRows(nil, s.layer, s.pos, f16)
			must(t, err)
			want := make([]float32, len(s.v))
			must(t, typ.DecodeRows(want, elements, got[s.kBytes:]))
			half := fedkv.F16.AppendRows(nil, want, elements)
			if !bytes.Equal(back[s.kBytes:], half) {
				t.Errorf("%v: rows are not decoded as the reference codec does", typ)
			}
		}
	}
}

// Centred K is rotated to 0 and from there to its place, so that it is what rotating by the distance gives, and far
// better than the same bits without.
func TestCentredKeysKeepTheirPlace(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 40)
	from := contributor(t, m, prefix, own, len(prefix))
	const layer, shift = 3, 61
	elements := m.Shape().Layers[layer].K
	at := fedkv.Span(len(prefix)+shift, len(own))
	moved := func(types string) []float32 {
		wire, err := fedkv.ParseWireTypes(types)
		must(t, err)
		rows, err := from.AppendRows(nil, layer, fedkv.Span(len(prefix), len(own)), wire)
		must(t, err)
		to := publisher(t, m, prefix, shift+len(own))
		must(t, to.WriteRows(layer, at, shift, wire, rows))
		raw, err := to.AppendRows(nil, layer, at, f16)
		must(t, err)
		return floats(t, fedkv.F16, raw[:2*elements*len(own)], elements)
	}
	want := moved("f16/f16")
	lost := func(types string) float64 {
		var d, all float64
		for i, v := range moved(types) {
			d += math.Pow(float64(v-want[i]), 2)
			all += math.Pow(float64(want[i]), 2)
		}
		return math.Sqrt(d / all)
	}
	if d := lost("f16+c/f16"); d > 2e-3 {
		t.Errorf("centred float16 rows are off by %g", d)
	}
	plain, centred := lost("q4_0/f16"), lost("q4_0+c+h/f16")
	if !(centred < plain/2) {
		t.Errorf("q4_0+c+h is off by %g, q4_0 by %g", centred, plain)
	}
}

// Cells whose rows were not written do not exist for a layer, in the prefill and when the answer is decoded: the bits
// are those of a context without such cells.
func TestUnwrittenRowsAreNotAttendedTo(t *testing.T) {
	m := model(t)
	prefix, other, own := tokens(t, m, 1, 8), tokens(t, m, 2, 24), tokens(t, m, 3, 6)
	from := contributor(t, m, prefix, other, len(prefix))
	kept := []int32{0, 1, 5, 6, 7, 20, 23}

	run := func(sync string, reserve func(c *Context), write func(c *Context, layer int)) []float32 {
		layers := schedule(t, m, sync)
		c, err := m.NewContext(fedkv.CacheSpec{Sync: layers, LocalCells: 256, SyncCells: 256, MicroBatch: 128, Outputs: 1})
		must(t, err)
		defer c.Close()
		must(t, c.Eval(prefix, 0, 0, nil))
		reserve(c)
		must(t, c.SetNext(len(prefix)+len(other)))
		must(t, c.Eval(own, len(prefix)+len(other), 1, &Hook{Layers: layers, OnLayer: func(layer, _, _ int) (bool, error) {
			write(c, layer)
			return false, nil
		}}))
		logits, err := c.Logits(-1)
		must(t, err)
		// no hook while the answer is decoded
		for i := range 3 {
			must(t, c.Eval([]fedkv.Token{own[i]}, len(prefix)+len(other)+len(own)+i, 1, nil))
			more, err := c.Logits(-1)
			must(t, err)
			logits = append(logits, more...)
		}
		return logits
	}
	place := func(c *Context, layer int, rows []int32) {
		if len(rows) == 0 {
			return
		}
		var pos []int32
		for _, r := range rows {
			pos = append(pos, int32(len(prefix))+r)
		}
		b, err := from.AppendRows(nil, layer, pos, f16)
		must(t, err)
		must(t, c.WriteRows(layer, pos, 0, f16, b))
	}
	every := func(c *Context) { must(t, c.Reserve(len(prefix), len(other))) }
	only := func(c *Context) {
		for _, r := range kept {
			must(t, c.Reserve(len(prefix)+int(r), 1))
		}
	}
	whole := fedkv.Span(0, len(other))

	want := run("all", only, func(c *Context, layer int) { place(c, layer, kept) })
	if got := run("all", every, func(c *Context, layer int) { place(c, layer, kept) }); !equalBits(got, want) {
		t.Error("cells without rows change the result")
	}
	if got := run("all", every, func(c *Context, layer int) { place(c, layer, whole) }); equalBits(got, want) {
		t.Error("rows that were written make no difference: the test can show nothing")
	}
	// layers that differ: the same, whether a layer's rows are missing for lack of cells or were not written
	none := run("all", every, func(*Context, int) {})
	alone := run("all", func(*Context) {}, func(*Context, int) {})
	if !equalBits(none, alone) {
		t.Error("no rows at all are not the run without others")
	}
	sparse := map[string]func(layer int) []int32{
		"every second layer": func(layer int) []int32 { return whole[:len(whole)*(layer%2)] },
		"first layer only":   func(layer int) []int32 { return whole[:len(whole)*max(0, 1-layer)] },
		"other rows a layer": func(layer int) []int32 { return whole[layer%len(whole):] },
	}
	seen := map[string]string{}
	for name, rows := range sparse {
		got := run("all", every, func(c *Context, layer int) { place(c, layer, rows(layer)) })
		if equalBits(got, want) || equalBits(got, none) {
			t.Errorf("%s: no difference", name)
		}
		if again := run("all", every, func(c *Context, layer int) { place(c, layer, rows(layer)) }); !equalBits(got, again) {
			t.Errorf("%s: other bits the second time", name)
		}
		seen[fmt.Sprint(got[:8])] = name
	}
	if len(seen) != len(sparse) {
		t.Errorf("%d of %d patterns differ", len(seen), len(sparse))
	}
	// a layer whose rows are absent is a local layer
	local := run("1-", every, func(c *Context, layer int) { place(c, layer, whole) })
	if got := run("all", every, func(c *Context, layer int) { place(c, layer, whole[:len(whole)*min(1, layer)]) }); !equalBits(got, local) {
		t.Error("a layer without its rows is not a local layer")
	}
}

// Own rows that are hidden at local layers are as if their tokens had never been there, for later tokens of the same and
// of other micro-batches; for their own tokens, and at sync layers, nothing changes.
func TestHiddenOwnRowsAreNotAttendedTo(t *testing.T) {
	m := model(t)
	prefix, own := tokens(t, m, 1, 8), tokens(t, m, 2, 12)
	const hidden = 5 // of the first own tokens
	at := len(prefix)
	keep := make([]bool, len(own))
	for i := range keep {
		keep[i] = i >= hidden
	}
	// run evaluates the first tokens, if they are there at all, and then the others, which go on decoding
	run := func(sync string, there bool, hide func(c *Context)) (first, later []float32) {
		c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, sync), LocalCells: 256, SyncCells: 256, MicroBatch: 128, Outputs: 12})
		must(t, err)
		defer c.Close()
		must(t, c.Eval(prefix, 0, 0, nil))
		hide(c)
		logits := func(n int) (out []float32) {
			for i := range n {
				row, err := c.Logits(i)
				must(t, err)
				out = append(out, row...)
			}
			return out
		}
		if there {
			must(t, c.Eval(own[:hidden], at, hidden, nil))
			first = logits(hidden)
		} else {
			must(t, c.SetNext(at+hidden))
		}
		must(t, c.Eval(own[hidden:], at+hidden, len(own)-hidden, nil))
		later = logits(len(own) - hidden)
		must(t, c.Eval(own[:1], at+len(own), 1, nil))
		return first, append(later, logits(1)...)
	}
	hide := func(layers string) func(c *Context) {
		return func(c *Context) {
			for _, l := range schedule(t, m, layers).Layers() {
				must(t, c.HideRows(l, at, keep))
			}
		}
	}
	nothing := func(*Context) {}
	_, without := run("none", false, nothing)
	_, all := run("none", true, nothing)
	if _, got := run("none", true, hide("all")); !equalBits(got, without) {
		t.Error("hidden rows are attended to")
	}
	if equalBits(all, without) {
		t.Error("the rows make no difference: the test can show nothing")
	}
	// at two layers only, and there differently
	_, two := run("none", true, hide("3,7"))
	if equalBits(two, all) || equalBits(two, without) {
		t.Error("hiding at two layers is hiding at none, or at all")
	}
	if _, got := run("3,7", true, hide("0-2,4-6,8-")); equalBits(got, without) || equalBits(got, all) {
		t.Error("two sync layers make no difference")
	}

	// one micro-batch: a hidden token sees itself and the prefix, as if it stood alone
	lone := make([]bool, len(own))
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "none"), LocalCells: 256, SyncCells: 256, MicroBatch: 128, Outputs: 12})
	must(t, err)
	defer c.Close()
	must(t, c.Eval(prefix, 0, 0, nil))
	for l := range m.Layers() {
		must(t, c.HideRows(l, at, lone))
	}
	must(t, c.Eval(own, at, len(own), nil))
	together := make([][]float32, len(own))
	for i := range own {
		together[i], err = c.Logits(i)
		must(t, err)
	}
	for _, i := range []int{0, 4, 11} {
		alone, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "none"), LocalCells: 256, SyncCells: 256, MicroBatch: 128, Outputs: 1})
		must(t, err)
		must(t, alone.Eval(prefix, 0, 0, nil))
		if i > 0 {
			must(t, alone.SetNext(at+i))
		}
		must(t, alone.Eval(own[i:i+1], at+i, 1, nil))
		want, err := alone.Logits(0)
		must(t, err)
		must(t, alone.Close())
		if d := maxDiff(together[i], want); !(d < 0.25) { // one token and twelve take other kernels
			t.Errorf("token %d: max |Δ logit| = %g from a token alone", i, d)
		}
	}
	// what has no place is refused
	for name, err := range map[string]error{
		"no such layer":     c.HideRows(m.Layers(), at, lone),
		"more than cells":   c.HideRows(0, at, make([]bool, 257)),
		"negative position": c.HideRows(0, -1, lone),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	sync := publisher(t, m, prefix, 4)
	if err := sync.HideRows(0, at, lone); err == nil {
		t.Error("rows of a sync layer are hidden")
	}
}

func equalBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// What is absent is part of a context's state.
func TestStateKeepsWhatIsAbsent(t *testing.T) {
	m := model(t)
	prefix, other, own := tokens(t, m, 1, 8), tokens(t, m, 2, 16), tokens(t, m, 3, 4)
	from := contributor(t, m, prefix, other, len(prefix))
	c := publisher(t, m, prefix, len(other))
	for layer := range m.Layers() {
		pos := fedkv.Span(len(prefix), len(other))[layer%3 : 9]
		rows, err := from.AppendRows(nil, layer, pos, f16)
		must(t, err)
		must(t, c.WriteRows(layer, pos, 0, f16, rows))
	}
	must(t, c.SetNext(len(prefix)+len(other)))
	state, err := c.State()
	must(t, err)
	answer := func(c *Context) []float32 {
		must(t, c.Eval(own, len(prefix)+len(other), 1, nil))
		logits, err := c.Logits(-1)
		must(t, err)
		return logits
	}
	want := answer(c)
	restored, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "all"), LocalCells: 256, SyncCells: 512, MicroBatch: 128, Outputs: 1})
	must(t, err)
	defer restored.Close()
	must(t, restored.SetState(state))
	if !equalBits(answer(restored), want) {
		t.Error("the restored context attends to other rows")
	}
}
