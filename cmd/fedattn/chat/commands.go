package chat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// help lists the commands.
const help = `/help             this list
/read FILE        take in a document of this device; the next answer attends to it
/drop NAME        take it out again
/docs             documents of this device
/peers            who takes part: tokens, bytes, times, who is missing and why
/sources          whose rows the last answer looked at, the most first
/trace            what the last answer waited for, step by step and layer by layer
/stats            tokens and times of the last answer
/regen            answer the last question again
/clear            forget what was said; documents and peers stay
/set NAME VALUE   change a setting; without a value: show it
/show             all settings
/save FILE        write the conversation to a file
/load FILE        take up a conversation that was saved
/bye              quit, as Ctrl-D does

Several lines: paste them, or begin and end with """. A line that begins with a slash and is no command: //…
Ctrl-C stops the answer; on an empty line it quits.
`

// command splits "/name rest". Two slashes, or a path, are text.
func command(text string) (name, rest string, ok bool) {
	if strings.Contains(text, "\n") || !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") {
		return "", "", false
	}
	name, rest, _ = strings.Cut(strings.TrimSpace(text[1:]), " ")
	return name, strings.TrimSpace(rest), true
}

// Commands are the names of all commands.
func Commands() (names []string) {
	for line := range strings.Lines(help) {
		if name, ok := strings.CutPrefix(line, "/"); ok {
			name, _, _ = strings.Cut(name, " ")
			names = append(names, name)
		}
	}
	return names
}

// run is one command. Its error is for the user, and does not end the loop unless it is ErrInterrupted.
func (l *Loop) run(ctx context.Context, name, rest string) (quit bool, err error) {
	switch name {
	case "help", "?":
		fmt.Fprint(l.Err, help)
	case "bye", "quit", "exit":
		return true, nil
	case "clear":
		l.turns = nil
		return false, l.Partner.Clear(ctx)
	case "regen":
		return false, l.again(ctx)
	case "read":
		if rest == "" {
			return false, errors.New("which file? /read FILE")
		}
		return false, l.tell(l.Partner.Read(ctx, unquoted(rest)))
	case "drop":
		if rest == "" {
			return false, errors.New("which document? /drop NAME; /docs lists them")
		}
		return false, l.tell(l.Partner.Withdraw(ctx, unquoted(rest)))
	case "peers", "docs", "sources", "trace", "stats":
		l.Partner.Tell(l.Err, Topic(name))
	case "set":
		return false, l.set(rest)
	case "show":
		for _, s := range l.Partner.Settings() {
			fmt.Fprintf(l.Err, "%-16s%s\n", s[0], s[1])
		}
	case "save":
		return false, l.tell(save(unquoted(rest), l.turns))
	case "load":
		return false, l.load(ctx, unquoted(rest))
	default:
		return false, fmt.Errorf("there is no command /%s; /help lists them, // begins a line that is none", name)
	}
	return false, nil
}

// tell shows a sentence.
func (l *Loop) tell(text string, err error) error {
	if err == nil {
		fmt.Fprintln(l.Err, text)
	}
	return err
}

func (l *Loop) set(rest string) error {
	name, value, given := strings.Cut(rest, " ")
	all := l.Partner.Settings()
	i := slices.IndexFunc(all, func(s [2]string) bool { return s[0] == name })
	if i < 0 {
		return fmt.Errorf("there is no setting %q; /show lists them", name)
	}
	if !given {
		fmt.Fprintln(l.Err, all[i][1])
		return nil
	}
	return l.Partner.Set(name, unquoted(strings.TrimSpace(value)))
}

func (l *Loop) load(ctx context.Context, path string) error {
	turns, err := load(path)
	if err != nil {
		return err
	}
	if err := l.Partner.Clear(ctx); err != nil {
		return err
	}
	l.turns = nil
	if err := l.Partner.Recall(turns); err != nil {
		return err
	}
	l.turns = turns
	fmt.Fprintf(l.Err, "%d turns are taken up\n", len(turns))
	return nil
}

// unquoted is a name without the quotes that a dragged file comes with.
func unquoted(text string) string {
	for _, q := range []string{"'", `"`} {
		if inner, ok := strings.CutPrefix(text, q); ok {
			if inner, ok = strings.CutSuffix(inner, q); ok {
				return inner
			}
		}
	}
	return text
}
