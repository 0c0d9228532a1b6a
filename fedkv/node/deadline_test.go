package node_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// onlyMissing is the one participant whom a report has to name.
func onlyMissing(t *testing.T, o *outcome) fedkv.Missing {
	t.Helper()
	list := missing(o.report)
	if len(list) != 1 {
		t.Fatalf("missing: %v", list)
	}
	return list[0]
}

func TestWhoIsNotReadyInTimeIsLeftOut(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 5, 3)
			given := errors.New("not given up")
			s.hosts[0].config.Source = sourceFunc(func(ctx context.Context, _ fedkv.Plan) (fedkv.Text, error) {
				<-ctx.Done()
				given = context.Cause(ctx)
				return fedkv.Text{}, given
			})
			s.open()
			o := s.mustAsk()
			s.close()
			m := onlyMissing(t, o)
			if m.Name != "host0" || m.Phase != fedkv.PhaseSetup || m.Code != fedkv.CodeDeadline || o.took != setupBy {
				t.Errorf("%v after %v", m, o.took)
			}
			if !errors.Is(given, fedkv.ErrDeadline) {
				t.Errorf("its source was stopped by: %v", given)
			}
			s.check(o)
		})
	}
}

type sourceFunc func(context.Context, fedkv.Plan) (fedkv.Text, error)

func (f sourceFunc) Segment(ctx context.Context, plan fedkv.Plan) (fedkv.Text, error) {
	return f(ctx, plan)
}

// The answer comes when the time is over, with whom it has, and the straggler is stopped in mid-layer.
func TestAStragglerIsGivenUpAtTheDeadline(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "H=2") {
		for victim := range 3 {
			for _, pace := range []time.Duration{13 * time.Second, time.Hour} {
				play(t, spec, func(t *testing.T) {
					s := newStage(t, spec, lossy, 4, 2, 3, 3)
					s.hosts[victim].engine.LayerTime = pace
					s.open()
					q := s.question()
					started := time.Now()
					session, err := node.Ask(context.Background(), q)
					if err != nil {
						t.Fatal(err)
					}
					if took := time.Since(started); took != gatherBy {
						t.Errorf("took %v", took)
					}
					time.Sleep(time.Second)
					if n := s.hosts[victim].engine.OpenCaches(); n != 0 {
						t.Errorf("a second later it is still at work")
					}
					report := session.Report()
					o := &outcome{report: report}
					for i := range q.Outputs {
						row, err := session.Logits(i)
						if err != nil {
							t.Fatal(err)
						}
						o.logits = append(o.logits, row)
					}
					if err := session.Close(); err != nil {
						t.Error(err)
					}
					s.close()
					s.check(o)
					if m := onlyMissing(t, o); m.Origin != victim || m.Code != fedkv.CodeDeadline {
						t.Errorf("%v", m)
					}
					if silent := report.Peers[victim].SilentMS; pace == time.Hour && silent != float64(gatherBy.Milliseconds()) {
						t.Errorf("it is said to have been silent for %v ms", silent)
					}
				})
			}
		}
	}
}

// A slow contributor that makes it is waited for.
func TestASlowContributorIsWaitedFor(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 2, 3)
			s.hosts[1].engine.LayerTime = 2 * time.Second
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			s.quiet()
			if o.report.Present() != 2 || o.took < 20*time.Second {
				t.Errorf("took %v, missing: %v", o.took, missing(o.report))
			}
		})
	}
}

// stuck is a link on which something never ends.
type stuck struct {
	node.Link
	send, accept, flush bool
	late                time.Duration
}

func (l stuck) Send(ctx context.Context, m fedkv.Message) error {
	if _, plan := m.(fedkv.Plan); l.send && plan {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.Link.Send(ctx, m)
}

func (l stuck) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, node.Rows, error) {
	h, rows, err := l.Link.AcceptBlock(ctx, check)
	if l.accept && err == nil {
		<-ctx.Done()
		return h, node.Rows{}, ctx.Err()
	}
	time.Sleep(l.late)
	return h, rows, err
}

