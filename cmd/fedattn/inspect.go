package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/tap"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show what crossed the links of a recorded question (ask --record), and search it for texts",
		ArgsUsage: "RECORD",
		Flags: append(modelFlags(),
			&cli.StringSliceFlag{Name: "absent", Usage: "text `FILE` that must not be in the record, as text or as tokens; may be given several times"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "every message byte by byte, and every block's header"},
		),
		Action: runInspect,
	}
}

func runInspect(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return usagef("inspect: one record is needed; ask --record FILE makes it")
	}
	record, err := os.ReadFile(c.Args().First())
	if err != nil {
		return err
	}
	if err := printRecord(c.App.Writer, record, c.Bool("verbose")); err != nil {
		return fmt.Errorf("%s: %w", c.Args().First(), err)
	}
	files := c.StringSlice("absent")
	if len(files) == 0 {
		return nil
	}
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	var texts []tap.Text
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		tokens, err := engine.Tokenize(string(b))
		if err != nil {
			return err
		}
		texts = append(texts, tap.Text{Name: file, Text: string(b), Tokens: tokens})
	}
	found, err := tap.Search(bytes.NewReader(record), texts)
	if err != nil {
		return err
	}
	for _, f := range found {
		fmt.Fprintln(c.App.Writer, f)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d pieces of the texts are in the record", len(found))
	}
	fmt.Fprintf(c.App.Writer, "no piece of %d texts is in the record: no 12 bytes of a text, no 4 tokens in a row\n", len(texts))
	return nil
}

// printRecord counts what was said, and shows each entry if verbose is set.
func printRecord(w io.Writer, record []byte, verbose bool) error {
	type line struct{ entries, bytes int }
	lines := map[string]*line{}
	var order []string
	n := 0
	err := tap.Read(bytes.NewReader(record), func(e tap.Entry) error {
		what := "blocks of rows"
		shown := e.Bytes
		if e.Kind == tap.Control {
			m := "message of a later version"
			if typ, _, err := fedkv.ParseFrameHeader(e.Bytes[:min(len(e.Bytes), fedkv.FrameHeaderSize)]); err == nil {
				m = typ.String()
			}
			what = m
		} else {
			shown = e.Bytes[:min(len(e.Bytes), fedkv.BlockHeaderSize)]
		}
		direction := map[byte]string{tap.Sent: "sent", tap.Received: "received"}[e.Direction]
		key := direction + " " + what
		if lines[key] == nil {
			lines[key] = &line{}
			order = append(order, key)
		}
		lines[key].entries++
		lines[key].bytes += len(e.Bytes)
		if verbose {
			fmt.Fprintf(w, "entry %d, %s:\n%s\n", n, direction, fedkv.Annotate(shown))
		}
		n++
		return nil
	})
	if err != nil {
		return err
	}
	t := newTable(w, "", "entries", "bytes")
	for _, key := range order {
		t.AppendRow(table.Row{key, lines[key].entries, lines[key].bytes})
	}
	t.Render()
	return nil
}

// wireRecord is the file that --record names; without one it does nothing.
type wireRecord struct {
	file     *os.File
	out      *bufio.Writer
	recorder *tap.Recorder
}

func openRecord(path string) (*wireRecord, error) {
	if path == "" {
		return &wireRecord{}, nil
	}
	// rows are as private as the texts they come from
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriter(f)
	return &wireRecord{f, out, tap.NewRecorder(out)}, nil
}

func (w *wireRecord) tap(l node.Link, err error) (node.Link, error) {
	if err != nil || w.recorder == nil {
		return l, err
	}
	return w.recorder.Link(l), nil
}

func (w *wireRecord) close() error {
	if w.file == nil {
		return nil
	}
	err := w.recorder.Err()
	if flush := w.out.Flush(); err == nil {
		err = flush
	}
	if close := w.file.Close(); err == nil {
		err = close
	}
	return err
}
