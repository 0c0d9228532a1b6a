package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
)

func evalCommand() *cli.Command {
	return &cli.Command{
		Name:      "eval",
		Usage:     "measure what schedules and wire types cost, against one process that evaluates everything",
		UsageText: "fedattn eval [flags] --model FILE --text FILE",
		Description: "Cases are every combination of --participants, --schedule and --wire, or the lines of --cases: JSON objects\n" +
			"with the keys of this command's own --format jsonl. Where such a line has a kld_mean, it is a reference: a mean\n" +
			"KL divergence further from it than --tolerance is an error.\n\n" + scheduleHelp,
		Flags: append(append(modelFlags(), promptFlags(2048, 128, 32)...),
			&cli.StringFlag{Name: "participants", Aliases: []string{"n"}, Value: "4", Usage: "devices, the publisher included: `LIST` such as 2,4,8"},
			&cli.StringSliceFlag{Name: "schedule", Value: cli.NewStringSlice("gather"), KeepSpace: true, Usage: "`SCHEDULE` of sync layers, see above"},
			&cli.StringSliceFlag{Name: "wire", Value: cli.NewStringSlice("q8_0/q4_0"), Usage: "`K/V` rows on the wire: f16, q8_0, q5_1, q4_1, q4_0"},
			&cli.StringFlag{Name: "positions", Value: "canonical", Usage: "`WHERE` segments are evaluated in gather: canonical, inplace"},
			&cli.StringFlag{Name: "cases", Usage: "JSONL `FILE` with the cases to measure"},
			&cli.Float64Flag{Name: "tolerance", Value: 0.10, Usage: "how far a mean KL may be from its reference, as a `SHARE`"},
			&cli.StringFlag{Name: "transport", Value: "memory",
				Usage: "`NETWORK` between the devices: memory, quic (over loopback); the figures are the same"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of the output: table, jsonl"},
			&cli.StringFlag{Name: "logits-out", Usage: "write the publisher's logits, float32 [publisher tokens][vocabulary], as a NumPy `FILE`; of one case only"},
			&cli.StringFlag{Name: "tokens-out", Usage: "write that case's tokens, bounds, layers and row types as a JSON `FILE`"},
		),
		Action: runEval,
	}
}

// evalCase is a case with the mean KL that it should have.
type evalCase struct {
	lab.Case
	Reference *float64 `json:"kld_mean"`
}

func (c evalCase) String() string {
	return fmt.Sprintf("%d participants, contributors=%s, publisher=%s, %s/%s, %s",
		c.Participants, c.Contributors, c.Publisher, c.WireK, c.WireV, c.Positions)
}

func runEval(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	network, err := checkPrompt(c)
	if err != nil {
		return err
	}
	newOutput, err := chosen(c, "format", map[string]func(io.Writer) evalOutput{"table": newEvalTable, "jsonl": newEvalLines})
	if err != nil {
		return err
	}
	if err := between(c, 0, math.MaxFloat64, "tolerance"); err != nil {
		return err
	}
	// what is wrong in any model is said before one is loaded
	cases, err := evalCases(c, fedkv.MaxLayers)
	if err != nil {
		return err
	}
	if err := checkExport(c, len(cases)); err != nil {
		return err
	}
	bench, text, closeBench, err := newBench(c, network)
	if err != nil {
		return err
	}
	defer closeBench()
	cases, err = evalCases(c, len(bench.Engine.Shape().Layers))
	if err != nil {
		return err
	}
	// the same tokens however they are cut: one centralised run serves all cases
	prompt, err := cut(c, text, cases[0].Participants)
	if err != nil {
		return err
	}
	base, err := lab.Centralised(c.Context, bench.Engine, prompt, false)
	if err != nil {
		return err
	}
	out := newOutput(c.App.Writer)
	defer out.close()
	off := 0
	for _, ec := range cases {
		prompt, err := cut(c, text, ec.Participants)
		if err != nil {
			return err
		}
		result, err := bench.Run(c.Context, ec.Case, prompt)
		if err != nil {
			return fmt.Errorf("%v: %w", ec, err)
		}
		line, err := bench.Compare(ec.Case, prompt, base, result)
		if err != nil {
			return fmt.Errorf("%v: %w", ec, err)
		}
		if err := export(c, bench.Engine, ec.Case, prompt, result.Logits); err != nil {
			return err
		}
		out.line(line, ec.Reference)
		if ec.Reference != nil && !(math.Abs(line.Deviation(*ec.Reference)) <= c.Float64("tolerance")) {
			off++
			fmt.Fprintf(c.App.ErrWriter, "off: %v: mean KL %.4f, reference %.4f\n", ec, line.KLDMean, *ec.Reference)
		}
	}
	if off > 0 {
		return fmt.Errorf("%d of %d cases are off their reference by more than %.0f %%", off, len(cases), 100*c.Float64("tolerance"))
	}
	return nil
}

// evalCases lists what to measure of a model with this many layers.
func evalCases(c *cli.Context, layers int) ([]evalCase, error) {
	if path := c.String("cases"); path != "" {
		return readCases(path)
	}
	positions, err := fedkv.ParsePositions(c.String("positions"))
	if err != nil {
		return nil, usagef("--positions: %v", err)
	}
	var cases []evalCase
	for n := range strings.SplitSeq(c.String("participants"), ",") {
		participants, err := strconv.Atoi(strings.TrimSpace(n))
		if err != nil || participants < 1 || participants > fedkv.MaxParticipants {
			return nil, usagef("--participants %q: %q is not a number from 1 to %d", c.String("participants"), n, fedkv.MaxParticipants)
		}
		for _, s := range c.StringSlice("schedule") {
			schedules, err := fedkv.ParseSchedules(s, layers)
			if err != nil {
				return nil, scheduleError(s, err)
			}
			for _, w := range c.StringSlice("wire") {
				types, err := fedkv.ParseWireTypes(w)
				if err != nil {
					return nil, usagef("--wire: %v", err)
				}
				where := positions
				if schedules.Regime() == fedkv.Lockstep {
					where = fedkv.InPlace
				}
				cases = append(cases, evalCase{Case: lab.Case{
					Participants: participants, Contributors: schedules.Contributors.String(),
					Publisher: schedules.Publisher.String(), WireK: types.K.String(), WireV: types.V.String(), Rows: lab.AllRows,
					Positions: where.String(),
				}})
			}
		}
	}
	return cases, nil
}

func readCases(path string) ([]evalCase, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such file of cases: %s; give an existing one with --cases", path)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var cases []evalCase
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var ec evalCase
		if err := json.Unmarshal(lines.Bytes(), &ec); err != nil {
			return nil, fmt.Errorf("%s:%d: %w; a case is a line of --format jsonl", path, n, err)
		}
		cases = append(cases, ec)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("%s has no cases: a case is a line of --format jsonl", path)
	}
	return cases, nil
}

