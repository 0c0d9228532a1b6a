//go:build cgo

package llama

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fedattn/fedkv"
	"fedattn/models"
)

// plannedFor is one participant in a process of its own.
type plannedFor struct {
	role        string
	own, remote int // tokens
	path        string
}

var plannedWire = fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}

func (p plannedFor) String() string {
	return fmt.Sprintf("%s %d %d %s", p.role, p.own, p.remote, p.path)
}

func (p plannedFor) spec(t *testing.T, layers int) fedkv.CacheSpec {
	t.Helper()
	spec := fedkv.CacheSpec{LocalCells: p.own, SyncCells: p.own + p.remote, MicroBatch: min(512, p.own), Outputs: 1}
	schedule := "none"
	if p.role == "publisher" {
		schedule = "all"
	}
	var err error
	spec.Sync, err = fedkv.ParseSchedule(schedule, layers)
	must(t, err)
	return spec
}

// run is what the participant does.
func (p plannedFor) run(t *testing.T) {
	m, err := Load(p.path, ModelParams{Threads: 1})
	must(t, err)
	c, err := m.NewContext(p.spec(t, m.Layers()))
	must(t, err)
	tokens := make([]fedkv.Token, p.own)
	for i := range tokens {
		tokens[i] = fedkv.Token((i*37 + 11) % m.Vocabulary())
	}
	var held [][]byte // rows that wait
	if p.remote > 0 {
		must(t, c.Reserve(0, p.remote))
		must(t, c.SetNext(p.remote))
		for l, shape := range m.Shape().Layers {
			k, v, err := shape.BlockSize(plannedWire, p.remote)
			must(t, err)
			held = append(held, make([]byte, k+v))
			for i := 0; i < k+v; i += os.Getpagesize() {
				held[l][i] = 1 // a page that was never written takes no memory
			}
			must(t, c.WriteRows(l, fedkv.Span(0, p.remote), 0, plannedWire, held[l]))
		}
	}
	hook := &Hook{Layers: schedule(t, m, "all"), OnLayer: func(layer, first, n int) (bool, error) {
		if p.role == "publisher" {
			return false, nil
		}
		rows, err := c.AppendRows(nil, layer, fedkv.Span(first, n), plannedWire)
		held = append(held, rows)
		return false, err
	}}
	must(t, c.Eval(tokens, p.remote, 1, hook))
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Printf("resident %s\n", strings.Fields(rest)[0])
		}
	}
	must(t, c.Close())
	if len(held) == 0 {
		t.Error("no rows")
	}
}

// What a contributor and a publisher take is what fedkv.MemoryOf says, within a tenth: measured in processes of their own,
// as resident memory when all rows and logits are there. FEDATTN_MEMORY_TEST=all does it for every model and size.
func TestMemoryIsAsPlanned(t *testing.T) {
	if child := os.Getenv("FEDATTN_MEMORY_CHILD"); child != "" {
		var p plannedFor
		_, err := fmt.Sscan(child, &p.role, &p.own, &p.remote, &p.path)
		must(t, err)
		p.run(t)
		return
	}
	if testing.Short() {
		t.Skip("evaluates the real model")
	}
	paths := []string{model(t).Path()}
	sizes := []plannedFor{{role: "contributor", own: 200}, {role: "publisher", own: 40, remote: 2000}}
	if os.Getenv("FEDATTN_MEMORY_TEST") == "all" {
		paths = append(paths, filepath.Join(filepath.Dir(paths[0]), "gemma-3-270m-q4_k_m.gguf"))
		sizes = append(sizes, plannedFor{role: "contributor", own: 2000}, plannedFor{role: "publisher", own: 512, remote: 6000})
	}
	for _, path := range paths {
		m, err := Load(path, ModelParams{Threads: 1})
		must(t, err)
		shape := m.Shape()
		must(t, m.Close())
		need, header, err := models.NeedOfFile(path)
		must(t, err)
		for _, p := range sizes {
			p.path = path
			waiting := p.own
			if p.role == "publisher" {
				waiting = p.remote
			}
			want := fedkv.MemoryOf(models.SizeOf(header, need.File), shape, p.spec(t, len(shape.Layers)),
				fedkv.Uniform(plannedWire, len(shape.Layers)), waiting)
			c := exec.Command(os.Args[0], "-test.run", "^TestMemoryIsAsPlanned$", "-test.v")
			c.Env = append(os.Environ(), "FEDATTN_MEMORY_CHILD="+p.String())
			out, err := c.CombinedOutput()
			_, rest, found := strings.Cut(string(out), "resident ")
			if err != nil || !found {
				t.Fatalf("%v: %v\n%s", p, err, out)
			}
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			off := float64(want.Total())/float64(kib<<10) - 1
			t.Logf("%s %s %d+%d: %d MiB, planned %d (%+.1f %%): %+v", filepath.Base(path), p.role, p.own, p.remote, kib>>10, want.Total()>>20, 100*off, want)
			if math.Abs(off) > 0.1 {
				t.Errorf("%v: %d KiB are resident, the plan says %d", p, kib, want.Total()>>10)
			}
		}
	}
}
