package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// output is standard output. It keeps the first error of a write, so that commands need not look: nothing is written
// after it, and the command's context ends.
type output struct {
	w        io.Writer
	terminal bool
	broken   func()

	mu    sync.Mutex
	shown printer
	err   error
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	clean := b
	if o.terminal {
		clean = o.shown.clean(b)
	}
	if _, o.err = o.w.Write(clean); o.err != nil {
		o.broken()
		return 0, o.err
	}
	return len(b), nil
}

func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// printer drops what a terminal would obey instead of showing: an answer repeats what others wrote. These are the C0
// controls but for line feed and tab, DEL, and the C1 controls, which UTF-8 writes as C2 80 to C2 9F. It keeps its state
// between calls, since an answer comes in pieces that may end within a character.
type printer struct{ afterC2 bool }

func (p *printer) clean(b []byte) []byte {
	const space, del, c2, endC1 = 0x20, 0x7f, 0xc2, 0xa0
	var kept []byte
	for _, c := range b {
		if p.afterC2 {
			p.afterC2 = false
			if c >= endC1 {
				kept = append(kept, c2, c)
			}
			if c > del {
				continue
			}
		}
		switch {
		case c == c2:
			p.afterC2 = true
		case c >= space && c != del || c == '\n' || c == '\t':
			kept = append(kept, c)
		}
	}
	return kept
}

// onTerminal says whether a stream is a terminal.
func onTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour says whether a stream is a terminal whose user wants colours.
func colour(w io.Writer) bool { return os.Getenv("NO_COLOR") == "" && onTerminal(w) }

// newTable prints plain columns: it is read in terminals, pipes and logs alike.
func newTable(w io.Writer, header ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	row := make(table.Row, len(header))
	for i, h := range header {
		row[i] = h
	}
	t.AppendHeader(row)
	return t
}

// newLogger logs to stderr if on is set; otherwise the command says itself what matters.
func newLogger(c *cli.Context, on bool) zerolog.Logger {
	if !on {
		return zerolog.Nop()
	}
	w := zerolog.ConsoleWriter{Out: c.App.ErrWriter, NoColor: !colour(c.App.ErrWriter), TimeFormat: "15:04:05"}
	return zerolog.New(w).With().Timestamp().Logger()
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
