package node

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// deaf is a cache that hears the n-th interrupt only, as one does whose evaluation begins late.
type deaf struct {
	Cache
	interrupts atomic.Int32
	heard      chan struct{}
	n          int32
}

func (d *deaf) Interrupt() {
	if d.interrupts.Add(1) == d.n {
		close(d.heard)
	}
}

func TestInterruptsGoOnUntilOneIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d := &deaf{heard: make(chan struct{}), n: 10}
		release := interruptAfter(ctx, d)
		time.Sleep(time.Second)
		if n := d.interrupts.Load(); n != 0 {
			t.Errorf("%d interrupts before the end", n)
		}
		cancel()
		<-d.heard
		release()
		n := d.interrupts.Load()
		time.Sleep(time.Second)
		if d.interrupts.Load() != n {
			t.Error("interrupts after the release, when the cache may be closed")
		}
	})
}

func TestNothingIsInterruptedAfterTheRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d := &deaf{}
		release := interruptAfter(ctx, d)
		release()
		cancel()
		time.Sleep(time.Second)
		if n := d.interrupts.Load(); n != 0 {
			t.Errorf("%d interrupts", n)
		}
	})
}

func TestEvalErrorsNameTheirCause(t *testing.T) {
	failure := errors.New("the accelerator is gone")
	if err := evalError(t.Context(), "the question", failure); !errors.Is(err, failure) || err.Error() != "evaluating the question: the accelerator is gone" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errOver)
	if err := evalError(ctx, "the question", errors.New("interrupted")); err != errOver {
		t.Errorf("%v", err)
	}
}
