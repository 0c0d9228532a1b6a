package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/policy"
	"fedattn/transport"
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

// Two sessions at a time do not take twice what is left of a peer's day, and one that comes to nothing gives it back.
func TestSessionsUnderWayCountForTheDay(t *testing.T) {
	identity, err := transport.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte("day: {tokens: 10}"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOwner(&members{dir: t.TempDir(), anybody: true}, p, identity, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	consent := func(session byte, peer string, tokens int) error {
		return o.Consent(t.Context(), node.Request{Peer: peer, Plan: fedkv.Plan{Session: fedkv.SessionID{session}}, Tokens: tokens, Bytes: int64(100 * tokens)})
	}
	over := func(session byte, peer string, tokens int) {
		o.keep(node.Contribution{Session: fedkv.SessionID{session}, Publisher: peer, Tokens: tokens, Bytes: int64(100 * tokens)})
	}
	for _, step := range []struct {
		do func() error
		ok bool
	}{
		{func() error { return consent(1, "laptop", 6) }, true},
		{func() error { return consent(2, "laptop", 6) }, false}, // 4 are left, as long as the first one lasts
		{func() error { return consent(3, "phone", 6) }, true},   // has a day of its own
		{func() error { over(1, "laptop", 0); return nil }, true},
		{func() error { return consent(4, "laptop", 6) }, true},
		{func() error { over(4, "laptop", 6); return nil }, true},
		{func() error { return consent(5, "laptop", 6) }, false},
		{func() error { return consent(6, "laptop", 4) }, true},
		{func() error { _, err := o.Admit("laptop", fedkv.RolePublisher); return err }, false}, // nothing is left
	} {
		if err := step.do(); (err == nil) != step.ok || err != nil && !errors.Is(err, fedkv.ErrLimit) {
			t.Errorf("got %v, want it to be allowed: %v", err, step.ok)
		}
	}
}
