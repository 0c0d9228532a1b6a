package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
		Name:  "eval",
		Usage: "measure what schedules and wire types cost, against one process that evaluates everything",
		Description: "Cases are every combination of --participants, --schedule and --wire, or the lines of --cases: JSON objects\n" +
			"with the keys of this command's own --format jsonl. Where such a line has a kld_mean, it is a reference: a mean\n" +
			"KL divergence further from it than --tolerance is an error.",
		Flags: append(append(modelFlags(), promptFlags(2048, 128, 32)...),
			&cli.StringFlag{Name: "participants", Aliases: []string{"n"}, Value: "4", Usage: "devices, the publisher included: `LIST`, such as 2,4,8"},
			&cli.StringSliceFlag{Name: "schedule", Value: cli.NewStringSlice("gather"), KeepSpace: true,
				Usage: "`SCHEDULE`, may be given several times: gather, lockstep, H=4, 'contributors=2-;publisher=all'"},
			&cli.StringSliceFlag{Name: "wire", Value: cli.NewStringSlice("q8_0/q4_0"), Usage: "types of K and V rows, may be given several times"},
			&cli.StringFlag{Name: "positions", Value: "canonical", Usage: "canonical or inplace; lockstep is always inplace"},
			&cli.StringFlag{Name: "cases", Usage: "JSONL `FILE` with the cases to measure"},
			&cli.Float64Flag{Name: "tolerance", Value: 0.10, Usage: "how far a mean KL may be from its reference, as a share of it"},
			&cli.StringFlag{Name: "transport", Value: "memory", Usage: "memory or quic (over loopback); the figures are the same"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "table or jsonl"},
		),
		Action: runEval,
	}
}

// evalCase is a case with the mean KL that it should have.
type evalCase struct {
	lab.Case
	Reference *float64 `json:"kld_mean"`
}

func runEval(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format := c.String("format")
	if format != "table" && format != "jsonl" {
		return usagef("unknown format %q; known are table, jsonl", format)
	}
	bench, engine, err := newBench(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	cases, err := evalCases(c, len(bench.Engine.Shape().Layers))
	if err != nil {
		return err
	}
	text, err := readTokens(c, engine)
	if err != nil {
		return err
	}
	cut := func(participants int) (lab.Prompt, error) {
		return lab.Cut(text, c.Int("tokens"), c.Int("prefix-tokens"), c.Int("publisher-tokens"), participants)
	}
	// the same tokens however they are cut: one centralised run serves all cases
	prompt, err := cut(cases[0].Participants)
	if err != nil {
		return err
	}
	base, err := lab.Centralised(c.Context, bench.Engine, prompt, false)
	if err != nil {
		return err
	}
	out := newEvalOutput(c.App.Writer, format)
	defer out.close()
	var off []string
	for _, ec := range cases {
		prompt, err := cut(ec.Participants)
		if err != nil {
			return err
		}
		line, err := bench.Measure(c.Context, ec.Case, prompt, base)
		if err != nil {
			return fmt.Errorf("%d participants, contributors=%s, publisher=%s: %w", ec.Participants, ec.Contributors, ec.Publisher, err)
		}
		out.line(line, ec.Reference)
		if ec.Reference != nil {
			if d := line.Deviation(*ec.Reference); d > c.Float64("tolerance") || d < -c.Float64("tolerance") {
				off = append(off, fmt.Sprintf("%d participants, contributors=%s, publisher=%s, %s/%s: mean KL %.4f, reference %.4f",
					ec.Participants, ec.Contributors, ec.Publisher, ec.WireK, ec.WireV, line.KLDMean, *ec.Reference))
			}
		}
	}
	if len(off) > 0 {
		return fmt.Errorf("%d of %d cases are off their reference by more than %.0f %%:\n  %s", len(off), len(cases),
			100*c.Float64("tolerance"), strings.Join(off, "\n  "))
	}
	return nil
}

// evalCases lists what to measure.
func evalCases(c *cli.Context, layers int) ([]evalCase, error) {
	if path := c.String("cases"); path != "" {
		return readCases(path)
	}
	var cases []evalCase
	for _, n := range strings.Split(c.String("participants"), ",") {
		participants, err := strconv.Atoi(strings.TrimSpace(n))
		if err != nil {
			return nil, usagef("--participants %q: %q is not a number", c.String("participants"), n)
		}
		for _, s := range c.StringSlice("schedule") {
			schedules, err := fedkv.ParseSchedules(s, layers)
			if err != nil {
				return nil, usagef("--schedule: %v", err)
			}
			for _, w := range c.StringSlice("wire") {
				types, err := fedkv.ParseWireTypes(w)
				if err != nil {
					return nil, usagef("--wire: %v", err)
				}
				positions, err := fedkv.ParsePositions(c.String("positions"))
				if err != nil {
					return nil, usagef("--positions: %v", err)
				}
				if schedules.Regime() == fedkv.Lockstep {
					positions = fedkv.InPlace
				}
				cases = append(cases, evalCase{Case: lab.Case{
					Participants: participants, Contributors: schedules.Contributors.String(),
					Publisher: schedules.Publisher.String(), WireK: types.K.String(), WireV: types.V.String(),
					Positions: positions.String(),
				}})
			}
		}
	}
	return cases, nil
}

func readCases(path string) ([]evalCase, error) {
	f, err := os.Open(path)
	if err != nil {
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
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		cases = append(cases, ec)
	}
	if len(cases) == 0 {
		return nil, errors.Join(fmt.Errorf("%s has no cases", path), lines.Err())
	}
	return cases, lines.Err()
}

// evalOutput prints lines as they come.
type evalOutput struct {
	json  *json.Encoder
	table table.Writer
}

func newEvalOutput(w io.Writer, format string) *evalOutput {
	if format == "jsonl" {
		return &evalOutput{json: json.NewEncoder(w)}
	}
	return &evalOutput{table: newTable(w, "N", "contributors", "publisher", "K/V", "positions", "mean KL", "± ref", "same top", "PPL", "KiB", "s")}
}

func (o *evalOutput) line(l lab.Line, reference *float64) {
	if o.json != nil {
		_ = o.json.Encode(l)
		return
	}
	ref := ""
	if reference != nil {
		ref = fmt.Sprintf("%+.1f %%", 100*l.Deviation(*reference))
	}
	o.table.AppendRow(table.Row{
		l.Participants, l.Contributors, l.Publisher, l.WireK + "/" + l.WireV, l.Positions, fmt.Sprintf("%.4f", l.KLDMean), ref,
		fmt.Sprintf("%.1f %%", 100*l.SameTop), fmt.Sprintf("%+.1f %%", 100*(l.PPL/l.PPLBase-1)), l.KVBytes >> 10,
		fmt.Sprintf("%.1f", l.Seconds),
	})
}

func (o *evalOutput) close() {
	if o.table != nil {
		o.table.Render()
	}
}
