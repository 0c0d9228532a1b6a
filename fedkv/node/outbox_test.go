package node

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv"
)

// jammed is a link that takes nothing.
type jammed struct {
	Link
	closed chan string
}

func (j jammed) Send(ctx context.Context, _ fedkv.Message) error {
	<-ctx.Done()
	return ctx.Err()
}

func (j jammed) Close(_ fedkv.Code, text string) error {
	j.closed <- text
	return nil
}

func TestOutboxHoldsNoMoreThanItMay(t *testing.T) {
	o := newOutbox()
	for i := range uint64(maxQueued) {
		if !o.put(fedkv.Ping{Nonce: i}) {
			t.Fatalf("message %d does not fit", i)
		}
	}
	if o.put(fedkv.Ping{}) {
		t.Error("one more fits")
	}
	if !o.put(fedkv.Ping{}) || len(o.queue) != maxQueued {
		t.Error("what comes after is told again, or queued")
	}
}

func TestOutboxGivesUpAPeerThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, link := newOutbox(), jammed{closed: make(chan string, 1)}
		o.put(fedkv.Ping{Nonce: 1})
		o.open(link)
		failed := make(chan error, 1)
		started := time.Now()
		go o.run(t.Context(), func(err error) { failed <- err })
		if err := <-failed; !errors.Is(err, fedkv.ErrDeadline) || time.Since(started) != sendTimeout {
			t.Errorf("%v after %v", err, time.Since(started))
		}
		o.cut(fedkv.CodeDeadline, "enough")
		if text := <-link.closed; text != "enough" {
			t.Errorf("the link is closed with %q", text)
		}
	})
}

func TestOutboxSendsWhatWaitedBeforeItWasOpen(t *testing.T) {
	near, far := linked(t)
	o := newOutbox()
	for i := range uint64(3) {
		o.put(fedkv.Ping{Nonce: i})
	}
	o.flush(t.Context()) // it has no link: nothing to wait for
	o = newOutbox()
	for i := range uint64(3) {
		o.put(fedkv.Ping{Nonce: i})
	}
	o.open(near)
	go o.run(t.Context(), func(err error) { t.Error(err) })
	o.flush(t.Context())
	o.put(fedkv.Ping{Nonce: 9}) // too late
	_ = near.Close(0, "")
	for i := range uint64(3) {
		if m, err := far.Receive(t.Context()); err != nil || m != (fedkv.Ping{Nonce: i}) {
			t.Errorf("message %d: %v, %v", i, m, err)
		}
	}
	if m, err := far.Receive(t.Context()); err == nil {
		t.Errorf("%v follows", m)
	}
}

// After close no task is started, and none runs.
func TestTasksEnd(t *testing.T) {
	var ts tasks
	var ended atomic.Int32
	running := make(chan struct{})
	for range 3 {
		ts.start(func() { <-running; ended.Add(1) })
	}
	go close(running)
	ts.close()
	if n := ended.Load(); n != 3 {
		t.Errorf("%d tasks have ended", n)
	}
	ts.start(func() { t.Error("a task is started after close") })
}
