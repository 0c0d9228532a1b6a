package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/audit"
	"fedattn/fedkv/node/lab"
	"fedattn/llama"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name:      "audit",
		Usage:     "read a text back out of the rows that a device would send, as a peer with the same model could",
		UsageText: "fedattn audit [flags] --model FILE --text FILE",
		Description: "The text's rows go through the wire types into a publisher's cache, and attacks try to read them there, one layer at a\n" +
			"time. They know the model, the first --prefix-tokens, and which tokens' rows they have:\n" +
			"  guess    no rows at all: the model's own likeliest token, again and again\n" +
			"  lookup   the nearest row in a table of the vocabulary; for rows of layer 0\n" +
			"  search   the model's likeliest tokens are evaluated behind what is known, --tries of them at most, and the one with\n" +
			"           the nearest rows is taken\n" +
			"Recovered is the share of all tokens that are right, of those whose rows were sent, and of the others. The same flags\n" +
			"print the same lines.",
		Flags: append(modelFlags(),
			&cli.StringFlag{Name: "text", Usage: "text `FILE` to read back", Category: promptCategory},
			&cli.IntFlag{Name: "tokens", Value: 64, Usage: "use the text's first `N` tokens after the prefix", Category: promptCategory},
			&cli.IntFlag{Name: "prefix-tokens", Value: 16, Usage: "before them, everybody knows the first `N`", Category: promptCategory},
			&cli.StringFlag{Name: "layers", Value: "0-2", Usage: "`LAYERS` whose rows are read, each by itself: as a schedule, such as 0-2,8,15"},
			&cli.StringSliceFlag{Name: "wire", Value: cli.NewStringSlice("q8_0/q4_0", "q4_0+c+h/q4_0+h", "nf3+c+h/nf3+h"), KeepSpace: true,
				Usage: "`K/V` rows on the wire: " + wireTypes},
			&cli.StringSliceFlag{Name: "rows", Value: cli.NewStringSlice(lab.AllRows), KeepSpace: true,
				Usage: "`ROWS` that are sent: all, or a share of them: random=0.5, layer-random=0.5, recent=0.5, private=0.33"},
			&cli.IntFlag{Name: "tries", Value: 2040, Usage: "candidates for one token, at most"},
			&cli.IntFlag{Name: "seed", Value: 1, Usage: "`SEED` of rows that are chosen at random"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of the output: table, jsonl"},
		),
		Action: runAudit,
	}
}

// auditLine is how much an attack reads of what is given away, as --format jsonl prints it.
type auditLine struct {
	Attack string `json:"attack"`
	Layer  int    `json:"layer"` // -1: of none
	WireK  string `json:"wire_k,omitempty"`
	WireV  string `json:"wire_v,omitempty"`
	Rows   string `json:"rows"`
	Tokens int    `json:"tokens"`
	Sent   int    `json:"sent"` // tokens whose rows the attack had

	Recovered       int     `json:"recovered"`      // tokens
	RecoveredSent   int     `json:"recovered_sent"` // of those with rows
	RecoveredShare  float64 `json:"recovered_share"`
	SentShare       float64 `json:"recovered_sent_share"`
	UnsentShare     float64 `json:"recovered_unsent_share"`
	Vocabulary      int     `json:"vocabulary"`
	PrefixTokens    int     `json:"prefix_tokens"`
	CandidatesTried int     `json:"tries,omitempty"`
}

// auditCase is what is sent, of all layers in question.
type auditCase struct {
	types fedkv.WireTypes
	rows  string
	which fedkv.Selection
}

const auditBatch = 255 // candidates that one evaluation tries

func runAudit(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := first(checkModel(c), atLeast(c, 1, "tokens", "prefix-tokens", "tries"), atLeast(c, 0, "seed")); err != nil {
		return err
	}
	if c.String("text") == "" {
		return noText("--text FILE")
	}
	show, err := chosen(c, "format", map[string]func(io.Writer, []auditLine) error{"table": auditTable, "jsonl": jsonLines[auditLine]})
	if err != nil {
		return err
	}
	cases, err := auditCases(c)
	if err != nil {
		return err
	}
	if _, err := auditLayers(c, fedkv.MaxLayers); err != nil {
		return err
	}
	content, err := readText("text", c.String("text"))
	if err != nil {
		return err
	}
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	layers, err := auditLayers(c, engine.Layers())
	if err != nil {
		return err
	}
	tokens, err := engine.TokenizeDocument(content)
	if err != nil {
		return err
	}
	prefix, n := c.Int("prefix-tokens"), c.Int("tokens")
	if len(tokens) < prefix+n {
		return fmt.Errorf("the text has %d tokens, %d are asked for; change --tokens or --prefix-tokens", len(tokens), prefix+n)
	}
	a := auditRun{Context: c, engine: engine, prefix: tokens[:prefix], text: tokens[prefix : prefix+n]}
	lines, err := a.all(layers, cases)
	if err != nil {
		return err
	}
	return show(c.App.Writer, lines)
}

