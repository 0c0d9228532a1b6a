package main

import (
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/llama"
)

// newTable prints plain columns: it is read in terminals, pipes and logs alike.
func newTable(w io.Writer, header ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	row := make(table.Row, len(header))
	for i, h := range header {
		row[i] = h
	}
	t.AppendHeader(row)
	return t
}

// newLogger logs to stderr, warnings only unless all is set.
func newLogger(c *cli.Context, all bool) zerolog.Logger {
	level := zerolog.WarnLevel
	if all {
		level = zerolog.DebugLevel
	}
	w := zerolog.ConsoleWriter{Out: c.App.ErrWriter, NoColor: !colour(c.App.ErrWriter), TimeFormat: "15:04:05"}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// colour says whether a stream is a terminal whose user wants colours.
func colour(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && isTerminal(f)
}

// noArguments refuses words that no flag takes.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("%s: unexpected argument %q; see fedattn %s --help", c.Command.Name, c.Args().First(), c.Command.Name)
	}
	return nil
}

// self is what this device says of itself.
func self(engine *llama.Engine, name string, role fedkv.Role) fedkv.Hello {
	return fedkv.Hello{
		Protocol: fedkv.Protocol, Name: name, Engine: llama.Commit(), Model: engine.Fingerprint(),
		Types: []fedkv.Type{fedkv.Q8_0, fedkv.Q4_0, fedkv.F16, fedkv.Q5_1, fedkv.Q4_1}, Role: role,
	}
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 10<<10:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
