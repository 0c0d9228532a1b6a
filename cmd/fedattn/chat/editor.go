package chat

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// Editor reads lines at a terminal: arrow keys, history, completion of commands, bracketed paste. The terminal is raw only
// while a line is read, so that Ctrl-C is a signal while an answer comes.
type Editor struct {
	// Reading, if it is set, is told when a line begins to be read and when it was, before Ctrl-C becomes a signal.
	Reading func(begins bool)

	in      *os.File
	term    *term.Terminal
	keys    *keys
	history *History
}

// keys is the terminal's input; it remembers which key ended a line.
type keys struct {
	io.Reader
	io.Writer
	interrupted bool
}

const ctrlC = 3

func (k *keys) Read(b []byte) (int, error) {
	n, err := k.Reader.Read(b)
	for i := range b[:n] {
		if b[i] == ctrlC {
			k.interrupted = true
		}
	}
	return n, err
}

// NewEditor reads lines from in, and shows them at out.
func NewEditor(in, out *os.File, history *History) *Editor {
	e := &Editor{in: in, keys: &keys{Reader: in, Writer: out}, history: history}
	e.term = term.NewTerminal(e.keys, "")
	e.term.History = history
	e.term.AutoCompleteCallback = complete
	return e
}

// complete finishes the name of a command that begins a line.
func complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || pos != len(line) || !strings.HasPrefix(line, "/") || strings.Contains(line, " ") {
		return "", 0, false
	}
	var found []string
	for _, name := range Commands() {
		if strings.HasPrefix(name, line[1:]) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return "", 0, false
	}
	line = "/" + found[0] + " "
	return line, len(line), true
}

// Line is Lines'.
func (e *Editor) Line(prompt string) (line string, pasted bool, err error) {
	if e.Reading != nil {
		e.Reading(true)
	}
	state, err := term.MakeRaw(int(e.in.Fd()))
	if err != nil {
		return "", false, err
	}
	defer e.term.SetBracketedPasteMode(false)
	defer func() { err = errors.Join(err, term.Restore(int(e.in.Fd()), state)) }()
	if e.Reading != nil {
		defer e.Reading(false)
	}
	e.term.SetBracketedPasteMode(true)
	defer e.followSize()()
	e.keys.interrupted = false
	e.term.SetPrompt(prompt)
	line, err = e.term.ReadLine()
	switch {
	case errors.Is(err, term.ErrPasteIndicator):
		return line, true, nil
	case errors.Is(err, io.EOF) && e.keys.interrupted:
		_, _ = e.keys.Write([]byte("^C\r\n"))
		return "", false, ErrInterrupted
	case errors.Is(err, io.EOF):
		_, _ = e.keys.Write([]byte("\r\n"))
	}
	return line, false, err
}

// followSize tells the editor the terminal's width, now and whenever it changes.
func (e *Editor) followSize() (stop func()) {
	resize := func() {
		if width, height, err := term.GetSize(int(e.in.Fd())); err == nil && width > 0 && height > 0 {
			_ = e.term.SetSize(width, height)
		}
	}
	resize()
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
				resize()
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(changed); close(done) }
}

// Remember is Lines'.
func (e *Editor) Remember(entry string) { e.history.Remember(entry) }
