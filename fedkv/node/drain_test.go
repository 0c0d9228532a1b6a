package node_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// A contributor that drains finishes what it has begun, whichever regime, and takes nothing new.
func TestDrainLetsSessionsFinish(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 5, 4, 3)
			h := s.hosts[1]
			h.engine.LayerTime = time.Second
			s.open()
			left := make(chan int, 2)
			time.AfterFunc(2*time.Second, func() { left <- h.node.Drain(context.Background()) })
			late := make(chan error, 1)
			time.AfterFunc(3*time.Second, func() {
				q := s.question()
				q.Contacts, q.RequireAll = q.Contacts[1:], true
				_, err := node.Ask(context.Background(), q)
				late <- err
			})
			o := s.mustAsk()
			if n := <-left; n != 0 {
				t.Errorf("%d sessions were left", n)
			}
			if err := <-late; fedkv.CodeOf(err) != fedkv.CodeStopping {
				t.Errorf("a new session: %v", err)
			} else {
				contains(t, err.Error(), "shutting down")
			}
			if n := h.node.Drain(context.Background()); n != 0 { // it may be called again
				t.Errorf("%d sessions were left", n)
			}
			s.close()
			s.check(o)
			s.quiet()
			if list := missing(o.report); len(list) > 0 {
				t.Errorf("missing: %v", list)
			}
		})
	}
}

// What does not end in time is counted, and aborted with a sentence when the node ends.
func TestDrainEnds(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 5, 4, 3)
		h := s.hosts[1]
		h.engine.LayerTime = time.Hour
		s.open()
		var left []int
		time.AfterFunc(time.Second, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			left = append(left, h.node.Drain(ctx))
			h.stop()
		})
		o := s.mustAsk()
		s.close()
		s.check(o)
		if !slices.Equal(left, []int{1}) {
			t.Errorf("left: %v", left)
		}
		if o.took < 6*time.Second || o.took > 8*time.Second {
			t.Errorf("took %v", o.took)
		}
		if m := onlyMissing(t, o); m.Origin != 1 || m.Code != fedkv.CodeCancelled {
			t.Errorf("%v", m)
		} else {
			contains(t, m.Text, "stopped")
		}
	})
}

// With nothing under way it is over at once.
func TestDrainOfAnIdleNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "gather", lossy, 5, 3)
		s.open()
		began := time.Now()
		if n := s.hosts[0].node.Drain(context.Background()); n != 0 || time.Since(began) > 0 {
			t.Errorf("%d left after %v", n, time.Since(began))
		}
		s.close()
	})
}
