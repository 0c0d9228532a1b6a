package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"fedattn/fedkv"
)

func TestConsole(t *testing.T) {
	in, typed := io.Pipe()
	person := &person{typed: typed}
	c := newConsole(in, person)
	for _, answer := range []struct {
		text string
		yes  bool
	}{{"y\n", true}, {"n\n", false}, {"\n", false}, {" YES \n", true}, {"yessir\n", false}} {
		person.answer = answer.text
		if err := c.ask(t.Context(), "May it? "); (err == nil) != answer.yes || err != nil && !errors.Is(err, fedkv.ErrForbidden) {
			t.Errorf("%q: %v", answer.text, err)
		}
	}
	person.answer = ""
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.ask(late, "May it? "); !errors.Is(err, fedkv.ErrForbidden) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("without an answer: %v", err)
	}
	if _, err := io.WriteString(typed, "y\n"); err != nil { // to the question before
		t.Fatal(err)
	}
	person.answer = "n\n"
	if err := c.ask(t.Context(), "May it? "); err == nil {
		t.Error("a late yes was taken for the next question's")
	}
	typed.Close()
	if err := c.ask(t.Context(), "May it? "); !errors.Is(err, fedkv.ErrForbidden) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("at the end of the input: %v", err)
	}
	if person.asked != 8 {
		t.Errorf("asked %d times", person.asked)
	}
}

// person answers questions some time after they are asked.
type person struct {
	typed  io.Writer
	answer string
	asked  int
}

func (p *person) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "May it? ") {
		if p.asked++; p.answer != "" {
			go func(answer string) {
				time.Sleep(20 * time.Millisecond)
				_, _ = io.WriteString(p.typed, answer)
			}(p.answer)
		}
	}
	return len(b), nil
}
