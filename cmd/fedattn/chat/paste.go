package chat

import (
	"errors"
	"io"
	"strings"
)

// fence opens and closes a text of several lines.
const fence = `"""`

// maxEntry is the most bytes that one entry may have; longer texts are for /read.
const maxEntry = 1 << 20

var errTooLong = errors.New("that is more than a question may have: give long texts with /read FILE")

// entry reads what the user wants to say: a line, the lines of a paste together, or those between two fences.
func (l *Loop) entry() (string, error) {
	var b strings.Builder
	sign := prompt
	fenced := false
	for {
		line, pasted, err := l.Lines.Line(sign)
		if err != nil {
			if errors.Is(err, ErrInterrupted) && b.Len() > 0 {
				return "", nil // what was typed so far is dropped, as on a line
			}
			if errors.Is(err, io.EOF) && fenced {
				return "", nil
			}
			return "", err
		}
		if b.Len()+len(line) > maxEntry {
			return "", errTooLong
		}
		first := b.Len() == 0 && !fenced
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), fence); first && ok && !pasted {
			if text, closed := strings.CutSuffix(rest, fence); closed {
				return l.remembered(text), nil
			}
			fenced, line = true, rest
			if line == "" {
				sign = moreprompt
				continue
			}
		} else if text, closed := strings.CutSuffix(strings.TrimRight(line, " \t"), fence); fenced && closed {
			b.WriteString(text)
			return l.remembered(strings.TrimRight(b.String(), "\n")), nil
		}
		b.WriteString(line)
		if !pasted && !fenced {
			return l.remembered(strings.TrimRight(b.String(), "\n")), nil
		}
		b.WriteByte('\n')
		sign = moreprompt
	}
}

func (l *Loop) remembered(text string) string {
	if strings.TrimSpace(text) != "" {
		l.Lines.Remember(text)
	}
	return text
}
