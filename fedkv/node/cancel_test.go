package node_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// Whoever asks may stop at any moment. It takes no time, and those who work for it are told.
func TestTheAskerMayStopAtAnyMoment(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		for _, m := range moments[:len(moments)-1] {
			if m.name == "after ready" {
				continue // it is for deaths only
			}
			play(t, spec+", "+m.name, func(t *testing.T) {
				s := newStage(t, spec, lossy, 7, 4, 5, 3)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				m.arm(s, s.hosts[1], cancel)
				s.hosts[2].engine.LayerTime = time.Hour // so that the session is never done before
				s.open()
				started := time.Now()
				_, err := node.Ask(ctx, s.question())
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("Ask returns %v", err)
				}
				if took := time.Since(started); took > 2*time.Second {
					t.Errorf("took %v", took)
				}
				time.Sleep(2 * time.Second)
				for _, h := range s.hosts {
					if h.engine.OpenCaches() != 0 {
						t.Errorf("%s is still at work", h.id)
					}
					for _, c := range h.contributions() {
						if c.Err != nil && !errors.Is(c.Err, fedkv.ErrCancelled) && !errors.Is(c.Err, fedkv.ErrLost) {
							t.Errorf("%s is told: %v", h.id, c.Err)
						}
					}
				}
				s.close()
				s.quiet()
			})
		}
	}
}

// Rows that are not computed again are cancelled as well as others, and stay kept.
func TestTheAskerMayStopWhileKeptRowsCome(t *testing.T) {
	for _, m := range moments[:len(moments)-1] {
		if m.name == "after ready" || strings.HasPrefix(m.name, "in the ") {
			continue // it is for deaths only, and nothing is evaluated
		}
		play(t, m.name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 4, 5, 3)
			shelves := s.shelve()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			s.open()
			s.check(s.mustAsk())
			before := s.evaluated()
			m.arm(s, s.hosts[1], cancel)
			session, err := node.Ask(ctx, s.question())
			switch {
			case err == nil: // all rows were here
				err = session.Close()
			case errors.Is(err, context.Canceled):
				err = nil
			}
			if err != nil {
				t.Fatalf("Ask returns %v", err)
			}
			arrive()
			s.hosts[1].disarm()
			s.receive = nil
			last := s.mustAsk()
			s.close()
			s.check(last)
			if after := s.evaluated(); !slices.Equal(before, after) {
				t.Errorf("evaluations before %v, after %v", before, after)
			}
			for _, shelf := range shelves {
				if len(shelf.held()) != 1 {
					t.Errorf("%d kept", len(shelf.held()))
				}
			}
		})
	}
}

// Who waits for a busy contributor and stops gives its place back, and nobody waits for it.
func TestTheAskerMayStopInTheQueue(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 3)
			h := s.hosts[0]
			h.engine.LayerTime = time.Second
			h.config.Queue = 1
			s.open()
			first := make(chan *outcome)
			go func() {
				o, err := s.ask(s.question())
				if err != nil {
					t.Error(err)
				}
				first <- o
			}()
			time.Sleep(time.Second)
			ctx, cancel := context.WithCancel(context.Background())
			q := s.question()
			q.Waiting = func(node.InQueue) { cancel() }
			if _, err := node.Ask(ctx, q); !errors.Is(err, context.Canceled) {
				t.Fatalf("Ask returns %v", err)
			}
			arrive()
			third := s.mustAsk(func(q *node.Question) { q.SetupBy = time.Minute }) // there is a place again
			s.check(<-first)
			s.check(third)
			if third.report.Present() != 1 {
				t.Errorf("missing: %v", missing(third.report))
			}
			s.close()
			s.quiet()
		})
	}
}

// The publisher's own evaluation stops in mid-layer.
func TestTheAskerMayStopItsOwnEvaluation(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 7, 3)
			s.engine.LayerTime = time.Minute
			s.open()
			for _, after := range []time.Duration{time.Second, 6*time.Minute + time.Second} { // in the prefix, in the question
				ctx, cancel := context.WithTimeout(context.Background(), after)
				started := time.Now()
				_, err := node.Ask(ctx, s.question())
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > after+time.Second {
					t.Errorf("%v after %v", err, time.Since(started))
				}
			}
			s.close()
			for _, c := range s.hosts[0].contributions() {
				if c.Err != nil && !errors.Is(c.Err, fedkv.ErrDeadline) {
					t.Errorf("the contributor is told: %v", c.Err)
				}
			}
		})
	}
}

