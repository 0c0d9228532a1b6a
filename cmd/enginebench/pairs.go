//go:build cgo && linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/llama"
)

// llama-bench's own default
const microBatch = 512

// test is one of llama-bench's: tokens that are evaluated together, or one after the other, behind depth others.
type test struct {
	tokens   int
	depth    int
	generate bool
}

func parseTest(spec string) (t test, err error) {
	what, depth, deep := strings.Cut(spec, "@")
	count, generate := strings.CutPrefix(what, "tg")
	if !generate {
		count = strings.TrimPrefix(what, "pp")
	}
	if t.tokens, err = strconv.Atoi(count); err == nil && deep {
		t.depth, err = strconv.Atoi(depth)
	}
	if err != nil || t.tokens < 1 || t.depth < 0 || count == what {
		return t, fmt.Errorf("%q is no test: pp512, tg128 and tg128@2048 are", spec)
	}
	t.generate = generate
	return t, nil
}

func (t test) String() string {
	name := fmt.Sprintf("pp%d", t.tokens)
	if t.generate {
		name = fmt.Sprintf("tg%d", t.tokens)
	}
	if t.depth > 0 {
		name += fmt.Sprintf("@%d", t.depth)
	}
	return name
}

// sample is one run of a test.
type sample struct {
	Wall time.Duration `json:"wall_ns"`
	CPU  time.Duration `json:"cpu_ns"` // of the whole process; 0: not known
	Hook float64       `json:"hook"`   // what the hook took of it, of CPU time with one thread, else of wall time
}

// pair is the same test by llama-bench, by a federated context with its hook, and by llama.cpp's own context as this
// program uses it. Each runs in a process of its own: two contexts in one stream through the same caches of the CPU.
type pair struct{ bench, fed, plain sample }

func benchPairs(ctx context.Context, o options) error {
	fmt.Printf("\nPairs: medians of %d; tokens a second; ratios of ours, a federated context and its hook, to llama-bench, and to a plain context of this program\n", o.runs)
	fmt.Printf(pairLine, "threads", "test", "llama-bench", "ours", "ratio", "plain ratio", "of CPU", "hook and rows")
	for _, threads := range o.threads {
		for _, t := range o.tests { // a line as soon as it is known: all of them take long
			pairs, err := runPairs(ctx, o, threads, t)
			if err != nil {
				return err
			}
			describe(t, threads, pairs)
		}
	}
	return nil
}

const pairLine = "%-8v %-12v %12v %8v %7v %12v %8v %14v\n"

func describe(t test, threads int, pairs []pair) {
	of := func(f func(p pair) float64) float64 {
		values := make([]float64, len(pairs))
		for i, p := range pairs {
			values[i] = f(p)
		}
		return measure.Median(values)
	}
	speed := func(s sample) float64 { return float64(t.tokens) / s.Wall.Seconds() }
	cpu := "-"
	if threads == 1 {
		cpu = fmt.Sprintf("%.3f", of(func(p pair) float64 { return p.plain.CPU.Seconds() / p.fed.CPU.Seconds() }))
	}
	number := func(format string, f func(p pair) float64) string { return fmt.Sprintf(format, of(f)) }
	fmt.Printf(pairLine, threads, t,
		number("%.1f", func(p pair) float64 { return speed(p.bench) }),
		number("%.1f", func(p pair) float64 { return speed(p.fed) }),
		number("%.3f", func(p pair) float64 { return p.bench.Wall.Seconds() / p.fed.Wall.Seconds() }),
		number("%.3f", func(p pair) float64 { return p.plain.Wall.Seconds() / p.fed.Wall.Seconds() }),
		cpu,
		number("%.2f %%", func(p pair) float64 { return 100 * p.fed.Hook }))
}

