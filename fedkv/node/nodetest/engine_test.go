package nodetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

var (
	f16   = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	mixed = fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}
)

func schedules(t *testing.T, spec string) fedkv.Schedules {
	t.Helper()
	s, err := fedkv.ParseSchedules(spec, NewEngine().Model.Layers)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plain(t *testing.T, e *Engine, microBatch int, tokens []fedkv.Token) [][]float32 {
	t.Helper()
	c, err := e.OpenPlain(len(tokens), microBatch, len(tokens))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Eval(tokens, 0, len(tokens), nil); err != nil {
		t.Fatal(err)
	}
	return logits(t, c, len(tokens))
}

func logits(t *testing.T, c node.Cache, n int) (out [][]float32) {
	t.Helper()
	for i := range n {
		row, err := c.Logits(i)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
	return out
}

func equal(a, b [][]float32) bool {
	return slices.EqualFunc(a, b, func(x, y []float32) bool { return slices.Equal(x, y) })
}

var text = []fedkv.Token{7, 3, 9, 1, 60, 22, 8, 41, 5, 5, 13}

func TestEngineIsTheTransformerUpToFloat16(t *testing.T) {
	e := NewEngine()
	want := e.Model.Centralised(text)
	for i, row := range plain(t, e, len(text), text) {
		for j, v := range row {
			if d := math.Abs(float64(v) - want[i][j]); d > 0.02 {
				t.Fatalf("token %d, logit %d: %g, float64 gives %g", i, j, v, want[i][j])
			}
		}
	}
}

func TestMicroBatchesDoNotMatter(t *testing.T) {
	e := NewEngine()
	want := plain(t, e, len(text), text)
	for n := range len(text) {
		if !equal(plain(t, e, n+1, text), want) {
			t.Errorf("micro-batches of %d differ", n+1)
		}
	}
}

func TestOracleOfOneParticipantIsOneProcess(t *testing.T) {
	e := NewEngine()
	for _, spec := range []string{"gather", "lockstep", "none", "H=3"} {
		o := Oracle{Engine: e, Prefix: text[:3], Segments: [][]fedkv.Token{text[3:]}, Schedules: schedules(t, spec), Wire: fedkv.Uniform(mixed, 6)}
		if !equal(o.Logits(), plain(t, e, 4, text)[3:]) {
			t.Errorf("%s differs", spec)
		}
	}
}

func TestOracleOfLosslessLockstepIsOneProcess(t *testing.T) {
	e := NewEngine()
	o := Oracle{
		Engine: e, Prefix: text[:2], Segments: [][]fedkv.Token{text[2:5], text[5:6], text[6:]},
		Schedules: schedules(t, "lockstep"), Wire: fedkv.Uniform(f16, 6), Positions: fedkv.InPlace,
	}
	want := plain(t, e, 4, text)[6:]
	if !equal(o.Logits(), want) {
		t.Error("differs")
	}
	o.Wire = fedkv.Uniform(mixed, 6)
	if equal(o.Logits(), want) {
		t.Error("lossy rows make no difference")
	}
}

func TestOracleIsTheMaskedTransformerUpToFloat16(t *testing.T) {
	e := NewEngine()
	for _, spec := range []string{"gather", "H=2", "contributors=0-2;publisher=1-"} {
		o := Oracle{
			Engine: e, Prefix: text[:2], Segments: [][]fedkv.Token{text[2:5], text[5:8], text[8:]},
			Schedules: schedules(t, spec), Wire: fedkv.Uniform(f16, 6), Positions: fedkv.InPlace,
		}
		want := e.Model.Masked(text, o.layout(), o.Schedules, o.Local)[8:]
		for i, row := range o.Logits() {
			for j, v := range row {
				if d := math.Abs(float64(v) - want[i][j]); d > 0.02 {
					t.Fatalf("%s, token %d, logit %d: %g, float64 gives %g", spec, i, j, v, want[i][j])
				}
			}
		}
	}
}

// Two caches exchange rows by hand, as participants do.
func TestCachesExchangeRows(t *testing.T) {
	e := NewEngine()
	prefix, a, b := text[:2], text[2:6], text[6:]
	all := schedules(t, "lockstep").Publisher
	for _, types := range []fedkv.WireTypes{f16, mixed, {K: fedkv.Q5_1, V: fedkv.Q4_1}} {
		rows := make([][]byte, e.Model.Layers)
		none, _ := fedkv.NewSchedule(e.Model.Layers)
		from := open(t, e, fedkv.CacheSpec{Sync: none, LocalCells: 6, SyncCells: 6, MicroBatch: 4, Outputs: 1})
		must(t, from.Eval(prefix, 0, 0, nil))
		must(t, from.Eval(a, 2, 0, &node.Hook{Layers: all, OnLayer: func(layer, first, n int) (stop bool, err error) {
			rows[layer], err = from.AppendRows(nil, layer, fedkv.Span(first, n), types)
			return layer == e.Model.Layers-1, err
		}}))
		if _, err := from.Logits(-1); err == nil {
			t.Error("a pass that was stopped has logits")
		}

		to := open(t, e, fedkv.CacheSpec{Sync: all, LocalCells: 7, SyncCells: 11, MicroBatch: 5, Outputs: 5})
		must(t, to.Eval(prefix, 0, 0, nil))
		must(t, to.CanShift())
		must(t, to.Reserve(2, 4))
		must(t, to.SetNext(6))
		must(t, to.Eval(b, 6, len(b), &node.Hook{Layers: all, OnLayer: func(layer, _, _ int) (bool, error) {
			return false, to.WriteRows(layer, fedkv.Span(2, 4), 0, types, rows[layer])
		}}))
		o := Oracle{Engine: e, Prefix: prefix, Segments: [][]fedkv.Token{a, b}, Schedules: schedules(t, "gather"), Wire: fedkv.Uniform(types, 6)}
		if !equal(logits(t, to, len(b)), o.Logits()) {
			t.Errorf("%v differs", types)
		}
	}
}

// A remote cell is seen from the layer on at which its row was written, at that layer only.
func TestCellsWithoutRowsAreHidden(t *testing.T) {
	e := NewEngine()
	all := schedules(t, "lockstep").Publisher
	run := func(write map[int][]int32) [][]float32 {
		c := open(t, e, fedkv.CacheSpec{Sync: all, LocalCells: 6, SyncCells: 10, MicroBatch: 4, Outputs: 2})
		must(t, c.Eval(text[:2], 0, 0, nil))
		must(t, c.Reserve(2, 4))
		must(t, c.SetNext(6))
		must(t, c.Eval(text[6:8], 6, 2, &node.Hook{Layers: all, OnLayer: func(layer, _, _ int) (bool, error) {
			for _, pos := range write[layer] {
				row, err := c.AppendRows(nil, layer, fedkv.Span(int(pos)%2, 1), f16)
				must(t, err)
				if err := c.WriteRows(layer, []int32{pos}, 0, f16, row); err != nil {
					return false, err
				}
			}
			return false, nil
		}}))
		return logits(t, c, 2)
	}
	alone := func() [][]float32 {
		c := open(t, e, fedkv.CacheSpec{Sync: all, LocalCells: 6, SyncCells: 10, MicroBatch: 4, Outputs: 2})
		must(t, c.Eval(text[:2], 0, 0, nil))
		must(t, c.SetNext(6))
		must(t, c.Eval(text[6:8], 6, 2, nil))
		return logits(t, c, 2)
	}
	if !equal(run(nil), alone()) {
		t.Error("cells without rows are seen")
	}
	seen := map[string]bool{fmt.Sprint(run(nil)): true}
	for _, write := range []map[int][]int32{{0: {2}}, {3: {2}}, {3: {2, 5}}, {0: {2}, 3: {5}}} {
		if out := fmt.Sprint(run(write)); seen[out] {
			t.Errorf("rows %v make no difference", write)
		} else {
			seen[out] = true
		}
	}
}

func TestEngineHasTheWindowsOfItsModel(t *testing.T) {
	e := NewSlidingEngine()
	want := e.Model.Centralised(text)
	got := plain(t, e, 3, text)
	for i, row := range got {
		for j, v := range row {
			if d := math.Abs(float64(v) - want[i][j]); d > 0.02 {
				t.Fatalf("token %d, logit %d: %g, float64 gives %g", i, j, v, want[i][j])
			}
		}
	}
	if equal(got[:4], plain(t, NewEngine(), 3, text)[:4]) == false || equal(got[8:], plain(t, NewEngine(), 3, text)[8:]) {
		t.Error("the window of 4 tokens does not begin to matter at the fifth")
	}
	if e.Fingerprint().Shape == NewEngine().Fingerprint().Shape {
		t.Error("models with other windows have the same shape")
	}
}

// Centred K rows lie at position 0 on their way, wherever they come from and go to.
func TestCentredRowsHaveNoPosition(t *testing.T) {
	e := NewEngine()
	all := schedules(t, "lockstep").Publisher
	centred := fedkv.WireTypes{K: fedkv.F16 | fedkv.Centred, V: fedkv.F16}
	rows := func(at int, types fedkv.WireTypes) []byte {
		c := open(t, e, fedkv.CacheSpec{Sync: all, LocalCells: 4, SyncCells: 4, MicroBatch: 4, Outputs: 1})
		if at > 0 {
			must(t, c.SetNext(at))
		}
		must(t, c.Eval(text[:3], at, 0, nil))
		out, err := c.AppendRows(nil, 0, fedkv.Span(at, 3), types)
		must(t, err)
		return out
	}
	near, far := make([]float32, 3*64), make([]float32, 3*64)
	must(t, centred.K.DecodeRows(near, 64, rows(0, centred)[:2*64+3*2*64]))
	must(t, centred.K.DecodeRows(far, 64, rows(500, centred)[:2*64+3*2*64]))
	for i := range near {
		if d := math.Abs(float64(near[i] - far[i])); d > 0.02 {
			t.Fatalf("element %d is %g at position 0 and %g at 500", i, near[i], far[i])
		}
	}

	to := open(t, e, fedkv.CacheSpec{Sync: all, LocalCells: 4, SyncCells: 8, MicroBatch: 4, Outputs: 1})
	must(t, to.Eval(text[:1], 0, 0, nil))
	must(t, to.Reserve(20, 3))
	must(t, to.WriteRows(0, fedkv.Span(20, 3), 9, centred, rows(500, centred))) // the shift is of no account
	back, err := to.AppendRows(nil, 0, fedkv.Span(20, 3), f16)
	must(t, err)
	direct := make([]float32, 3*64)
	must(t, fedkv.F16.DecodeRows(direct, 64, rows(20, f16)[:3*2*64]))
	must(t, fedkv.F16.DecodeRows(near, 64, back[:3*2*64]))
	for i := range near {
		if d := math.Abs(float64(near[i] - direct[i])); d > 0.02 {
			t.Fatalf("element %d is placed as %g, evaluated there it is %g", i, near[i], direct[i])
		}
	}

	e.Rigid = true
	if _, err := to.AppendRows(nil, 0, fedkv.Span(20, 3), centred); err == nil {
		t.Error("a model that cannot rotate rows centres them")
	}
	if err := to.WriteRows(0, fedkv.Span(20, 3), 0, centred, rows(0, f16)); err == nil {
		t.Error("a model that cannot rotate rows takes centred ones")
	}
}

func open(t *testing.T, e *Engine, spec fedkv.CacheSpec) node.Cache {
	t.Helper()
	c, err := e.Open(spec)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCacheRefusesWhatLlamaRefuses(t *testing.T) {
	e := NewEngine()
	s := schedules(t, "contributors=none;publisher=1-")
	spec := fedkv.CacheSpec{Sync: s.Publisher, LocalCells: 6, SyncCells: 10, MicroBatch: 4, Outputs: 1}
	c := open(t, e, spec)
	refuses := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	refuses("a rotation before the first evaluation", c.CanShift())
	refuses("an empty evaluation", c.Eval(nil, 0, 0, nil))
	refuses("a gap", c.Eval(text[:2], 1, 0, nil))
	refuses("a token outside the vocabulary", c.Eval([]fedkv.Token{61}, 0, 0, nil))
	refuses("more outputs than the context keeps", c.Eval(text[:2], 0, 2, nil))
	refuses("more tokens than cells", c.Eval(text[:7], 0, 0, nil))
	must(t, c.Eval(text[:2], 0, 0, nil))
	refuses("logits that were not kept", func() error { _, err := c.Logits(-1); return err }())
	refuses("a cell twice", c.Reserve(1, 2))
	refuses("more cells than there are", c.Reserve(2, 9))
	refuses("a mask outside a hook", c.Mask(2, 1))
	must(t, c.Reserve(2, 4))
	refuses("an own token before remote ones", c.SetNext(5))
	must(t, c.SetNext(6))
	refuses("own tokens before their position", c.Eval(text[:1], 2, 0, nil))
	row, err := c.AppendRows(nil, 1, fedkv.Span(0, 1), f16)
	must(t, err)
	refuses("rows of a local layer", c.WriteRows(0, fedkv.Span(2, 1), 0, f16, row))
	refuses("rows without cells", c.WriteRows(1, fedkv.Span(6, 1), 0, f16, row))
	refuses("short rows", c.WriteRows(1, fedkv.Span(2, 1), 0, f16, row[1:]))
	refuses("rows of another type", c.WriteRows(1, fedkv.Span(2, 1), 0, mixed, row))
	bad := slices.Clone(row)
	bad[1] = 0x7c
	refuses("an infinity", c.WriteRows(1, fedkv.Span(2, 1), 0, f16, bad))
	must(t, c.WriteRows(1, fedkv.Span(2, 1), 3, f16, row))
	must(t, c.Eval(text[2:3], 6, 0, &node.Hook{Layers: s.Publisher, OnLayer: func(layer, _, _ int) (bool, error) {
		refuses("an evaluation in a hook", c.Eval(text[:1], 7, 0, nil))
		refuses("cells made in a hook", c.Reserve(8, 1))
		refuses("a close in a hook", c.Close())
		if layer == 1 {
			must(t, c.Mask(2, 4))
			refuses("a mask of own cells", c.Mask(0, 1))
			refuses("a mask twice", c.Mask(2, 4))
		}
		return false, nil
	}}))
	failure := errors.New("failure")
	if err := c.Eval(text[3:4], 7, 0, &node.Hook{Layers: s.Publisher, OnLayer: func(int, int, int) (bool, error) {
		return false, failure
	}}); err != failure {
		t.Errorf("Eval returns %v", err)
	}

	if n := e.OpenCaches(); n != 1 {
		t.Errorf("%d caches are open", n)
	}
	must(t, c.Close())
	must(t, c.Close())
	if err := c.Eval(text, 0, 0, nil); err != ErrClosed {
		t.Errorf("after Close Eval returns %v", err)
	}
	if n := e.OpenCaches(); n != 0 {
		t.Errorf("%d caches are open", n)
	}
	e.MostCells = 9
	if _, err := e.Open(spec); !errors.Is(err, fedkv.ErrMemory) {
		t.Errorf("without memory Open returns %v", err)
	}
}

func TestInterruptEndsAnEvaluation(t *testing.T) {
	e := NewEngine()
	e.LayerTime = time.Minute
	c, err := e.OpenPlain(4, 4, 1)
	must(t, err)
	defer c.Close()
	done := make(chan error)
	go func() { done <- c.Eval(text[:4], 0, 1, nil) }()
	for {
		select {
		case err := <-done:
			if err != ErrInterrupted {
				t.Errorf("Eval returns %v", err)
			}
			return
		case <-time.After(time.Millisecond):
			c.Interrupt()
		}
	}
}
