package main

import (
	"encoding/json"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
	"fedattn/llama"
)

const promptCategory = "Text"

func promptFlags(tokens, publisher, prefix int) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "text", Usage: "text `FILE` to cut among the participants", Category: promptCategory},
		&cli.IntFlag{Name: "tokens", Value: tokens, Usage: "use the text's first `N` tokens", Category: promptCategory},
		&cli.IntFlag{Name: "publisher-tokens", Value: publisher, Usage: "of these, the publisher holds the last `N`", Category: promptCategory},
		&cli.IntFlag{Name: "prefix-tokens", Value: prefix, Usage: "of these, everybody holds the first `N`", Category: promptCategory},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "log the sessions on stderr", DisableDefaultText: true},
	}, logFlags(verboseLog, "")...)
}

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "prove on this machine that a federated run equals one process, and show what the lossy default costs",
		UsageText: "fedattn verify [flags] --model FILE --text FILE",
		Description: "Real participants exchange rows; their logits are compared with those of one process that evaluates the same tokens\n" +
			"in the same pieces. The checks:\n" +
			"  lockstep-h1-f16       every layer a sync layer, rows as they are: must be equal in every bit\n" +
			"  gather-h1-f16         contributors do not see each other: what that costs\n" +
			"  default-over-network  the default session against the same one in memory: must be equal in every bit\n" +
			"  default               what the default session costs",
		Flags: append(append(modelFlags(), promptFlags(512, 64, 32)...),
			&cli.IntFlag{Name: "participants", Aliases: []string{"n"}, Value: 4, Usage: "devices, the publisher included"},
			&cli.StringFlag{Name: "transport", Value: "quic", Usage: "`NETWORK` between them: quic (over loopback), memory"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line", DisableDefaultText: true},
		),
		Action: runVerify,
	}
}

func runVerify(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	network, err := checkPrompt(c)
	if err != nil {
		return err
	}
	if c.String("text") == "" {
		return noText("--text FILE")
	}
	if n := c.Int("participants"); n < 1 || n > fedkv.MaxParticipants {
		return usagef("--participants %d: must be 1 to %d", n, fedkv.MaxParticipants)
	}
	bench, text, closeBench, err := newBench(c, network)
	if err != nil {
		return err
	}
	defer closeBench()
	prompt, err := cut(c, text, c.Int("participants"))
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
	if rows.Length() > 0 {
		rows.Render()
	}
	return err
}

// checkPrompt finds the mistakes in the flags of verify and eval for which no model is needed.
func checkPrompt(c *cli.Context) (lab.Network, error) {
	err := first(checkModel(c), atLeast(c, 1, "tokens", "publisher-tokens"), atLeast(c, 0, "prefix-tokens"), checkLog(c))
	if err != nil {
		return nil, err
	}
	return chosen(c, "transport", networks)
}

// noText is what verify and eval say if nothing is named that they could evaluate.
func noText(how string) error { return usagef("no text: give one with %s", how) }

// newBench reads the text of --text and loads the model.
func newBench(c *cli.Context, network lab.Network) (bench lab.Bench, text []fedkv.Token, closeBench func(), err error) {
	content, err := readText("text", c.String("text"))
	if err != nil {
		return bench, nil, nil, err
	}
	bench, engine, err := openBench(c, network)
	if err != nil {
		return bench, nil, nil, err
	}
	closeBench = func() { _ = engine.Close() }
	if text, err = engine.TokenizeDocument(content); err != nil {
		closeBench()
	}
	return bench, text, closeBench, err
}

// openBench loads the model that cases are measured on.
func openBench(c *cli.Context, network lab.Network) (lab.Bench, *llama.Engine, error) {
	engine, err := loadEngine(c)
	if err != nil {
		return lab.Bench{}, nil, err
	}
	return lab.Bench{
		Engine: engine, Network: network, Self: self(engine, "lab", fedkv.RolePublisher), Log: sessionLog(c),
	}, engine, nil
}

// textWindows cuts as many stretches as the flags say out of a text; each begins as the model's documents do.
func textWindows(c *cli.Context, engine *llama.Engine, content string) ([][]fedkv.Token, error) {
	start, err := engine.TokenizeDocument("")
	if err != nil {
		return nil, err
	}
	text, err := engine.TokenizeDocument(content)
	if err != nil {
		return nil, err
	}
	windows, err := lab.Windows(start, text[len(start):], c.Int("tokens"), c.Int("windows"))
	if err != nil {
		return nil, cutError(err)
	}
	return windows, nil
}

// cut shares the text out evenly among participants as the flags say.
func cut(c *cli.Context, text []fedkv.Token, participants int) (lab.Prompt, error) {
	return cutBy(c, lab.Evenly, text, participants)
}

func cutBy(c *cli.Context, share lab.Segmentation, text []fedkv.Token, participants int) (lab.Prompt, error) {
	p, err := lab.CutBy(share, text, c.Int("tokens"), c.Int("prefix-tokens"), c.Int("publisher-tokens"), participants)
	if err != nil {
		return p, cutError(err)
	}
	return p, nil
}

func cutError(err error) error {
	return usagef("%v; change --tokens, --participants, --prefix-tokens or --publisher-tokens, or give a longer --text", err)
}

var _ lab.Engine = (*llama.Engine)(nil)
