// Package chat is a conversation at a terminal: lines in, answers out, commands that begin with a slash. It knows no
// model and no network: whom it talks to is a Partner.
//
// Start reading at Loop.Run. editor.go reads lines, paste.go puts several of them together, commands.go has the
// commands, think.go shows what a model thinks before it answers, saved.go keeps conversations in files.
package chat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Partner answers.
type Partner interface {
	// Say takes a turn; the answer's pieces go to emit as they come. The answer so far is returned with an error.
	Say(ctx context.Context, text string, emit func(piece []byte) error) (Answer, error)
	// Again answers the last turn anew.
	Again(ctx context.Context, emit func(piece []byte) error) (Answer, error)
	// Clear forgets what was said.
	Clear(ctx context.Context) error
	// Recall takes up turns that were said before.
	Recall(turns []Turn) error
	// Read takes in a document, and says in a sentence what it took; Withdraw takes one out again, by name.
	Read(ctx context.Context, path string) (string, error)
	Withdraw(ctx context.Context, name string) (string, error)
	// Set changes a setting; Settings lists all of them with their values.
	Set(name, value string) error
	Settings() [][2]string
	// Tell writes what is known about peers, documents, sources and trace of the last answer, or stats.
	Tell(w io.Writer, about Topic)
}

// Topic is what a Partner can tell about.
type Topic string

// The topics.
const (
	Peers     Topic = "peers"
	Documents Topic = "docs"
	Sources   Topic = "sources"
	Trace     Topic = "trace"
	Stats     Topic = "stats"
)

// Answer is what came of a turn.
type Answer struct {
	Text   string // whole, thoughts included
	Footer string // a line about it, empty: none
}

// Turn is what was said, and answered.
type Turn struct {
	User   string `json:"user"`
	Answer string `json:"answer"`
}

// Lines is where the user types.
type Lines interface {
	// Line returns the next line, or ErrInterrupted, or io.EOF. pasted lines are followed by others of the same paste.
	Line(prompt string) (line string, pasted bool, err error)
	// Remember keeps an entry for the arrow keys.
	Remember(entry string)
}

// ErrInterrupted says that the user pressed Ctrl-C on an empty line, or twice while an answer came.
var ErrInterrupted = errors.New("interrupted")

// Loop is a conversation at a terminal.
type Loop struct {
	Partner Partner
	Lines   Lines
	Out     io.Writer // answers
	Err     io.Writer // everything else
	Think   *Think    // what answers go through
	// Answering is called when an answer begins; interrupts go to stop until done is called.
	Answering func(stop context.CancelFunc) (done func())

	turns []Turn
}

// Prompts.
const (
	prompt     = "> "
	moreprompt = "… "
)

// Run talks until the user quits. It returns ErrInterrupted if that was by Ctrl-C.
func (l *Loop) Run(ctx context.Context) error {
	fmt.Fprintln(l.Err, "Type a question, or /help. Ctrl-C stops an answer, Ctrl-D quits.")
	for ctx.Err() == nil {
		text, err := l.entry()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case strings.TrimSpace(text) == "":
			continue
		}
		if name, rest, ok := command(text); ok {
			quit, err := l.run(ctx, name, rest)
			if errors.Is(err, ErrInterrupted) || quit {
				return err
			}
			if err != nil {
				fmt.Fprintf(l.Err, "%s\n", err)
			}
			continue
		}
		if err := l.say(ctx, text); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// say takes a turn.
func (l *Loop) say(ctx context.Context, text string) error {
	said, answer, err := l.answer(ctx, func(ctx context.Context, emit func([]byte) error) (Answer, error) {
		return l.Partner.Say(ctx, text, emit)
	})
	if said {
		l.turns = append(l.turns, Turn{text, answer.Text})
	}
	return err
}

// again answers the last turn anew.
func (l *Loop) again(ctx context.Context) error {
	if len(l.turns) == 0 {
		return errors.New("nothing was said yet")
	}
	said, answer, err := l.answer(ctx, l.Partner.Again)
	last := len(l.turns) - 1
	if said {
		l.turns[last].Answer = answer.Text
	} else {
		l.turns = l.turns[:last] // the partner has forgotten it too
	}
	return err
}

// answer shows an answer while it comes. said: something of it stays in the conversation. The error ends the loop.
func (l *Loop) answer(ctx context.Context, ask func(context.Context, func([]byte) error) (Answer, error)) (said bool, a Answer, err error) {
	turn, stop := context.WithCancel(ctx)
	defer stop()
	done := l.Answering(stop)
	started := false
	a, err = ask(turn, func(piece []byte) error {
		started = true
		return l.Think.Write(piece)
	})
	done()
	ended := l.Think.End()
	if started {
		fmt.Fprintln(l.Out)
	}
	switch {
	case ended != nil:
		return started, a, ended
	case ctx.Err() != nil:
		return started, a, ctx.Err()
	case turn.Err() != nil:
		fmt.Fprintln(l.Err, "stopped")
		return started, a, nil
	case err != nil:
		fmt.Fprintf(l.Err, "%s\n", err)
		return started, a, nil
	}
	if a.Footer != "" {
		fmt.Fprintln(l.Err, a.Footer)
	}
	return true, a, nil
}

// Once answers one text that did not come from a terminal.
func (l *Loop) Once(ctx context.Context, text string) (Answer, error) {
	started := false
	a, err := l.Partner.Say(ctx, text, func(piece []byte) error {
		started = true
		return l.Think.Write(piece)
	})
	if ended := l.Think.End(); err == nil {
		err = ended
	}
	if started {
		fmt.Fprintln(l.Out)
	}
	if err == nil && a.Footer != "" {
		fmt.Fprintln(l.Err, a.Footer)
	}
	return a, err
}

// Interrupts turns the interrupts of a process into what they mean: the first while an answer comes stops it, any other
// ends the program.
type Interrupts struct {
	mu      sync.Mutex
	stop    context.CancelFunc // nil: no answer comes, or it has been stopped already
	between bool               // a line was read, and what it means has not begun
	early   bool               // an interrupt came then: it is for the answer
}

// Reading is called when a line begins to be read and when it was: the answer to it may take a moment to begin.
func (i *Interrupts) Reading(begins bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.between, i.early = !begins, false
}

// Answering is Loop's.
func (i *Interrupts) Answering(stop context.CancelFunc) (done func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stop = stop; i.early {
		i.stop()
		i.stop = nil
	}
	i.between, i.early = false, false
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.stop = nil
	}
}

// Interrupt is called for each interrupt; false: the program has to end.
func (i *Interrupts) Interrupt() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.stop != nil:
		i.stop()
		i.stop = nil
		return true
	case i.between && !i.early:
		i.early = true
		return true
	}
	return false
}
