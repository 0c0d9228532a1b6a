//go:build cgo

package llama

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// hidden is how bytes that are looked for are kept, so that they are not found where they are kept.
const hidden = 0x5a

func hide(b []byte) {
	for i := range b {
		b[i] ^= hidden
	}
}

// occurrences counts hidden bytes in what this process can write to. What a page holds that cannot be read does not count.
func occurrences(t *testing.T, what []byte) (n int) {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	must(t, err)
	defer maps.Close()
	memory, err := os.Open("/proc/self/mem")
	must(t, err)
	defer memory.Close()
	chunk := make([]byte, 1<<20)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		for at := from; at < to; at += int64(len(chunk) - len(what)) {
			read, err := memory.ReadAt(chunk[:min(int64(len(chunk)), to-at)], at)
			hide(chunk[:read])
			n += bytes.Count(chunk[:read], what)
			if err != nil {
				break
			}
		}
	}
	return n
}

// Rows of others are in memory until the context is closed, and not after it.
func TestRowsAreErased(t *testing.T) {
	m := model(t)
	prefix := tokens(t, m, 1, 4)
	c := alone(t, m, "all", 40, 8, 1)
	defer c.Close()
	must(t, c.Eval(prefix, 0, 0, nil))
	must(t, c.Reserve(4, 8))
	const layer = 3
	types := fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	k, v, err := m.Shape().Layers[layer].BlockSize(types, 8)
	must(t, err)
	rows, random := make([]byte, k+v), rand.New(rand.NewPCG(7, uint64(os.Getpid())))
	for i := range rows {
		if i%2 == 1 {
			rows[i] = 0x3c // f16 from 1 to 2
		} else {
			rows[i] = byte(random.Uint32())
		}
	}
	row := bytes.Clone(rows[k : k+v/8])
	hide(row)
	must(t, c.WriteRows(layer, fedkv.Span(4, 8), 0, types, rows))
	clear(rows)
	if occurrences(t, row) == 0 {
		t.Fatal("a row that was placed is nowhere in memory: the search finds nothing")
	}
	must(t, c.Close())
	if n := occurrences(t, row); n != 0 {
		t.Errorf("a row is in memory %d times after its context was closed", n)
	}
}
