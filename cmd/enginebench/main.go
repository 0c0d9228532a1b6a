//go:build cgo && linux

// Command enginebench measures the engine against llama.cpp itself: prefill and decode in pairs with llama-bench of the
// same build, what the layer hook and the rows take of a prefill, and the rates at which rows are quantised and placed.
// make bench-engine builds what it needs and runs it.
//
// Machines are busy and their clocks change. So what is compared runs in turn, A B A B, ratios are taken pair by pair and
// the median is printed; with one thread there is a second ratio, of CPU time, which waiting for others does not enter.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"

	"fedattn/fedkv"
	"fedattn/llama"
)

type options struct {
	model      string
	llamaBench string
	runs       int
	threads    []int
	tests      []test
	wire       fedkv.WireTypes
	subject    string // not empty: this process is one of the things that are compared
}

func main() {
	o, parts, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "enginebench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, parts); err != nil {
		fmt.Fprintln(os.Stderr, "enginebench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, parts map[string]bool, err error) {
	flags := flag.NewFlagSet("enginebench", flag.ContinueOnError)
	flags.StringVar(&o.model, "model", "", "GGUF `FILE`")
	flags.StringVar(&o.llamaBench, "llama-bench", "", "llama-bench of the same build, a `FILE`")
	flags.IntVar(&o.runs, "runs", 5, "pairs of each test")
	threads := flags.String("threads", "1,2", "numbers of threads")
	tests := flags.String("tests", "pp512,pp2048,tg128,tg128@2048", "prefill (pp) or decode (tg) of so many tokens, at a depth")
	wire := flags.String("wire", "q4_0+c+h/nf3+h", "row types that the hook takes")
	only := flags.String("only", "rows,pairs", "what to measure")
	flags.StringVar(&o.subject, "subject", "", "run one test once in a federated or a plain context and print the sample: what the pairs start")
	if err := flags.Parse(args); err != nil {
		return o, nil, err
	}
	if o.wire, err = fedkv.ParseWireTypes(*wire); err != nil {
		return o, nil, err
	}
	for t := range strings.SplitSeq(*threads, ",") {
		n, err := strconv.Atoi(t)
		if err != nil || n < 1 {
			return o, nil, fmt.Errorf("%q is no number of threads", t)
		}
		o.threads = append(o.threads, n)
	}
	for spec := range strings.SplitSeq(*tests, ",") {
		t, err := parseTest(spec)
		if err != nil {
			return o, nil, err
		}
		o.tests = append(o.tests, t)
	}
	parts = map[string]bool{}
	for part := range strings.SplitSeq(*only, ",") {
		parts[part] = true
	}
	switch {
	case o.model == "":
		return o, nil, fmt.Errorf("no model: give one with -model")
	case o.subject != "" && o.subject != federated && o.subject != plain:
		return o, nil, fmt.Errorf("-subject is %s or %s, not %q", federated, plain, o.subject)
	case o.subject == "" && parts["pairs"] && o.llamaBench == "":
		return o, nil, fmt.Errorf("no llama-bench: make bench-engine builds it")
	case o.runs < 1:
		return o, nil, fmt.Errorf("-runs is %d, it has to be 1 at least", o.runs)
	}
	return o, parts, nil
}

func run(ctx context.Context, o options, parts map[string]bool) error {
	if o.subject != "" {
		return runSubject(o, o.subject)
	}
	fmt.Printf("%s, %d CPUs, llama.cpp %s\n", cpuName(), runtime.NumCPU(), llama.Commit())
	if parts["rows"] {
		if err := benchRows(ctx, o); err != nil {
			return err
		}
	}
	if parts["pairs"] {
		return benchPairs(ctx, o)
	}
	return nil
}

func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
