package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// place is an address: how long it takes to answer, and what.
type place struct {
	after time.Duration
	err   error // nil: a link
}

// metLink is a link that knows where it leads and whether it was closed.
type metLink struct {
	node.Link
	to     string
	closed *atomic.Int32
}

func (l metLink) Close(fedkv.Code, string) error {
	l.closed.Add(1)
	return nil
}

// A peer that moved is found while its old address is still being tried; one that did not is not looked for. Links that
// come too late are closed.
func TestMeeting(t *testing.T) {
	silent := place{5 * time.Second, fedkv.Errorf(fedkv.CodeLost, "no answer")}
	refusal := fedkv.Errorf(fedkv.CodeForbidden, "not you")
	for what, c := range map[string]struct {
		known  string
		places map[string]place
		found  string // by the network
		takes  time.Duration
		to     string // where the link leads; empty: an error
		err    string
		by     time.Duration
		dials  int32
		looked int32
		closed int32
		nobody bool // cannot be asked
	}{
		"at the known address":               {known: "old", places: map[string]place{"old": {20 * time.Millisecond, nil}}, found: "new", to: "old", by: 20 * time.Millisecond, dials: 1},
		"moved":                              {known: "old", places: map[string]place{"old": silent, "new": {10 * time.Millisecond, nil}}, found: "new", takes: 50 * time.Millisecond, to: "new", by: headStart + 60*time.Millisecond, dials: 2, looked: 1},
		"moved, and nothing routes there":    {known: "old", places: map[string]place{"old": {0, silent.err}, "new": {0, nil}}, found: "old,new", takes: time.Second, to: "new", by: time.Second, dials: 2, looked: 1},
		"moved, and found late":              {known: "old", places: map[string]place{"old": silent, "new": {0, nil}}, found: "new", takes: 4 * time.Second, to: "new", by: headStart + 4*time.Second, dials: 2, looked: 1},
		"found too late":                     {known: "old", places: map[string]place{"old": silent}, found: "new", takes: time.Minute, err: "no answer", by: 5 * time.Second, dials: 1, looked: 1},
		"not heard of":                       {known: "old", places: map[string]place{"old": {0, silent.err}}, found: "new", takes: time.Minute, err: "no answer", by: findTime, dials: 1, looked: 1},
		"a slow network":                     {known: "old", places: map[string]place{"old": {800 * time.Millisecond, nil}, "new": {time.Second, nil}}, found: "new", takes: time.Second, to: "old", by: 800 * time.Millisecond, dials: 1, looked: 1},
		"both answer":                        {known: "old", places: map[string]place{"old": {time.Second, nil}, "new": {time.Second, nil}}, found: "new", to: "old", by: time.Second, dials: 2, looked: 1, closed: 1},
		"refused":                            {known: "old", places: map[string]place{"old": {time.Second, refusal}}, found: "new", takes: 2 * time.Second, err: "not you", by: time.Second, dials: 1, looked: 1},
		"refused where it is now":            {known: "old", places: map[string]place{"old": silent, "new": {0, refusal}}, found: "new", err: "not you", by: 5 * time.Second, dials: 2, looked: 1},
		"gone":                               {known: "old", places: map[string]place{"old": silent}, takes: 2 * time.Second, err: "no answer", by: 5 * time.Second, dials: 1, looked: 1},
		"gone at once":                       {known: "old", places: map[string]place{"old": {0, silent.err}}, takes: 2 * time.Second, err: "no answer", by: 2 * time.Second, dials: 1, looked: 1},
		"announced where it does not answer": {known: "old", places: map[string]place{"old": silent}, found: "old", takes: time.Second, err: "no answer", by: 5 * time.Second, dials: 1, looked: 1},
		"never known":                        {places: map[string]place{"new": {time.Millisecond, nil}}, found: "new", takes: time.Second, to: "new", by: 1001 * time.Millisecond, dials: 1, looked: 1},
		"nowhere":                            {found: "new", takes: time.Minute, err: errNowhere.Error(), by: 2 * time.Second, looked: 1},
		"nobody to ask":                      {known: "old", places: map[string]place{"old": silent}, err: "no answer", by: 5 * time.Second, dials: 1, nobody: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var dials, looked, closed atomic.Int32
			sleep := func(ctx context.Context, d time.Duration) error {
				select {
				case <-time.After(d):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			m := meeting{known: c.known, dial: func(ctx context.Context, hostPorts string) (node.Link, error) {
				dials.Add(1)
				p, ok := c.places[hostPorts]
				if !ok {
					t.Errorf("%s: %q was dialled", what, hostPorts)
				}
				if c.closed == 0 { // else it does not hear in time that it is not needed
					if err := sleep(ctx, p.after); err != nil {
						return nil, err
					}
				} else {
					time.Sleep(p.after)
				}
				if p.err != nil {
					return nil, p.err
				}
				return metLink{to: hostPorts, closed: &closed}, nil
			}}
			if !c.nobody {
				m.find = func(ctx context.Context) string {
					looked.Add(1)
					if sleep(ctx, c.takes) != nil {
						return ""
					}
					return c.found
				}
			}
			begun := time.Now()
			link, err := m.meet(t.Context())
			if took := time.Since(begun); took != c.by {
				t.Errorf("%s: it took %v, not %v", what, took, c.by)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			switch {
			case c.to != "" && (err != nil || link.(metLink).to != c.to):
				t.Errorf("%s: %v, %v", what, link, err)
			case c.to == "" && (err == nil || err.Error() != c.err):
				t.Errorf("%s: %v", what, err)
			}
			if dials.Load() != c.dials || looked.Load() != c.looked || closed.Load() != c.closed {
				t.Errorf("%s: %d dials, %d questions, %d links closed", what, dials.Load(), looked.Load(), closed.Load())
			}
		})
	}
	// who asked is gone
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wait := func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		m := meeting{
			known: "old",
			dial:  func(ctx context.Context, _ string) (node.Link, error) { return nil, wait(ctx) },
			find: func(ctx context.Context) string {
				_ = wait(ctx)
				return ""
			},
		}
		begun := time.Now()
		if _, err := m.meet(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}