// evalOutput prints measured cases, with their references where they have one.
type evalOutput interface {
	line(l lab.Line, reference *float64)
	close()
}

type evalLines struct{ *json.Encoder }

func newEvalLines(w io.Writer) evalOutput { return evalLines{json.NewEncoder(w)} }

func (o evalLines) line(l lab.Line, _ *float64) { _ = o.Encode(l) }
func (evalLines) close()                        {}

type evalTable struct{ table.Writer }

func newEvalTable(w io.Writer) evalOutput {
	return evalTable{newTable(w, "N", "contributors", "publisher", "K/V", "positions", "mean KL", "± ref", "same top", "PPL", "KiB", "s")}
}

func (o evalTable) line(l lab.Line, reference *float64) {
	ref := ""
	if reference != nil {
		ref = fmt.Sprintf("%+.1f %%", 100*l.Deviation(*reference))
	}
	o.AppendRow(table.Row{
		l.Participants, l.Contributors, l.Publisher, l.WireK + "/" + l.WireV, l.Positions, fmt.Sprintf("%.4f", l.KLDMean), ref,
		fmt.Sprintf("%.1f %%", 100*l.SameTop), fmt.Sprintf("%+.1f %%", 100*(l.PPL/l.PPLBase-1)), l.KVBytes >> 10,
		fmt.Sprintf("%.1f", l.Seconds),
	})
}

func (o evalTable) close() {
	if o.Length() > 0 {
		o.Render()
	}
}
