package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node/lab"
)

func evalCommand() *cli.Command {
	return &cli.Command{
		Name:      "eval",
		Usage:     "measure what schedules and wire types cost, against one process that evaluates everything",
		UsageText: "fedattn eval [flags] --model FILE (--text FILE | --gsm8k FILE | --task NAME)",
		Description: "Cases are every combination of --participants, --schedule, --wire, --rows and --local-rows, or the lines of --cases:\n" +
			"JSON objects with the keys of this command's own --format jsonl. Where such a line has a kld_mean, it is a\n" +
			"reference: a mean KL divergence further from it than --tolerance is an error. Two cases are always there:\n" +
			"centralised, one process that evaluates everything, and local-only, a publisher to whom nobody sends anything.\n\n" +
			"With --text, figures compare the probabilities of the publisher's tokens; ± is the standard error over --windows,\n" +
			"over the tokens if there is one. With -v, llama-perplexity's statistics follow the table.\n\n" +
			"With --gsm8k, participants share solved examples and a problem: em is the share of problems that are solved,\n" +
			"gold_nll how unlikely the true solution is, in nats per token. With --task, contributors hold the facts and the\n" +
			"publisher the question: em is the share of problems in which the model writes exactly the missing words.\n\n" +
			"K and V on the wire are " + wireTypes + ",\n" +
			"with exceptions for some layers as in q8_0/q4_0,0-2=f16.\n\n" +
			scheduleHelp + "\n" + presetHelp,
		Flags: append(append(append(modelFlags(), promptFlags(2048, 128, 32)...), problemFlags()...),
			&cli.IntFlag{Name: "windows", Value: 1, Usage: "measure `N` stretches of the text, evenly spread over it", Category: promptCategory},
			&cli.StringFlag{Name: "segments", Value: "tok",
				Usage: "`HOW` to cut: tok, into equally many tokens; sem, into whole paragraphs or examples", Category: promptCategory},
			&cli.StringFlag{Name: "participants", Aliases: []string{"n"}, Value: "4", Usage: "devices, the publisher included: `LIST` such as 2,4,8"},
			&cli.StringSliceFlag{Name: "schedule", Value: cli.NewStringSlice("gather"), KeepSpace: true, Usage: "`SCHEDULE` of sync layers, see above"},
			&cli.StringSliceFlag{Name: "wire", KeepSpace: true, Usage: "`K/V` rows on the wire, see above; without it, those of the preset, or q8_0/q4_0"},
			&cli.StringFlag{Name: "budget", Usage: "`BYTES` that the publisher may receive, such as 8MB, for --schedule auto"},
			profileFlag(""),
			&cli.StringFlag{Name: "contributor-model", Usage: "the contributors run this GGUF `FILE`: the same model, quantised otherwise"},
			&cli.StringSliceFlag{Name: "rows", Value: cli.NewStringSlice(lab.AllRows), KeepSpace: true,
				Usage: "`ROWS` of a segment that are sent: all, or a share of them such as random=0.5, recent=0.5, norm=0.5, or query=0.5, which tells contributors something about the question"},
			&cli.StringSliceFlag{Name: "local-rows", Value: cli.NewStringSlice(lab.AllRows), KeepSpace: true,
				Usage: "`ROWS` of its own segment that a participant attends to at local layers: all, or a share of them such as random=0.5 or recent=0.5"},
			&cli.StringFlag{Name: "positions", Value: "canonical", Usage: "`WHERE` segments are evaluated in gather: canonical, inplace"},
			&cli.IntFlag{Name: "seed", Value: 1, Usage: "`SEED` of what is random; the same seed gives the same lines, but for the seconds"},
			&cli.StringFlag{Name: "cases", Usage: "JSONL `FILE` with the cases to measure"},
			&cli.Float64Flag{Name: "tolerance", Value: 0.10, Usage: "how far a mean KL may be from its reference, as a `SHARE`"},
			&cli.StringFlag{Name: "transport", Value: "memory",
				Usage: "`NETWORK` between the devices: memory, quic (over loopback); the figures are the same"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of the output: table, jsonl, csv"},
			&cli.StringFlag{Name: "logits-out", Usage: "write the publisher's logits, float32 [publisher tokens][vocabulary], as a NumPy `FILE`; of one case only"},
			&cli.StringFlag{Name: "tokens-out", Usage: "write that case's tokens, bounds, layers and row types as a JSON `FILE`"},
		),
		Action: runEval,
	}
}

// evalRun is what eval does with its flags once they are right.
type evalRun struct {
	*cli.Context
	network lab.Network
	out     evalOutput
}

func runEval(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	network, err := checkPrompt(c)
	if err != nil {
		return err
	}
	measured, err := evalSource(c)
	if err != nil {
		return err
	}
	newOutput, err := chosen(c, "format", evalFormats)
	if err != nil {
		return err
	}
	err = first(between(c, 0, math.MaxFloat64, "tolerance"), atLeast(c, 1, "windows"), atLeast(c, 0, "seed"))
	if err != nil {
		return err
	}
	if _, err := chosen(c, "segments", segmentations); err != nil {
		return err
	}
	// what is wrong in any model is said before one is loaded
	cases, err := evalCases(c, fedkv.MaxLayers, anyProfile())
	if err != nil {
		return err
	}
	if err := checkExport(c, len(cases)); err != nil {
		return err
	}
	run := evalRun{c, network, newOutput(c.App.Writer, c.Bool("verbose"))}
	defer run.out.close()
	return measured(run)
}

// evalSources are what can be measured, by the flag that names it.
var evalSources = []struct {
	flag     string
	measured func(evalRun) error
}{{"text", evalRun.text}, {"gsm8k", evalRun.gsm8k}, {"task", evalRun.task}}

// evalOnly are the flags that only some sources take.
var evalOnly = []struct{ flag, sources string }{
	{"tokens", "text"}, {"publisher-tokens", "text"}, {"prefix-tokens", "text"}, {"windows", "text"}, {"tolerance", "text"},
	{"logits-out", "text"}, {"tokens-out", "text"}, {"contributor-model", "text"}, {"budget", "text"}, {"segments", "text, gsm8k"},
	{"shots", "gsm8k"}, {"question", "gsm8k"}, {"predict", "gsm8k"}, {"problems", "gsm8k, task"}, {"sources", "task"},
}

// evalSource finds out what is to be measured, and refuses flags that mean nothing with it.
func evalSource(c *cli.Context) (measured func(evalRun) error, err error) {
	named := ""
	for _, s := range evalSources {
		if c.String(s.flag) == "" {
			continue
		}
		if named != "" {
			return nil, usagef("--%s and --%s contradict each other: give one of them", named, s.flag)
		}
		named, measured = s.flag, s.measured
	}
	if named == "" {
		return nil, noText("--text FILE, --gsm8k FILE or --task NAME")
	}
	for _, only := range evalOnly {
		sources := strings.Split(only.sources, ", ")
		if c.IsSet(only.flag) && !slices.Contains(sources, named) {
			return nil, usagef("--%s is for --%s: it means nothing with --%s", only.flag, strings.Join(sources, " and --"), named)
		}
	}
	return measured, nil
}

// segmentations by the name that --segments takes.
var segmentations = map[string]func(lab.Engine) lab.Segmentation{
	"tok": func(lab.Engine) lab.Segmentation { return lab.Evenly },
	"sem": func(e lab.Engine) lab.Segmentation { return lab.Paragraphs(e) },
}

// text measures windows of a text.
func (r evalRun) text() error {
	content, err := readText("text", r.String("text"))
	if err != nil {
		return err
	}
	bench, engine, err := openBench(r.Context, r.network)
	if err != nil {
		return err
	}
	defer engine.Close()
	if path := r.String("contributor-model"); path != "" {
		other, err := loadFile(r.Context, path)
		if err != nil {
			return fmt.Errorf("--contributor-model: %w", err)
		}
		defer other.Close()
		bench.Contributors = other
	}
	cases, err := modelCases(r.Context, engine)
	if err != nil {
		return err
	}
	texts, err := textWindows(r.Context, engine, content)
	if err != nil {
		return err
	}
	// how the tokens are cut makes no difference to one process: its runs serve all cases
	share := segmentations[r.String("segments")](engine)
	bases := make([][]float32, len(texts))
	windows := func(participants int) ([]lab.Window, error) {
		windows := make([]lab.Window, len(texts))
		for i, text := range texts {
			prompt, err := cutBy(r.Context, share, text, participants)
			if err != nil {
				return nil, err
			}
			windows[i] = lab.Window{Prompt: prompt, Base: bases[i]}
		}
		return windows, nil
	}
	counts := participantsOf(cases)
	for _, n := range counts { // before anything is evaluated
		if _, err := windows(n); err != nil {
			return err
		}
	}
	all, err := windows(counts[0])
	if err != nil {
		return err
	}
	started := time.Now()
	for i, w := range all {
		if bases[i], err = lab.Centralised(r.Context.Context, bench.Engine, w.Prompt, false); err != nil {
			return err
		}
		all[i].Base = bases[i]
	}
	seed := uint64(r.Int("seed"))
	line, err := bench.Centralised(all, seed, time.Since(started).Seconds()/float64(len(all)))
	if err != nil {
		return err
	}
	if err := r.out.record(textRecord(lab.Measured{Line: line}, nil)); err != nil {
		return err
	}
	return r.measure(bench, append(localOnly(cases, seed), cases...), windows)
}

// measure runs every case on its windows and holds it against its reference.
func (r evalRun) measure(bench lab.Bench, cases []evalCase, windows func(participants int) ([]lab.Window, error)) error {
	off, references := 0, 0
	for _, ec := range cases {
		shared, err := windows(ec.Participants)
		if err != nil {
			return err
		}
		m, err := bench.MeasureWindows(r.Context.Context, ec.Case, shared)
		if err != nil {
			return fmt.Errorf("%v: %w", ec, err)
		}
		if err := r.out.record(textRecord(m, ec.Reference)); err != nil {
			return err
		}
		if ec.Name != lab.LocalOnlyName {
			if err := export(r.Context, bench.Engine, ec.Case, shared[0].Prompt, m.Logits); err != nil {
				return err
			}
		}
		if ec.Reference == nil {
			continue
		}
		references++
		if !(math.Abs(m.Deviation(*ec.Reference)) <= r.Float64("tolerance")) {
			off++
			fmt.Fprintf(r.App.ErrWriter, "off: %v: mean KL %.4f, reference %.4f\n", ec, m.KLDMean, *ec.Reference)
		}
	}
	if off > 0 {
		return fmt.Errorf("%d of %d cases are off their reference by more than %.0f %%", off, references, 100*r.Float64("tolerance"))
	}
	return nil
}

var textHeader = []string{"", "N", "contributors", "publisher", "K/V", "rows", "positions", "mean KL", "± ref", "same top", "PPL", "KiB", "B/token", "barriers", "s"}

func textRecord(m lab.Measured, reference *float64) record {
	ref := ""
	if reference != nil {
		ref = fmt.Sprintf("%+.1f %%", 100*m.Deviation(*reference))
	}
	r := record{
		object: m.Line, header: textHeader,
		cells: append(caseCells(m.Case), plusMinus(m.KLDMean, m.KLDMeanSE, 4), ref,
			percent(m.SameTop), fmt.Sprintf("%.2f (%+.1f %%)", m.PPL, 100*(m.PPL/m.PPLBase-1)), m.KVBytes>>10,
			fmt.Sprintf("%.0f", m.KVBytesPerToken), m.Barriers, fmt.Sprintf("%.1f", m.Seconds)),
	}
	if len(m.Series) > 0 {
		r.more = fmt.Sprintf("%v:\n\n%s", evalCase{Case: m.Case}, measure.Statistics(m.Series...))
	}
	return r
}
