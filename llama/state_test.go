//go:build cgo

package llama

import (
	"bytes"
	"testing"

	"fedattn/fedkv"
)

// federated is a context in mid-session: prefix, remote rows at the sync layers, own tokens.
func federated(t *testing.T, m *Model, sync string) (c *Context, next int) {
	t.Helper()
	prefix, other, own := tokens(t, m, 1, 8), tokens(t, m, 2, 20), tokens(t, m, 3, 12)
	c = empty(t, m, sync)
	must(t, c.Eval(prefix, 0, 0, nil))
	must(t, c.Reserve(len(prefix), len(other)))
	from := contributor(t, m, prefix, other, len(prefix))
	for _, layer := range schedule(t, m, sync).Layers() {
		rows, err := from.AppendRows(nil, layer, fedkv.Span(len(prefix), len(other)), f16)
		must(t, err)
		must(t, c.WriteRows(layer, fedkv.Span(len(prefix), len(other)), 0, f16, rows))
	}
	next = len(prefix) + len(other)
	must(t, c.SetNext(next))
	must(t, c.Eval(own, next, 0, nil))
	return c, next + len(own)
}

func empty(t *testing.T, m *Model, sync string) *Context {
	t.Helper()
	c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, sync), LocalCells: 256, SyncCells: 256, MicroBatch: 64, Outputs: 1})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func nextLogits(t *testing.T, c *Context, token fedkv.Token, pos int) []float32 {
	t.Helper()
	must(t, c.Eval([]fedkv.Token{token}, pos, 1, nil))
	logits, err := c.Logits(-1)
	must(t, err)
	return logits
}

// Both caches travel: a restored context goes on exactly as the original does.
func TestStateHoldsBothCaches(t *testing.T) {
	m := model(t)
	for _, sync := range []string{"all", "H=3"} {
		c, next := federated(t, m, sync)
		state, err := c.State()
		must(t, err)
		restored := empty(t, m, sync)
		must(t, restored.SetState(state))
		want, got := nextLogits(t, c, 42, next), nextLogits(t, restored, 42, next)
		if d := maxDiff(got, want); d != 0 {
			t.Errorf("sync layers %s: max |Δ logit| = %g after a restore", sync, d)
		}
		a, err := c.Memory()
		must(t, err)
		b, err := restored.Memory()
		must(t, err)
		if a != b {
			t.Errorf("sync layers %s: memory %+v, restored %+v", sync, a, b)
		}
	}
}

func TestAStateThatDoesNotFitIsRefusedAndLeavesNothing(t *testing.T) {
	m := model(t)
	c, _ := federated(t, m, "H=3")
	state, err := c.State()
	must(t, err)
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": state[:len(state)/2], "one byte short": state[:len(state)-1], "header only": state[:64],
	} {
		to := empty(t, m, "H=3")
		if err := to.SetState(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
		if mem, err := to.Memory(); err != nil || mem.LocalUsed != 0 || mem.SyncUsed != 0 {
			t.Errorf("%s: %d local and %d sync cells in use (%v)", name, mem.LocalUsed, mem.SyncUsed, err)
		}
	}
	if err := empty(t, m, "all").SetState(state); err == nil {
		t.Error("a state of other sync layers was accepted")
	}
}

// Truncating forgets both caches' rows from a position on: what follows is as if they had never been there.
func TestTruncatedContextGoesOnAsIfTheRestHadNeverBeen(t *testing.T) {
	m := model(t)
	c, next := federated(t, m, "H=3")
	want := nextLogits(t, c, 42, next)
	must(t, c.Eval(tokens(t, m, 7, 10), next+1, 0, nil))
	must(t, c.Truncate(next))
	if d := maxDiff(nextLogits(t, c, 42, next), want); d != 0 {
		t.Errorf("max |Δ logit| = %g", d)
	}
}

func TestClearedContextIsEmptyAndErased(t *testing.T) {
	m := model(t)
	c, _ := federated(t, m, "H=3")
	must(t, c.Clear())
	mem, err := c.Memory()
	must(t, err)
	if mem.LocalUsed != 0 || mem.SyncUsed != 0 {
		t.Errorf("%d local and %d sync cells in use", mem.LocalUsed, mem.SyncUsed)
	}
	// cells reserved anew show what their memory holds
	must(t, c.Eval(tokens(t, m, 1, 1), 0, 0, nil))
	must(t, c.Reserve(1, 100))
	rows, err := c.AppendRows(nil, 2, fedkv.Span(1, 100), f16)
	must(t, err)
	if !bytes.Equal(rows, make([]byte, len(rows))) {
		t.Error("cleared rows are still there")
	}
}