func (l stuck) Flush(ctx context.Context) error {
	if l.flush {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.Link.Flush(ctx)
}

func TestABlockThatNeverEndsIsGivenUp(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 5, 3)
			s.dialledAs = func(id string, l node.Link) node.Link { return stuck{Link: l, accept: id == "host1"} }
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			if m := onlyMissing(t, o); m.Name != "host1" || m.Code != fedkv.CodeDeadline || m.Phase != fedkv.PhasePrefill || m.Layer != 0 {
				t.Errorf("%v", m)
			}
			if o.took != gatherBy {
				t.Errorf("took %v", o.took)
			}
		})
	}
}

// Rows that arrive when their sender has been given up are freed at once.
func TestABlockThatComesTooLateIsFreed(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 5, 3)
			s.dialledAs = func(id string, l node.Link) node.Link {
				if id != "host1" {
					return l
				}
				return stuck{Link: l, late: gatherBy + time.Second}
			}
			s.open()
			session, err := node.Ask(context.Background(), s.question())
			if err != nil {
				t.Fatal(err)
			}
			if m := onlyMissing(t, &outcome{report: session.Report()}); m.Name != "host1" {
				t.Errorf("%v", m)
			}
			time.Sleep(500 * time.Millisecond)
			if n := s.held.Load(); n != 0 {
				t.Errorf("%d blocks are held before", n)
			}
			time.Sleep(2 * time.Second)
			if n := s.held.Load(); n != 0 {
				t.Errorf("%d blocks are held after", n)
			}
			if err := session.Close(); err != nil {
				t.Error(err)
			}
			s.close()
		})
	}
}

// So are those of somebody who is lost, when others are still waited for.
func TestRowsOfTheLostAreFreed(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 5, 3)
			h := s.hosts[0]
			h.watch = func(w *nodetest.Watched) {
				w.AfterBlock = func(b fedkv.BlockHeader) {
					if b.Layer == deathLayer {
						arrive()
						h.kill()
					}
				}
			}
			s.hosts[1].engine.LayerTime = time.Minute
			s.open()
			time.AfterFunc(10*time.Second, func() {
				most := int64(0)
				if spec == "lockstep" {
					most = 2 * (deathLayer + 1) // layers that both receivers will still use
				}
				if n := s.held.Load(); n > most {
					t.Errorf("%d blocks are held", n)
				}
			})
			o := s.mustAsk()
			s.close()
			s.check(o)
		})
	}
}

// No row leaves a device after its session ended.
func TestNoRowLeavesAfterTheEnd(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 9, 3)
		h := s.hosts[0]
		// so that the end takes a second
		h.wrap = func(l node.Link) node.Link { return stuck{Link: l, flush: true} }
		s.dialledAs = func(_ string, l node.Link) node.Link { return stuck{Link: l, flush: true} }
		const end = 950 * time.Millisecond
		started := time.Now()
		h.watch = func(w *nodetest.Watched) {
			w.AfterBlock = func(fedkv.BlockHeader) { time.Sleep(100 * time.Millisecond) }
			w.BeforeBlock = func(b fedkv.BlockHeader) {
				if time.Since(started) > end+100*time.Millisecond {
					t.Errorf("layer %d leaves at %v", b.Layer, time.Since(started))
				}
			}
		}
		s.open()
		ctx, cancel := context.WithTimeout(context.Background(), end)
		defer cancel()
		if _, err := node.Ask(ctx, s.question()); err == nil {
			t.Error("it was over before")
		}
		time.Sleep(2 * time.Second)
		s.close()
	})
}

func TestAMessageThatIsNotTakenLosesThePeer(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 5, 3)
		s.dialledAs = func(id string, l node.Link) node.Link { return stuck{Link: l, send: id == "host1"} }
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		m := onlyMissing(t, o)
		if m.Name != "host1" || m.Code != fedkv.CodeDeadline || o.took != 5*time.Second {
			t.Errorf("%v after %v", m, o.took)
		}
		contains(t, m.Text, "5s")
	})
}

func TestCloseDoesNotWaitLongForAPeer(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 5, 3)
		s.dialledAs = func(_ string, l node.Link) node.Link { return stuck{Link: l, flush: true} }
		s.open()
		session, err := node.Ask(context.Background(), s.question())
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		for range 2 { // again is allowed
			if err := session.Close(); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(started); took > 2*time.Second {
			t.Errorf("Close took %v", took)
		}
		s.close()
	})
}

// client is a publisher by hand.
type client struct {
	t *testing.T
	node.Link
}

