package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"
)

// signals ends the command's context at the first interrupt or request to end; after that, a second one kills the
// process. A command may take interrupts over for a while.
type signals struct {
	ctx    context.Context
	cancel context.CancelFunc
	came   chan os.Signal
	done   chan struct{}

	mu    sync.Mutex
	taken func() bool // says whether it has dealt with an interrupt
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