func auditCases(c *cli.Context) ([]auditCase, error) {
	var cases []auditCase
	for _, rows := range c.StringSlice("rows") {
		policy, err := fedkv.ParseRowPolicy(rows)
		if err != nil {
			return nil, usagef("--rows: %v", err)
		}
		policy.Seed = uint64(c.Int("seed"))
		which := policy.Of(0)
		if which.NeedsKeys() || which.NeedsQueries() {
			return nil, usagef("--rows %s: which rows these are depends on the text; take all, random, layer-random, recent or private", rows)
		}
		for _, wire := range c.StringSlice("wire") {
			types, err := fedkv.ParseWireTypes(wire)
			if err != nil {
				return nil, usagef("--wire: %v", err)
			}
			cases = append(cases, auditCase{types, rows, which})
		}
	}
	return cases, nil
}

func auditLayers(c *cli.Context, layers int) (fedkv.Schedule, error) {
	s, err := fedkv.ParseSchedule(c.String("layers"), layers)
	if err == nil && s.Count() == 0 {
		err = fmt.Errorf("no layer")
	}
	if err != nil {
		return s, usagef("--layers %q: %v", c.String("layers"), err)
	}
	return s, nil
}

// auditRun is what audit does with its flags once they are right.
type auditRun struct {
	*cli.Context
	engine       *llama.Engine
	prefix, text []fedkv.Token
}

func (a auditRun) all(layers fedkv.Schedule, cases []auditCase) ([]auditLine, error) {
	var lines []auditLine
	var exposures []audit.Exposure
	nothing := audit.Exposure{K: make([][]float32, len(a.text)), V: make([][]float32, len(a.text))}
	exposures = append(exposures, nothing)
	lines = append(lines, auditLine{Attack: "guess", Layer: -1, Rows: "none"})
	for _, sent := range cases {
		exposed, err := lab.Exposed(a.engine, a.prefix, a.text, layers.Layers(), sent.types, sent.which, nil)
		if err != nil {
			return nil, err
		}
		for _, e := range exposed {
			exposures = append(exposures, e)
			lines = append(lines, auditLine{
				Attack: "search", Layer: e.Layer, WireK: sent.types.K.String(), WireV: sent.types.V.String(), Rows: sent.rows,
				CandidatesTried: a.Int("tries"),
			})
		}
	}
	trials, err := a.engine.NewTrials(len(a.prefix) + len(a.text))
	if err != nil {
		return nil, err
	}
	defer trials.Close()
	search := audit.Search{Trials: trials, Layers: a.engine.Layers(), Prefix: a.prefix, Batch: auditBatch, Tries: a.Int("tries")}
	readings, err := search.Text(a.Context.Context, exposures)
	if err != nil {
		return nil, err
	}
	if layers.Sync(0) {
		table, err := audit.NewLookup(a.Context.Context, trials, a.engine.Layers(), a.prefix)
		if err != nil {
			return nil, err
		}
		for i := range slices.Clone(exposures) {
			if lines[i].Layer != 0 {
				continue
			}
			reading, err := table.Text(exposures[i])
			if err != nil {
				return nil, err
			}
			line := lines[i]
			line.Attack, line.CandidatesTried = "lookup", 0
			lines, exposures, readings = append(lines, line), append(exposures, exposures[i]), append(readings, reading)
		}
	}
	for i := range lines {
		a.count(&lines[i], readings[i], exposures[i])
	}
	return lines, nil
}

// count says how much of the text a reading has.
func (a auditRun) count(line *auditLine, r audit.Reading, e audit.Exposure) {
	all, sent := r.Recovered(e, a.text)
	line.Tokens, line.Sent, line.Recovered, line.RecoveredSent = len(a.text), e.Sent(), all, sent
	line.RecoveredShare, line.SentShare = share(all, len(a.text)), share(sent, line.Sent)
	line.UnsentShare = share(all-sent, len(a.text)-line.Sent)
	line.Vocabulary, line.PrefixTokens = a.engine.Vocabulary(), len(a.prefix)
}

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func auditTable(w io.Writer, lines []auditLine) error {
	t := newTable(w, "attack", "layer", "K/V", "rows", "tokens", "sent", "recovered", "of sent", "of the others")
	for _, l := range lines {
		layer, wire := "", ""
		if l.Layer >= 0 {
			layer, wire = fmt.Sprint(l.Layer), l.WireK+"/"+l.WireV
		}
		row := []any{l.Attack, layer, wire, l.Rows, l.Tokens, l.Sent, percent(l.RecoveredShare)}
		for _, part := range []struct {
			share float64
			of    int
		}{{l.SentShare, l.Sent}, {l.UnsentShare, l.Tokens - l.Sent}} {
			text := ""
			if part.of > 0 {
				text = percent(part.share)
			}
			row = append(row, text)
		}
		t.AppendRow(row)
	}
	t.Render()
	return nil
}