func runPairs(ctx context.Context, o options, threads int, t test) ([]pair, error) {
	var pairs []pair
	for i := range o.runs {
		var p pair
		turns := []func() error{
			func() (err error) { p.bench, err = runLlamaBench(ctx, o, threads, t); return err },
			func() (err error) { p.fed, err = runApart(ctx, o, threads, t, federated); return err },
			func() (err error) { p.plain, err = runApart(ctx, o, threads, t, plain); return err },
		}
		for k := range turns { // whoever is first has the coldest caches
			if err := errors.Join(ctx.Err(), turns[(i+k)%len(turns)]()); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// what a process of its own runs, for -subject
const (
	federated = "federated"
	plain     = "plain"
)

// runApart runs a test in a process of this program.
func runApart(ctx context.Context, o options, threads int, t test, subject string) (s sample, err error) {
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	command := exec.CommandContext(ctx, self, "-model", o.model, "-threads", strconv.Itoa(threads), "-tests", t.String(),
		"-wire", o.wire.String(), "-subject", subject)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s of a %s context: %w", t, subject, err)
	}
	return s, nil
}

// runSubject is what such a process does: once to warm up, as llama-bench does, and once that counts.
func runSubject(o options, subject string) error {
	m, err := llama.Load(o.model, llama.ModelParams{Threads: o.threads[0]})
	if err != nil {
		return err
	}
	defer m.Close()
	s, err := newSubject(m, o, o.tests[0], subject == federated)
	if err != nil {
		return err
	}
	defer s.Close()
	result, err := s.run(o.tests[0])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// subject is a context that runs a test again and again, behind the same tokens.
type subject struct {
	*llama.Context
	tokens  []fedkv.Token
	threads int
	hook    *llama.Hook // nil: none
	inHook  time.Duration
	rows    []byte
	types   fedkv.WireTypes
}

// newSubject is llama.cpp's own context, or a federated one: for prefill a contributor's, whose rows of all layers are
// taken in mid-forward, for decoding a publisher's, with all layers in its sync cache.
func newSubject(m *llama.Model, o options, t test, federated bool) (*subject, error) {
	s := &subject{tokens: randomTokens(m, t.depth+t.tokens), threads: m.Threads(), types: o.wire}
	cells := t.depth + t.tokens
	all, err := fedkv.ParseSchedule("all", m.Layers())
	if err != nil {
		return nil, err
	}
	switch {
	case !federated:
		s.Context, err = m.NewPlainContext(cells, microBatch, 1)
	case t.generate:
		s.Context, err = m.NewContext(fedkv.CacheSpec{Sync: all, LocalCells: cells, SyncCells: cells, MicroBatch: microBatch, Outputs: 1})
	default:
		none, _ := fedkv.ParseSchedule("none", m.Layers())
		s.Context, err = m.NewContext(fedkv.CacheSpec{Sync: none, LocalCells: cells, SyncCells: cells, MicroBatch: microBatch, Outputs: 1})
	}
	if err != nil {
		return nil, err
	}
	if t.depth > 0 {
		err = s.Eval(s.tokens[:t.depth], 0, 1, nil)
	}
	if federated && !t.generate {
		s.hook = &llama.Hook{Layers: all, OnLayer: s.take}
	}
	if _, warm := s.run(t); err == nil {
		err = warm
	}
	return s, err
}

// clock is CPU time with one thread, and otherwise wall time.
func (s *subject) clock() time.Duration {
	if s.threads == 1 {
		return threadTime()
	}
	return time.Since(start)
}

var start = time.Now()

func (s *subject) take(layer, first, n int) (bool, error) {
	began := s.clock()
	rows, err := s.AppendRows(s.rows[:0], layer, fedkv.Span(first, n), s.types)
	s.rows = rows
	s.inHook += s.clock() - began
	return false, err
}

func (s *subject) run(t test) (sample, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.inHook = 0
	began, wall, cpu := s.clock(), time.Now(), processTime()
	if err := s.eval(t); err != nil {
		return sample{}, err
	}
	result := sample{Wall: time.Since(wall), CPU: processTime() - cpu, Hook: s.inHook.Seconds() / (s.clock() - began).Seconds()}
	return result, s.Truncate(t.depth)
}

func (s *subject) eval(t test) error {
	own := s.tokens[t.depth:]
	if !t.generate {
		return s.Eval(own, t.depth, 1, s.hook)
	}
	for i := range own {
		if err := s.Eval(own[i:i+1], t.depth+i, 1, s.hook); err != nil {
			return err
		}
	}
	return nil
}

func runLlamaBench(ctx context.Context, o options, threads int, t test) (sample, error) {
	prompt, generate := t.tokens, 0
	if t.generate {
		prompt, generate = 0, t.tokens
	}
	args := []string{"-m", o.model, "-t", strconv.Itoa(threads), "-p", strconv.Itoa(prompt), "-n", strconv.Itoa(generate),
		"-d", strconv.Itoa(t.depth), "-ub", strconv.Itoa(microBatch), "-fa", "1", "-r", "1", "-o", "json"}
	command := exec.CommandContext(ctx, o.llamaBench, args...)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", o.llamaBench, err)
	}
	var results []struct {
		Samples []int64 `json:"samples_ns"`
	}
	if err := json.Unmarshal(out, &results); err != nil || len(results) != 1 || len(results[0].Samples) != 1 {
		return sample{}, fmt.Errorf("%s printed no sample (%v)", o.llamaBench, err)
	}
	return sample{Wall: time.Duration(results[0].Samples[0])}, nil
}
