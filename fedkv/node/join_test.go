package node_test

import (
	"context"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// joiner opens a direct link as a contributor would.
func (s *stage) joiner(id, host string) client {
	s.t.Helper()
	c := s.client(id, host)
	c.say(s.engine.Hello(id, fedkv.RoleContributor))
	hear[fedkv.Welcome](c)
	return c
}

// refusedWith checks that a link ends with a Refuse of a code.
func (c client) refusedWith(code fedkv.Code, within time.Duration) {
	c.t.Helper()
	started := time.Now()
	r := hear[fedkv.Refuse](c)
	if r.Code != code || time.Since(started) > within {
		c.t.Errorf("refused with %v (%s) after %v, want %v", r.Code, r.Text, time.Since(started), code)
	}
	if _, err := c.Receive(context.Background()); err == nil {
		c.t.Error("the link lives on")
	}
}

// meeting is a lockstep session whose contributors stay at layer 2 of their segments until it is told to go on, so that
// somebody can knock at host1.
func meeting(t *testing.T, spec string, knock func(s *stage, session fedkv.SessionID)) {
	t.Helper()
	s := newStage(t, spec, lossy, 4, 2, 3, 3)
	begun, goOn := make(chan struct{}), make(chan struct{})
	s.hosts[1].engine.Layer = func(layer, first, _ int) error {
		if layer == 2 && first > 0 {
			close(begun)
			<-goOn
		}
		return nil
	}
	s.open()
	result := make(chan *outcome)
	go func() { result <- s.mustAsk() }()
	<-begun
	arrive()
	knock(s, s.session())
	close(goOn)
	o := <-result
	s.close()
	s.check(o)
	if o.report.Present() != 3 {
		t.Errorf("missing: %v", missing(o.report))
	}
}

// Only earlier contributors of the committed roster, with the keys that it names, once each: everybody else is
// refused, and the session does not notice.
func TestWhoMayNotJoin(t *testing.T) {
	for name, test := range map[string]struct {
		spec   string
		id     string
		origin int
		other  bool // another session
		code   fedkv.Code
		within time.Duration
	}{
		"a stranger as an earlier contributor": {"lockstep", "stranger", 0, false, fedkv.CodeForbidden, time.Second},
		"a stranger as a later contributor":    {"lockstep", "stranger", 2, false, fedkv.CodeForbidden, time.Second},
		"a stranger as the publisher":          {"lockstep", "stranger", 3, false, fedkv.CodeForbidden, time.Second},
		"a stranger as nobody":                 {"lockstep", "stranger", 62, false, fedkv.CodeForbidden, time.Second},
		"a later contributor":                  {"lockstep", "host2", 2, false, fedkv.CodeForbidden, time.Second},
		"a later one as an earlier one":        {"lockstep", "host2", 0, false, fedkv.CodeForbidden, time.Second},
		"oneself":                              {"lockstep", "host1", 1, false, fedkv.CodeForbidden, time.Second},
		"an earlier one again":                 {"lockstep", "host0", 0, false, fedkv.CodeDuplicate, time.Second},
		"an earlier one in gather":             {"gather", "host0", 0, false, fedkv.CodeForbidden, time.Second},
		"no such session":                      {"lockstep", "host0", 0, true, fedkv.CodeSession, 11 * time.Second},
	} {
		play(t, name, func(t *testing.T) {
			meeting(t, test.spec, func(s *stage, session fedkv.SessionID) {
				if test.other {
					session[0]++
				}
				c := s.joiner(test.id, "host1")
				c.say(fedkv.Join{Session: session, Origin: test.origin})
				c.refusedWith(test.code, test.within)
			})
		})
	}
}

func TestDirectLinksThatSayNothing(t *testing.T) {
	play(t, "", func(t *testing.T) {
		meeting(t, "lockstep", func(s *stage, _ fedkv.SessionID) {
			c := s.joiner("stranger", "host1")
			c.refusedWith(fedkv.CodeDeadline, 10*time.Second)
			c = s.joiner("stranger", "host1")
			c.say(fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 1})
			c.refusedWith(fedkv.CodeOrder, time.Second)
			c = s.client("stranger", "host1")
			c.say(fedkv.Ping{Nonce: 1})
			if _, err := c.Receive(context.Background()); fedkv.CodeOf(err) != fedkv.CodeOrder {
				t.Errorf("before hello: %v", err)
			}
			c = s.client("stranger", "host1")
			hello := s.engine.Hello("stranger", fedkv.RoleContributor)
			hello.Model.Shape[0]++
			c.say(hello)
			c.refusedWith(fedkv.CodeShape, time.Second)
		})
	})
}

