//go:build cgo

package llama

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fedattn/fedkv"
)

// A context for which there is no memory is refused with a sentence, again and again, and the model goes on as before. In a
// process of its own, whose address space is limited.
func TestContextWithoutMemory(t *testing.T) {
	if os.Getenv("FEDATTN_NO_MEMORY_CHILD") == "" {
		c := exec.Command(os.Args[0], "-test.run", "^TestContextWithoutMemory$", "-test.v")
		c.Env = append(os.Environ(), "FEDATTN_NO_MEMORY_CHILD=1")
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestContextWithoutMemory") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	m := model(t)
	own := tokens(t, m, 1, 24)
	answer := func() []float32 {
		c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "all"), LocalCells: 256, SyncCells: 256, MicroBatch: 24, Outputs: 1})
		must(t, err)
		must(t, c.Eval(own, 0, 1, nil))
		logits := allLogits(t, c, 1)
		must(t, c.Close())
		return logits
	}
	want := answer()

	statm, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var pages uint64
	for _, digit := range strings.Fields(string(statm))[0] {
		pages = 10*pages + uint64(digit-'0')
	}
	limit := pages*uint64(os.Getpagesize()) + 256<<20
	must(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}))
	for range 3 {
		c, err := m.NewContext(fedkv.CacheSpec{Sync: schedule(t, m, "all"), LocalCells: 1 << 16, SyncCells: 1 << 16, MicroBatch: 24, Outputs: 1})
		if err == nil {
			_ = c.Close()
			t.Fatal("a cache of 1.5 GB in 256 MB")
		}
		if !errors.Is(err, fedkv.ErrMemory) || !strings.Contains(err.Error(), "not enough free memory") {
			t.Errorf("the error is %q", err)
		}
	}
	if d := maxDiff(answer(), want); d != 0 {
		t.Errorf("afterwards max |Δ logit| = %g, want 0", d)
	}
}
