package chat

import (
	"bytes"
	"io"
)

// ThinkMode says what becomes of the thoughts that some models write before they answer.
type ThinkMode string

// The modes.
const (
	ThinkDim  ThinkMode = "dim"  // shown, and dimmed where there are colours
	ThinkShow ThinkMode = "show" // shown like the answer
	ThinkHide ThinkMode = "hide"
)

// The tags around thoughts, as reasoning models write them.
var (
	thinkOpen  = []byte("<think>")
	thinkClose = []byte("</think>")
)

// Think writes an answer piece by piece and treats the thoughts in it as told. Tags may be cut anywhere.
type Think struct {
	Out   io.Writer
	Mode  ThinkMode
	Style func(dim bool) // switches the terminal; nil: no colours

	rest     []byte // may be the beginning of a tag
	thinking bool
	begun    bool // something of the answer is shown
}

// Write takes the next piece.
func (t *Think) Write(piece []byte) error {
	t.rest = append(t.rest, piece...)
	for {
		tag := thinkOpen
		if t.thinking {
			tag = thinkClose
		}
		at := bytes.Index(t.rest, tag)
		if at < 0 {
			keep := overlap(t.rest, tag)
			err := t.show(t.rest[:len(t.rest)-keep])
			t.rest = append(t.rest[:0], t.rest[len(t.rest)-keep:]...)
			return err
		}
		if err := t.show(t.rest[:at]); err != nil {
			return err
		}
		t.rest = append(t.rest[:0], t.rest[at+len(tag):]...)
		if err := t.turn(tag); err != nil {
			return err
		}
	}
}

// turn passes a tag.
func (t *Think) turn(tag []byte) error {
	t.thinking = !t.thinking
	if t.Mode != ThinkDim {
		if t.Mode == ThinkShow {
			return t.show(tag)
		}
		return nil
	}
	if t.Style == nil {
		return t.show(tag) // without colours the tags tell thoughts from the answer
	}
	t.Style(t.thinking)
	return nil
}

func (t *Think) show(b []byte) error {
	if t.Mode == ThinkHide {
		if t.thinking {
			return nil
		}
		if !t.begun { // the blank lines between thoughts and answer
			b = bytes.TrimLeft(b, "\r\n")
		}
	}
	if len(b) == 0 {
		return nil
	}
	t.begun = true
	_, err := t.Out.Write(b)
	return err
}

// End shows what waits for the rest of a tag, and is ready for the next answer.
func (t *Think) End() error {
	err := t.show(t.rest)
	if t.thinking && t.Mode == ThinkDim && t.Style != nil {
		t.Style(false)
	}
	t.rest, t.thinking, t.begun = nil, false, false
	return err
}

// overlap is the length of the longest end of b that may be the beginning of tag.
func overlap(b, tag []byte) int {
	for n := min(len(b), len(tag)-1); n > 0; n-- {
		if bytes.Equal(b[len(b)-n:], tag[:n]) {
			return n
		}
	}
	return 0
}
