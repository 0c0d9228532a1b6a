package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
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

// escape writes a sequence that the terminal shall obey; elsewhere it does nothing.
func (o *output) escape(sequence string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && o.terminal {
		_, o.err = io.WriteString(o.w, sequence)
	}
}

func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// printer drops what a terminal would obey instead of showing: an answer repeats what others wrote. These are all
// control characters but line feed and tab; what is no UTF-8 becomes U+FFFD. A character that is not whole yet waits
// for the next call, since tokens end anywhere.
type printer struct{ rest []byte }

func (p *printer) clean(b []byte) []byte {
	p.rest = append(p.rest, b...)
	var shown []byte
	for utf8.FullRune(p.rest) {
		r, size := utf8.DecodeRune(p.rest)
		if !unicode.IsControl(r) || r == '\n' || r == '\t' {
			shown = utf8.AppendRune(shown, r)
		}
		p.rest = p.rest[size:]
	}
	return shown
}

// onTerminal says whether a stream is a terminal.
func onTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour says whether a stream is a terminal whose user wants colours.
func colour(w io.Writer) bool { return os.Getenv("NO_COLOR") == "" && onTerminal(w) }

// jsonLines prints a list as one JSON object a line.
func jsonLines[T any](w io.Writer, list []T) error {
	out := json.NewEncoder(w)
	for _, v := range list {
		if err := out.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

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

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
