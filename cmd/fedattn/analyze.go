package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
)

func analyzeCommand() *cli.Command {
	return &cli.Command{
		Name:      "analyze",
		Usage:     "measure layer by layer how the error of a session propagates, against one process",
		UsageText: "fedattn analyze [flags] --model FILE --text FILE",
		Description: "After every layer the hidden states of a session are compared with those of one process that evaluates the same\n" +
			"tokens in the same pieces: ‖session − one process‖ / ‖one process‖, for the publisher's tokens and for the\n" +
			"contributors'. Growth is that deviation over the one before the layer. Contributors stop at the last layer that\n" +
			"anybody needs from them, where they compute K and V only: from there on they have no deviation.\n" +
			"At the end a line e' = slope·e + intercept is fitted to the layers of each kind, in the form of the bounds on\n" +
			"error propagation. Cases are every combination of --participants, --schedule and --wire.\n\n" + scheduleHelp,
		Flags: append(append(modelFlags(), promptFlags(512, 64, 32)...),
			&cli.StringFlag{Name: "participants", Aliases: []string{"n"}, Value: "4", Usage: "devices, the publisher included: `LIST` such as 2,4,8"},
			&cli.StringSliceFlag{Name: "schedule", Value: cli.NewStringSlice("gather"), KeepSpace: true, Usage: "`SCHEDULE` of sync layers, see above"},
			&cli.StringSliceFlag{Name: "wire", Value: cli.NewStringSlice("f16/f16"), Usage: "`K/V` rows on the wire: " + wireTypes},
			&cli.StringFlag{Name: "positions", Value: "inplace", Usage: "`WHERE` segments are evaluated in gather: canonical, inplace"},
			&cli.IntFlag{Name: "windows", Value: 1, Usage: "repeat with `N` parts of the text and show means"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of the output: table, jsonl, csv"},
		),
		Action: runAnalyze,
	}
}

func runAnalyze(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := first(checkModel(c), atLeast(c, 1, "tokens", "publisher-tokens", "windows"), atLeast(c, 0, "prefix-tokens"), checkLog(c)); err != nil {
		return err
	}
	if c.String("text") == "" {
		return noText("--text FILE")
	}
	show, err := chosen(c, "format", map[string]func(io.Writer, []lab.Analysis) error{
		"table": analysisTables, "jsonl": analysisLines, "csv": analysisCSV,
	})
	if err != nil {
		return err
	}
	// what is wrong in any model is said before one is loaded
	if _, err := analyzeCases(c, fedkv.MaxLayers); err != nil {
		return err
	}
	content, err := readText("text", c.String("text"))
	if err != nil {
		return err
	}
	bench, engine, err := openBench(c, lab.Memory)
	if err != nil {
		return err
	}
	defer engine.Close()
	cases, err := analyzeCases(c, engine.Layers())
	if err != nil {
		return err
	}
	windows, err := textWindows(c, engine, content)
	if err != nil {
		return err
	}
	measured := make([][]lab.Deviation, len(cases))
	prompts := make([]lab.Prompt, len(cases))
	for _, window := range windows {
		var base *lab.States // of the participants before; cases are in their order
		for i, ac := range cases {
			if base == nil || ac.Participants != cases[i-1].Participants {
				if prompts[i], err = cut(c, window, ac.Participants); err != nil {
					return err
				}
				base = nil // before there is another one: it is large
				if base, err = lab.Observe(c.Context, bench.Engine, prompts[i]); err != nil {
					return err
				}
			} else {
				prompts[i] = prompts[i-1]
			}
			d, err := bench.Analyze(c.Context, ac, base)
			if err != nil {
				return fmt.Errorf("%d participants, %s, %s/%s: %w", ac.Participants, ac.Name, ac.WireK, ac.WireV, err)
			}
			measured[i] = append(measured[i], d)
		}
	}
	analyses := make([]lab.Analysis, len(cases))
	for i, ac := range cases {
		if analyses[i], err = lab.Summarise(ac, prompts[i], measured[i]); err != nil {
			return err
		}
	}
	return show(c.App.Writer, analyses)
}

// analyzeCases lists what to analyse of a model with this many layers, by number of participants. A case's name is its
// schedule as it was given.
func analyzeCases(c *cli.Context, layers int) ([]lab.Case, error) {
	positions, err := fedkv.ParsePositions(c.String("positions"))
	if err != nil {
		return nil, usagef("--positions: %v", err)
	}
	var cases []lab.Case
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
				ac := lab.Default(participants)
				ac.Name, ac.Contributors, ac.Publisher = s, schedules.Contributors.String(), schedules.Publisher.String()
				ac.WireK, ac.WireV, ac.Positions = types.K.String(), types.V.String(), positions.String()
				if schedules.Regime() == fedkv.Lockstep {
					ac.Positions = fedkv.InPlace.String()
				}
				cases = append(cases, ac)
			}
		}
	}
	slices.SortStableFunc(cases, func(a, b lab.Case) int { return a.Participants - b.Participants })
	return cases, nil
}

func analysisLines(w io.Writer, analyses []lab.Analysis) error {
	out := json.NewEncoder(w)
	for _, a := range analyses {
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// analysisCSV has a line for each layer of each case; an empty field is what there is none of.
func analysisCSV(w io.Writer, analyses []lab.Analysis) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{
		"schedule", "participants", "wire_k", "wire_v", "positions", "windows", "layer", "kind", "deviation_publisher",
		"deviation_contributors", "growth", "deviation_publisher_se", "kind_contributors", "growth_contributors",
	})
	for _, a := range analyses {
		for _, l := range a.Layers {
			_ = out.Write([]string{
				a.Name, strconv.Itoa(a.Participants), a.WireK, a.WireV, a.Positions, strconv.Itoa(a.Windows),
				strconv.Itoa(l.Layer), l.Kind, optional(&l.DeviationPublisher, "%.6g"), optional(l.DeviationContributors, "%.6g"),
				optional(l.Growth, "%.6g"), optional(l.DeviationPublisherSE, "%.3g"), l.KindContributors,
				optional(l.GrowthContributors, "%.6g"),
			})
		}
	}
	out.Flush()
	return out.Error()
}

func analysisTables(w io.Writer, analyses []lab.Analysis) error {
	for i, a := range analyses {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s: %d participants, %s/%s rows, %s positions, %d tokens, the publisher's %d, prefix %d, windows %d\n",
			a.Name, a.Participants, a.WireK, a.WireV, a.Positions, a.Tokens, a.PublisherTokens, a.PrefixTokens, a.Windows)
		layers := newTable(w, "layer", "publisher", "deviation", "±", "growth", "contributors", "deviation", "growth")
		for _, l := range a.Layers {
			layers.AppendRow(table.Row{
				l.Layer, l.Kind, fmt.Sprintf("%.5f", l.DeviationPublisher), optional(l.DeviationPublisherSE, "%.5f"),
				optional(l.Growth, "%.3f"), l.KindContributors, optional(l.DeviationContributors, "%.5f"),
				optional(l.GrowthContributors, "%.3f"),
			})
		}
		layers.Render()
		for _, f := range a.Fits {
			r2 := ""
			if f.R2 != nil {
				r2 = fmt.Sprintf(", R² %.3f", *f.R2)
			}
			fmt.Fprintf(w, "%s, %s layers: e' = %.4f e %+.5f (%d points%s)\n", f.Role, f.Kind, f.Slope, f.Intercept, f.Points, r2)
		}
	}
	return nil
}

// optional formats a number that may not exist.
func optional(v *float64, format string) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf(format, *v)
}