func (s *stage) client(id, host string) client {
	s.t.Helper()
	l, err := s.join(id).Dial(context.Background(), node.Address{ID: host})
	if err != nil {
		s.t.Fatal(err)
	}
	return client{s.t, l}
}

func (c client) say(m fedkv.Message) {
	c.t.Helper()
	if err := c.Send(context.Background(), m); err != nil {
		c.t.Fatal(err)
	}
}

// hear is the next message of a type; others before it are passed over.
func hear[M fedkv.Message](c client) M {
	c.t.Helper()
	for {
		m, err := c.Receive(context.Background())
		if err != nil {
			c.t.Fatal(err)
		}
		if m, ok := m.(M); ok {
			return m
		}
	}
}

// plan is what a publisher would send to the first contributor.
func (s *stage) plan() fedkv.Plan {
	return fedkv.Plan{
		Session: fedkv.SessionID{7}, Origin: 0, Schedules: s.schedules, Wire: s.wire, Rows: fedkv.Selection{Kind: fedkv.RowsAll}, Positions: s.positions,
		Prefix: s.prefix, MaxTokens: 200, DeadlineMS: int(time.Minute / time.Millisecond),
	}
}

func (s *stage) commit() fedkv.Commit {
	n := len(s.segments[0])
	return fedkv.Commit{Session: fedkv.SessionID{7}, Prefix: len(s.prefix), Roster: []fedkv.Participant{
		{Origin: 0, ID: "host0", Name: "host0", Offset: len(s.prefix), Tokens: n},
		{Origin: 1, ID: "client", Name: "client", Offset: len(s.prefix) + n, Tokens: 2},
	}}
}

// A publisher that falls silent holds a contributor no longer than it may, wherever it does.
func TestASilentPublisherIsGivenUp(t *testing.T) {
	hello := func(s *stage, c client) { c.say(s.engine.Hello("client", fedkv.RolePublisher)); hear[fedkv.Welcome](c) }
	ready := func(s *stage, c client) { hello(s, c); c.say(s.plan()); hear[fedkv.Ready](c) }
	for _, test := range []struct {
		name  string
		talk  func(*stage, client)
		after time.Duration
		text  string // of the contribution's error; "-": there is no contribution
	}{
		{"before hello", func(*stage, client) {}, 5 * time.Second, "-"},
		{"after welcome", hello, 10 * time.Second, "no plan came within 10s"},
		{"after ready", ready, time.Minute, "not all sent within 1m0s"},
		{"after done", func(s *stage, c client) {
			ready(s, c)
			c.say(s.commit())
			go func() { // takes the rows
				for {
					if _, _, err := c.AcceptBlock(context.Background(), func(fedkv.BlockHeader) error { return nil }); err != nil {
						return
					}
				}
			}()
			hear[fedkv.Done](c)
		}, time.Minute, ""},
		{"with all rows on their way", func(s *stage, c client) { ready(s, c); c.say(s.commit()) }, time.Minute, "not all sent within 1m0s"},
	} {
		play(t, test.name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 150, 3)
			s.hosts[0].config.MicroBatch = 1 // more blocks than a link holds
			s.hosts[0].config.MaxContext = 200
			s.open()
			started := time.Now()
			c := s.client("client", "host0")
			test.talk(s, c)
			for c.Err() == nil {
				time.Sleep(100 * time.Millisecond)
			}
			if took := time.Since(started); took < test.after || took > test.after+2*time.Second {
				t.Errorf("held for %v", took)
			}
			time.Sleep(2 * time.Second)
			list := s.hosts[0].contributions()
			if test.text == "-" {
				if len(list) != 0 {
					t.Errorf("contributions: %+v", list)
				}
			} else if len(list) != 1 || (list[0].Err == nil) != (test.text == "") {
				t.Fatalf("contributions: %+v", list)
			} else if err := list[0].Err; err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("it says: %v", err)
			}
			s.hosts[0].config.MicroBatch = 3
			o := s.mustAsk()
			s.close()
			s.check(o)
		})
	}
}

