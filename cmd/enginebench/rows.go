//go:build cgo && linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/llama"
)

const (
	rowTokens = 512 // of a block
	rowPrefix = 16
	rowShift  = 100 // positions by which K is rotated when it is placed
	rowSpell  = 50 * time.Millisecond
)

var wires = []string{"f16/f16", "q8_0/q8_0", "q8_0/q4_0", "q5_1/q4_1", "q4_0/q4_0", "q4_0+c+h/nf3+h", "nf3+c+h/nf3+h"}

// rates is what one wire type came to, in GB of f16 rows, K and V, for each second of CPU time. Another process on the
// other thread of the same core takes half of it, so the best run says most about the code.
type rates struct {
	take, place   []float64
	allocs        [2]float64 // for each block, of a take and a place
	bytesPerToken int        // of one layer on the wire
}

// benchRows takes blocks of a layer's rows out of a cache and places them in it, one type after the other, run by run.
func benchRows(ctx context.Context, o options) error {
	m, err := llama.Load(o.model, llama.ModelParams{Threads: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	all, err := fedkv.ParseSchedule("all", m.Layers())
	if err != nil {
		return err
	}
	c, err := m.NewContext(fedkv.CacheSpec{Sync: all, LocalCells: 64, SyncCells: 1024, MicroBatch: 64, Outputs: 1})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Eval(randomTokens(m, rowPrefix), 0, 0, nil); err != nil {
		return err
	}
	if err := c.Reserve(rowPrefix, rowTokens); err != nil {
		return err
	}
	shape, pos := m.Shape().Layers[0], fedkv.Span(rowPrefix, rowTokens)
	random := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, rowTokens*(shape.K+shape.V))
	for i := range values {
		values[i] = float32(random.NormFloat64())
	}
	raw := fedkv.F16.AppendRows(nil, values, shape.K+shape.V)
	if err := c.WriteRows(0, pos, 0, fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, raw); err != nil {
		return err
	}

	found := make([]rates, len(wires))
	var rows []byte
	for range o.runs {
		for i, name := range wires {
			types, err := fedkv.ParseWireTypes(name)
			if err != nil {
				return err
			}
			take := func() (err error) {
				rows, err = c.AppendRows(rows[:0], 0, pos, types)
				return err
			}
			r := &found[i]
			if err := r.measure(ctx, &r.take, 0, len(raw), take); err != nil {
				return err
			}
			r.bytesPerToken = len(rows) / rowTokens
			place := func() error { return c.WriteRows(0, pos, rowShift, types, rows) }
			if err := r.measure(ctx, &r.place, 1, len(raw), place); err != nil {
				return err
			}
		}
	}
	fmt.Printf("\nRows: GB of f16 rows for each second of CPU time, one thread, blocks of %d tokens, one layer, K rotated: the best of the runs, and the median\n", rowTokens)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "wire\tbytes a token\ttake\tplace\tmedian\tmedian\tallocations of a take\tof a place")
	for i, r := range found {
		fmt.Fprintf(w, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\n", wires[i], r.bytesPerToken, slices.Max(r.take), slices.Max(r.place), measure.Median(r.take), measure.Median(r.place), r.allocs[0], r.allocs[1])
	}
	return w.Flush()
}

// measure repeats f for a while and appends its rate.
func (r *rates) measure(ctx context.Context, to *[]float64, which, bytes int, f func() error) error {
	if err := f(); err != nil { // and whatever it needs is there
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, began := 0, threadTime()
	for threadTime()-began < rowSpell {
		if err := f(); err != nil {
			return err
		}
		if n++; ctx.Err() != nil {
			return ctx.Err()
		}
	}
	took := threadTime() - began
	runtime.ReadMemStats(&after)
	r.allocs[which] = float64(after.Mallocs-before.Mallocs) / float64(n)
	*to = append(*to, float64(n*bytes)/1e9/took.Seconds())
	return nil
}

func randomTokens(m *llama.Model, n int) []fedkv.Token {
	random := rand.New(rand.NewPCG(3, 4))
	tokens := make([]fedkv.Token, n)
	for i := range tokens {
		tokens[i] = fedkv.Token(random.IntN(m.Vocabulary()))
	}
	return tokens
}
