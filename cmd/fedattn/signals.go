package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
)

// signals ends the command's context at the first interrupt or request to end; after that, a second one kills the
// process. A command may take interrupts over for a while, and may finish something before its context ends.
type signals struct {
	ctx    context.Context
	cancel context.CancelFunc
	came   chan os.Signal
	done   chan struct{}

	mu    sync.Mutex
	taken func() bool // says whether it has dealt with an interrupt
	last  func()      // what to finish
}

// signalsKey is the key of the process's signals in the app's metadata.
const signalsKey = "signals"

func listen() *signals {
	s := &signals{came: make(chan os.Signal, 2), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	signal.Notify(s.came, os.Interrupt, syscall.SIGTERM)
	go func() {
		for {
			select {
			case got := <-s.came:
				if got == os.Interrupt && s.dealtWith() {
					continue
				}
				signal.Stop(s.came)
				s.finish()
				s.cancel()
				return
			case <-s.done:
				return
			}
		}
	}()
	return s
}

func (s *signals) dealtWith() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken != nil && s.taken()
}

func (s *signals) finish() {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if last != nil {
		last()
	}
}

func (s *signals) close() {
	signal.Stop(s.came)
	close(s.done)
	s.cancel()
}

// takeInterrupts lets a command see interrupts first, until release is called. It says whether it has dealt with one.
func takeInterrupts(c *cli.Context, see func() bool) (release func()) {
	s, ok := c.App.Metadata[signalsKey].(*signals)
	if !ok {
		return func() {}
	}
	set := func(f func() bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken = f
	}
	set(see)
	return func() { set(nil) }
}

// finishFirst calls finish when the command is told to end, before its context ends. finish has to return when the context
// has ended nevertheless, which is when the command is over.
func finishFirst(c *cli.Context, finish func()) {
	if s, ok := c.App.Metadata[signalsKey].(*signals); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = finish
	}
}

// drainFlag bounds finishFirst.
func drainFlag(what, category string) cli.Flag {
	return &cli.DurationFlag{Name: "drain", Value: 8 * time.Second, Category: category,
		Usage: "when told to stop, give " + what + " this `TIME` to end; a second signal ends at once"}
}

func checkDrain(c *cli.Context) error {
	if d := c.Duration("drain"); d < 0 || d > time.Hour {
		return usagef("--drain %v: must be 0s to 1h", d)
	}
	return nil
}
