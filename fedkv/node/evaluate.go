package node

import (
	"context"
	"fmt"
	"time"
)

// interruptEvery is how often an evaluation that has to end is told so.
const interruptEvery = 20 * time.Millisecond

// interruptAfter interrupts a cache's evaluations from the end of the context on, until release is called, which has
// to be before the cache is closed. It does so again and again, because an interrupt ends the evaluation that runs and
// not the one that is about to begin.
func interruptAfter(ctx context.Context, cache Cache) (release func()) {
	released, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ctx.Done():
		case <-released:
			return
		}
		again := time.NewTicker(interruptEvery)
		defer again.Stop()
		for {
			cache.Interrupt()
			select {
			case <-again.C:
			case <-released:
				return
			}
		}
	}()
	return func() {
		close(released)
		<-ended
	}
}

// evalError names what was evaluated. An evaluation that was interrupted failed because of what ended the context.
func evalError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("evaluating %s: %w", what, err)
}
