package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
	"fedattn/fedkv/profile"
)

func calibrateCommand() *cli.Command {
	return &cli.Command{
		Name:      "calibrate",
		Usage:     "measure what each layer of a model is worth, and write a profile for --schedule auto and --budget",
		UsageText: "fedattn calibrate [flags] --model FILE --text FILE",
		Description: "For every layer: the KL divergence from one process without this layer among the sync layers, with this one\n" +
			"only, and with smaller rows at it. From these come ladders: settings that need fewer and fewer bytes, the saving\n" +
			"that costs least first, measured again at some rungs. The profile is JSON, bound to the model's fingerprint.\n" +
			"It evaluates the publisher's tokens four times for each layer and window, and with --contributors all tokens of\n" +
			"the first window twice more for each layer. The seconds that fedattn eval shows for gather tell how long all take.",
		Flags: append(append(modelFlags(), promptFlags(1024, 128, 32)...),
			&cli.IntFlag{Name: "participants", Aliases: []string{"n"}, Value: 4, Usage: "devices, the publisher included: `N`"},
			&cli.IntFlag{Name: "windows", Value: 2, Usage: "repeat with `N` parts of the text and take means"},
			&cli.StringFlag{Name: "wire", Value: "q4_0+c+h/q4_0+h", Usage: "`K/V` rows to start from"},
			&cli.StringFlag{Name: "small-wire", Value: "nf3+c+h/nf3+h", Usage: "`K/V` rows where bytes are saved"},
			&cli.BoolFlag{Name: "contributors", Usage: "measure the contributors' sync layers too"},
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Usage: "`FILE` to write; standard output without it"},
		),
		Action: runCalibrate,
	}
}

// calibratedShares are the shares of the ladders' first bytes at which they are measured.
var calibratedShares = []float64{0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2}

func runCalibrate(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := first(checkModel(c), atLeast(c, 1, "tokens", "publisher-tokens", "windows"), atLeast(c, 0, "prefix-tokens"),
		atLeast(c, 2, "participants"), checkLog(c)); err != nil {
		return err
	}
	if c.String("text") == "" {
		return noText("--text FILE")
	}
	start, err := fedkv.ParseWireTypes(c.String("wire"))
	if err != nil {
		return usagef("--wire: %v", err)
	}
	small, err := fedkv.ParseWireTypes(c.String("small-wire"))
	if err != nil {
		return usagef("--small-wire: %v", err)
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
	tokens, err := textWindows(c, engine, content)
	if err != nil {
		return err
	}
	note := func(what string) { fmt.Fprintf(c.App.ErrWriter, "%s\n", what) }
	var windows []lab.Window
	for i, t := range tokens {
		note(fmt.Sprintf("one process, window %d of %d", i+1, len(tokens)))
		p, err := cut(c, t, c.Int("participants"))
		if err != nil {
			return err
		}
		base, err := lab.Centralised(c.Context, bench.Engine, p, false)
		if err != nil {
			return err
		}
		windows = append(windows, lab.Window{Prompt: p, Base: base})
	}
	p, err := lab.Calibrate(c.Context, bench.Engine, lab.Calibration{
		Windows: windows, Start: start, Small: small, Rungs: calibratedShares,
		Contributors: c.Bool("contributors"), Note: note,
	})
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(content))
	p.Source = profile.Source{
		Text: hex.EncodeToString(digest[:]), Windows: len(windows), Tokens: c.Int("tokens"),
		PublisherTokens: c.Int("publisher-tokens"), PrefixTokens: c.Int("prefix-tokens"), Participants: c.Int("participants"),
	}
	write := func(w io.Writer) error {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(p)
	}
	if path := c.String("out"); path != "" {
		if err := writeWhole(path, write); err != nil {
			return fmt.Errorf("the profile cannot be written: %w; give another file with --out", err)
		}
		return nil
	}
	return write(c.App.Writer)
}
