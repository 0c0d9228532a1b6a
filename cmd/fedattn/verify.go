package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
	"fedattn/llama"
)

func promptFlags(tokens, publisher, prefix int) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "text", Usage: "text `FILE` to cut among the participants"},
		&cli.IntFlag{Name: "tokens", Value: tokens, Usage: "tokens of the text to use"},
		&cli.IntFlag{Name: "publisher-tokens", Value: publisher, Usage: "the last of them, which the publisher holds"},
		&cli.IntFlag{Name: "prefix-tokens", Value: prefix, Usage: "the first of them, which everybody holds"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "log the sessions on stderr"},
	}
}

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "prove on this machine that a federated run equals one process, and show what the lossy default costs",
		Flags: append(append(modelFlags(), promptFlags(512, 64, 32)...),
			&cli.IntFlag{Name: "participants", Aliases: []string{"n"}, Value: 4, Usage: "devices, the publisher included"},
			&cli.StringFlag{Name: "transport", Value: "quic", Usage: "quic (over loopback) or memory"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line"},
		),
		Action: runVerify,
	}
}

func runVerify(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	bench, engine, err := newBench(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	text, err := readTokens(c, engine)
	if err != nil {
		return err
	}
	prompt, err := lab.Cut(text, c.Int("tokens"), c.Int("prefix-tokens"), c.Int("publisher-tokens"), c.Int("participants"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		out := json.NewEncoder(c.App.Writer)
		return bench.Verify(c.Context, prompt, func(check lab.Check) { _ = out.Encode(check) })
	}
	rows := newTable(c.App.Writer, "check", "participants", "max |Δ logit|", "mean KL", "same top", "PPL", "PPL one process", "rows KiB", "")
	err = bench.Verify(c.Context, prompt, func(l lab.Check) {
		verdict := "measured"
		switch {
		case l.Exact && l.Passed():
			verdict = "equal"
		case l.Exact:
			verdict = "NOT EQUAL"
		}
		rows.AppendRow(table.Row{
			l.Name, l.Participants, fmt.Sprintf("%.6g", l.MaxAbsLogitDiff), fmt.Sprintf("%.5f", l.KLDMean),
			fmt.Sprintf("%.1f %%", 100*l.SameTop), fmt.Sprintf("%.3f", l.PPL), fmt.Sprintf("%.3f", l.PPLBase),
			l.KVBytes >> 10, verdict,
		})
	})
	rows.Render()
	return err
}

// newBench loads the model and chooses the network. The engine is to be closed.
func newBench(c *cli.Context) (lab.Bench, *llama.Engine, error) {
	network, ok := networks[c.String("transport")]
	if !ok {
		return lab.Bench{}, nil, usagef("unknown transport %q; known are memory, quic", c.String("transport"))
	}
	engine, err := loadEngine(c)
	if err != nil {
		return lab.Bench{}, nil, err
	}
	hello := self(engine, "lab", fedkv.RolePublisher)
	return lab.Bench{Engine: engine, Network: network, Self: hello, Log: newLogger(c, c.Bool("verbose"))}, engine, nil
}

// readTokens tokenises the file that --text names.
func readTokens(c *cli.Context, engine *llama.Engine) ([]fedkv.Token, error) {
	path := c.String("text")
	if path == "" {
		return nil, usagef("no text: give one with --text FILE")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	tokens, err := engine.TokenizeDocument(string(text))
	if err != nil {
		return nil, err
	}
	return tokens, nil
}