// Contributors get their commits at different times: a join that comes first waits, and is then decided.
func TestAJoinBeforeTheCommitWaits(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "lockstep", lossy, 4, 2, 3)
		s.hosts[1].watch = func(w *nodetest.Watched) {
			w.AfterReceive = func(m fedkv.Message) {
				if _, ok := m.(fedkv.Commit); ok {
					time.Sleep(2 * time.Second) // host0 has its commit, and joins
				}
			}
		}
		s.open()
		result := make(chan *outcome)
		go func() { result <- s.mustAsk() }()
		time.Sleep(time.Second)
		// nobody joins before any plan, and a stranger is refused with the commit
		c := s.joiner("stranger", "host1")
		c.say(fedkv.Join{Session: s.session(), Origin: 0})
		c.refusedWith(fedkv.CodeForbidden, 2*time.Second)
		o := <-result
		s.close()
		s.check(o)
		if o.report.Present() != 2 {
			t.Errorf("missing: %v", missing(o.report))
		}
	})
}

// session is the one whose plan the hosts got last.
func (s *stage) session() fedkv.SessionID {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.planned
}

func TestAJoinAfterTheEnd(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "lockstep", lossy, 4, 2, 3)
		s.open()
		o := s.mustAsk()
		time.Sleep(time.Second) // the publisher is through; now the hosts are, too
		c := s.joiner("host0", "host1")
		c.say(fedkv.Join{Session: o.report.Session, Origin: 0})
		c.refusedWith(fedkv.CodeSession, 11*time.Second)
		s.close()
		s.quiet()
	})
}

// A join that waits for a commit that never comes is answered when the session ends.
func TestAJoinOfASessionThatFails(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "lockstep", lossy, 4, 2, 3)
		s.open()
		c := s.client("client", "host0")
		c.say(s.engine.Hello("client", fedkv.RolePublisher))
		c.say(s.plan())
		hear[fedkv.Ready](c)
		j := s.joiner("stranger", "host0")
		j.say(fedkv.Join{Session: fedkv.SessionID{7}, Origin: 0})
		arrive()
		_ = c.Close(fedkv.CodeLost, "the connection broke")
		j.refusedWith(fedkv.CodeSession, time.Second)
		s.close()
	})
}

// Two publishers must not be able to meet in one session.
func TestASessionNumberIsTakenOnce(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		s.hosts[0].config.Sessions = 2
		s.open()
		first, second := s.client("client", "host0"), s.client("other", "host0")
		for _, c := range []client{first, second} {
			c.say(s.engine.Hello("client", fedkv.RolePublisher))
			hear[fedkv.Welcome](c)
		}
		first.say(s.plan())
		hear[fedkv.Ready](first)
		second.say(s.plan())
		if a := hear[fedkv.Abort](second); a.Code != fedkv.CodeDuplicate {
			t.Errorf("the second one is told: %v", a)
		}
		first.say(s.commit())
		h, _, err := first.AcceptBlock(context.Background(), func(fedkv.BlockHeader) error { return nil })
		if err != nil || h.Origin != 0 {
			t.Errorf("the first one gets %+v, %v", h, err)
		}
		_ = first.Close(0, "enough")
		s.close()
	})
}

// If two contributors cannot reach each other, the later one goes on without the earlier one's rows, and its owner is
// told.
func TestContributorsThatCannotReachEachOther(t *testing.T) {
	for _, dialling := range []error{fedkv.Errorf(fedkv.CodeLost, "no route"), nil} {
		play(t, "", func(t *testing.T) {
			s := newStage(t, "lockstep", lossy, 4, 2, 3)
			s.open()
			s.hosts[0].stop()
			<-s.hosts[0].served
			h := s.newHost(0)
			s.hosts[0] = h
			h.serve(unreachable{s.join("host0"), dialling})
			o := s.mustAsk()
			s.close()
			s.check(o)
			if o.report.Present() != 2 {
				t.Errorf("missing: %v", missing(o.report))
			}
			c := s.hosts[1].contributions()[0]
			if len(c.Missing) != 1 || c.Missing[0].Name != "host0" || c.Missing[0].Layer != 0 || c.Err != nil {
				t.Errorf("%+v", c)
			}
		})
	}
}

// unreachable is peers of whom none can be dialled: they refuse, or do not answer.
type unreachable struct {
	node.Peers
	err error
}

func (u unreachable) Dial(ctx context.Context, _ node.Address) (node.Link, error) {
	if u.err == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, u.err
}