// Sessions wait for their turn, and who finds no place to wait is told so before anything is computed.
func TestABusyContributorSaysSo(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		s.hosts[0].engine.LayerTime = time.Second
		s.hosts[0].config.Queue = 1
		s.open()
		results := make(chan *outcome)
		var told []string
		for range 2 {
			go func() {
				q := s.question()
				q.Waiting = func(w node.InQueue) { told = append(told, w.String()) }
				o, err := s.ask(q)
				if err != nil {
					t.Error(err)
				}
				results <- o
			}()
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if want := []string{"host0: 1st in its queue"}; !slices.Equal(told, want) {
			t.Errorf("who waits hears %q, want %q", told, want)
		}
		third := s.mustAsk()
		m := onlyMissing(t, third)
		if m.Code != fedkv.CodeBusy || third.took > time.Second {
			t.Errorf("%v after %v", m, third.took)
		}
		contains(t, m.Text, "serving 1 questions and 1 more wait", "try again")
		s.check(third)
		for range 2 {
			s.check(<-results)
		}
		s.close()
	})
}

// Whoever waits hears its place, and when it will be its turn as soon as a turn has shown how long they take; what it
// waited for does not change its answer.
func TestWhoWaitsHearsItsPlace(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 3)
			s.hosts[0].engine.LayerTime = time.Second
			s.open()
			s.check(s.mustAsk())
			results := make(chan *outcome)
			var told []string
			for i := range 3 {
				go func() {
					q := s.question()
					q.SetupBy, q.GatherBy = 5*time.Minute, 10*time.Minute
					q.Waiting = func(w node.InQueue) {
						if i == 2 {
							told = append(told, w.String())
						}
					}
					o, err := s.ask(q)
					if err != nil {
						t.Error(err)
					}
					results <- o
				}()
				time.Sleep(time.Second)
			}
			for range 3 {
				o := <-results
				s.check(o)
				if o.report.Present() != 1 {
					t.Errorf("missing: %v", missing(o.report))
				}
			}
			s.close()
			s.quiet()
			if len(told) != 2 {
				t.Fatalf("the last one heard %q", told)
			}
			contains(t, told[0], "host0: 2nd in its queue, about ", " s")
			contains(t, told[1], "host0: 1st in its queue, about ", " s")
		})
	}
}

// A contributor that says the same place again and again, or ever worse ones, is heard once in a while.
func TestAQueueCannotFillAScreen(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		s.hosts[0].engine.LayerTime = time.Second
		s.hosts[0].wrap = func(l node.Link) node.Link {
			return &nodetest.Watched{Link: l, Held: func(int) {}, BeforeSend: func(m fedkv.Message) {
				if ready, ok := m.(fedkv.Ready); ok {
					for i := range 60 {
						_ = l.Send(context.Background(), fedkv.Waiting{Session: ready.Session, Place: 5 + i})
					}
				}
			}}
		}
		s.open()
		var told []string
		o := s.mustAsk(func(q *node.Question) { q.Waiting = func(w node.InQueue) { told = append(told, w.String()) } })
		s.close()
		s.check(o)
		if want := []string{"host0: 5th in its queue"}; !slices.Equal(told, want) {
			t.Errorf("%q, want %q", told, want)
		}
	})
}

// Once a contributor's rows are out, the next publisher need not wait for the first one's answer.
func TestALongAnswerHoldsNobody(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 2, 3)
			s.open()
			session, err := node.Ask(context.Background(), s.question())
			if err != nil {
				t.Fatal(err)
			}
			o := s.mustAsk()
			if err := session.Close(); err != nil {
				t.Error(err)
			}
			s.close()
			s.check(o)
			s.quiet()
			if o.report.Present() != 2 {
				t.Errorf("missing: %v", missing(o.report))
			}
			for _, h := range s.hosts {
				for _, c := range h.contributions() {
					if c.Err != nil {
						t.Errorf("%s: %v", h.id, c.Err)
					}
				}
			}
		})
	}
}

func TestSeveralSessionsAtOnce(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 2, 3)
			for _, h := range s.hosts {
				h.config.Sessions = 4
				h.engine.LayerTime = time.Second
			}
			s.open()
			results := make(chan *outcome)
			for range 4 {
				go func() {
					o, err := s.ask(s.question())
					if err != nil {
						t.Error(err)
					}
					results <- o
				}()
			}
			var all []*outcome
			for range 4 {
				all = append(all, <-results)
			}
			s.close()
			s.quiet()
			for _, o := range all {
				s.check(o)
				if o.report.Present() != 2 {
					t.Errorf("missing: %v", missing(o.report))
				}
			}
		})
	}
}
