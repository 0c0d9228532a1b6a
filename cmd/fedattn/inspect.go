package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/tap"
)

// shortestText is how many bytes of a text package tap looks for: a shorter one would never be found.
const shortestText = 12

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show what a model is, or what crossed the links of a recorded question",
		UsageText: "fedattn inspect [flags] MODEL.gguf\nfedattn inspect [flags] RECORD   (fedattn ask --record FILE makes one)",
		Description: "Of a model: attention, bytes of rows, memory, template, and whether it can take part. Of a record: messages and blocks.\n" +
			"With --absent it fails if a piece of such a text is in the record, as text or as the model's tokens in any of the\n" +
			"usual encodings. It does not tell what could be computed from the rows.",
		Flags: append(modelFlags(),
			&cli.StringSliceFlag{Name: "absent", Usage: "text `FILE` that must not be in the record"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "all metadata; every message byte by byte, and every block's header", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print what a model is as one JSON object", DisableDefaultText: true},
		),
		Action: runInspect,
	}
}

func runInspect(c *cli.Context) error {
	args, err := words(c, "record")
	if err != nil {
		return err
	}
	if len(args) != 1 {
		return usagef("%d files are named: inspect reads one, a model or a record; fedattn ask --record FILE makes a record", len(args))
	}
	if len(c.StringSlice("absent")) == 0 && isModelFile(args[0]) {
		return inspectModel(c, args[0])
	}
	texts, err := absentTexts(c)
	if err != nil {
		return err
	}
	name := args[0]
	record, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no such record: %s; fedattn ask --record FILE makes one", name)
	} else if err != nil {
		return err
	}
	defer record.Close()
	if err := printRecord(c.App.Writer, record, c.Bool("verbose")); err != nil {
		return fmt.Errorf("%s: %s; fedattn ask --record FILE makes a record", name, strings.TrimPrefix(err.Error(), "tap: "))
	}
	if len(texts) == 0 {
		return nil
	}
	if _, err := record.Seek(0, io.SeekStart); err != nil {
		return err
	}
	found, err := tap.Search(bufio.NewReader(record), texts)
	if err != nil {
		return err
	}
	for _, f := range found {
		fmt.Fprintln(c.App.Writer, f)
	}
	if len(found) > 0 {
		return fmt.Errorf("the record has pieces of what must not be in it: %d are listed", len(found))
	}
	fmt.Fprintf(c.App.Writer, "no piece of %s is in the record: no 12 bytes of a text, no 4 tokens in a row\n", count(len(texts), "text"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// absentTexts reads what --absent names, as text and as the model's tokens.
func absentTexts(c *cli.Context) ([]tap.Text, error) {
	files := c.StringSlice("absent")
	if len(files) == 0 {
		return nil, nil
	}
	if err := checkModel(c); err != nil {
		return nil, err
	}
	var texts []tap.Text
	for _, file := range files {
		text, err := readText("absent", file)
		if err != nil {
			return nil, err
		}
		texts = append(texts, tap.Text{Name: file, Text: text})
	}
	engine, err := loadEngine(c)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	for i := range texts {
		if texts[i].Tokens, err = engine.Tokenize(texts[i].Text); err != nil {
			return nil, err
		}
		if t := texts[i]; len(t.Text) < shortestText {
			return nil, fmt.Errorf("%s is too short to search for: fewer than %d bytes could be in any record by chance", t.Name, shortestText)
		}
	}
	return texts, nil
}

// printRecord counts what was said, and shows each entry if verbose is set.
func printRecord(w io.Writer, record io.Reader, verbose bool) error {
	type line struct{ entries, bytes int }
	lines := map[string]*line{}
	var order []string
	n := 0
	err := tap.Read(bufio.NewReader(record), func(e tap.Entry) error {
		what := "blocks of rows"
		shown := e.Bytes
		if e.Kind == tap.Control {
			m := "message of a later version"
			if typ, _, err := fedkv.ParseFrameHeader(e.Bytes[:min(len(e.Bytes), fedkv.FrameHeaderSize)]); err == nil {
				m = typ.String()
			}
			what = m
		} else {
			shown = e.Bytes[:min(len(e.Bytes), fedkv.BlockHeaderLength(e.Bytes))]
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
	if n == 0 {
		return errors.New("it is empty, nothing crossed the links")
	}
	t := newTable(w, "", "entries", "bytes")
	for _, key := range order {
		t.AppendRow(table.Row{key, lines[key].entries, lines[key].bytes})
	}
	t.Render()
	return nil
}

// wireRecord is the file that --record names; without one it does nothing. It is written entry by entry, so that it
// is whole up to the moment at which a process is killed.
type wireRecord struct {
	file     *os.File
	recorder *tap.Recorder
}

func openRecord(path string) (*wireRecord, error) {
	if path == "" {
		return &wireRecord{}, nil
	}
	// rows are as private as the texts they come from
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("no place for the record: %w; give another file with --record", err)
	}
	return &wireRecord{f, tap.NewRecorder(f)}, nil
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
	if closed := w.file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("the record is not whole: %w", err)
	}
	return nil
}