func TestAnAnswerMayBeStopped(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		s.open()
		q := s.question()
		q.Answer = 10
		session, err := node.Ask(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		s.engine.LayerTime = time.Minute
		ctx, cancel := context.WithTimeout(context.Background(), 13*time.Minute)
		defer cancel()
		_, err = session.Generate(ctx, nodetest.Greedy{}, 10, func([]byte) error { return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Generate returns %v", err)
		}
		if r := session.Report(); r.Decoded != 3 || r.DecodeMS != 13*60_000 {
			t.Errorf("report: %d tokens in %v ms", r.Decoded, r.DecodeMS)
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		s.close()
		s.quiet()
	})
}

func TestHowAnswersEnd(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		s.open()
		full := errors.New("the disk is full")
		var first fedkv.Token
		for _, test := range []struct {
			room, limit int
			end         bool
			emit        error
			stopped     string
			pieces      int
		}{
			{room: 5, limit: 3, stopped: node.StopLength, pieces: 3},
			{room: 2, limit: 3, stopped: node.StopLength, pieces: 2},
			{room: 0, limit: 3, stopped: node.StopLength},
			{room: 5, limit: 3, end: true, stopped: node.StopEnd},
			{room: 5, limit: 3, emit: full, pieces: 1},
		} {
			q := s.question()
			q.Answer = test.room
			if test.end {
				s.engine.End = first
			}
			session, err := node.Ask(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			row, err := session.Logits(-1)
			if err != nil {
				t.Fatal(err)
			}
			first = nodetest.Top(row)
			pieces := 0
			stopped, err := session.Generate(context.Background(), nodetest.Greedy{}, test.limit, func([]byte) error {
				pieces++
				return test.emit
			})
			if stopped != test.stopped || !errors.Is(err, test.emit) || pieces != test.pieces {
				t.Errorf("%+v: %q, %v, %d pieces", test, stopped, err, pieces)
			}
			if err := session.Close(); err != nil {
				t.Error(err)
			}
			s.engine.End = 0
		}
		s.close()
	})
}

// A contributor that is told to stop says so, and the asker names it.
func TestAContributorMayStopAtAnyMoment(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		for _, m := range moments[:len(moments)-1] {
			if m.name == "at hello" || m.name == "after ready" {
				continue // before the welcome there is nothing to say, and this moment is for deaths only
			}
			play(t, spec+", "+m.name, func(t *testing.T) {
				s := newStage(t, spec, lossy, 7, 4, 5, 3)
				h := s.hosts[1]
				m.arm(s, h, sync.OnceFunc(func() { h.stop() }))
				s.open()
				o := s.mustAsk()
				s.close()
				s.check(o)
				if o.took > 6*time.Second { // in lockstep others wait for its direct link
					t.Errorf("took %v", o.took)
				}
				list := missing(o.report)
				if len(list) == 0 && m.phase != "" && m.phase != fedkv.PhaseTransfer {
					t.Error("nobody is missing")
				}
				for _, l := range list {
					if l.Origin != 1 || l.Code != fedkv.CodeCancelled && l.Code != fedkv.CodeStopping || !strings.Contains(l.Text, "stopped") && !strings.Contains(l.Text, "shutting down") {
						t.Errorf("%v", l)
					}
				}
			})
		}
	}
}

// Whoever stops says so before its link ends.
func TestLastMessagesLeave(t *testing.T) {
	for _, side := range []string{"contributor", "publisher"} {
		play(t, side, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 3)
			h := s.hosts[0]
			h.engine.LayerTime = time.Minute
			var told []fedkv.Abort
			listen := func(w *nodetest.Watched) {
				w.AfterReceive = func(m fedkv.Message) {
					if a, ok := m.(fedkv.Abort); ok {
						told = append(told, a)
					}
				}
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if side == "contributor" {
				s.receive = func(_ string, w *nodetest.Watched) { listen(w) }
				time.AfterFunc(time.Second, func() { h.stop() })
			} else {
				h.watch = listen
				time.AfterFunc(time.Second, cancel)
			}
			s.open()
			session, err := node.Ask(ctx, s.question())
			if err == nil {
				err = session.Close()
			}
			if (side == "contributor") != (err == nil) {
				t.Error(err)
			}
			s.close()
			if len(told) != 1 || told[0].Code != fedkv.CodeCancelled || told[0].Text != "the "+side+" was stopped" {
				t.Errorf("told: %+v", told)
			}
		})
	}
}

// Reports may be read while the session goes on.
func TestReportsMayBeReadAtAnyTime(t *testing.T) {
	s := newStage(t, "gather", lossy, 7, 3)
	s.open()
	q := s.question()
	q.Answer = 20
	session, err := node.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() {
		for ctx.Err() == nil {
			r := session.Report()
			_ = r.Present() + r.Decoded
		}
	})
	if _, err := session.Generate(ctx, nodetest.Greedy{}, 20, func([]byte) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	reading.Wait()
	s.close()
}
