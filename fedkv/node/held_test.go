package node_test

import (
	"context"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// keepLinks has the links to contacts held between sessions, until closeAll.
func (s *stage) keepLinks(list []node.Contact) (closeAll func()) {
	for i := range list {
		list[i].Held = &node.Held{}
	}
	return func() {
		for _, c := range list {
			c.Held.Close()
		}
	}
}

// One link carries one session after the other: the second one dials nobody, and is the oracle's like the first.
func TestALinkIsHeldForTheNextSession(t *testing.T) {
	for _, spec := range specs("gather", "contributors=none;publisher=2-") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 7, 4, 3)
			s.open()
			contacts := s.question().Contacts
			hangUp := s.keepLinks(contacts)
			for range 3 {
				o := s.mustAsk(func(q *node.Question) { q.Contacts = contacts })
				arrive()
				s.check(o)
				if o.report.Present() != 2 || o.report.Peers[0].ID != "host0" {
					t.Errorf("%+v", o.report.Peers)
				}
			}
			if n := len(s.links()); n != 2 {
				t.Errorf("%d links for three sessions with two contributors", n)
			}
			hangUp()
			s.close()
			s.quiet()
			for _, h := range s.hosts {
				list := h.contributions()
				if len(list) != 3 {
					t.Errorf("%s: %d sessions", h.id, len(list))
				}
				for _, c := range list {
					if c.Err != nil || c.Session == (fedkv.SessionID{}) || c.Tokens == 0 {
						t.Errorf("%s: %+v", h.id, c)
					}
				}
			}
		})
	}
}

// Between the turns of a conversation its contributors stay connected, and the next conversation begins over the same
// links.
func TestLinksAreHeldBetweenTurns(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 3)
		s.open()
		contacts := s.question().Contacts
		hangUp := s.keepLinks(contacts)
		for _, what := range []string{"the first conversation", "the second"} {
			c := s.converse(func(c *node.Chat) { c.Contacts = contacts })
			c.turn("one", 2)
			c.check(what)
			time.Sleep(time.Minute)
			for _, l := range s.links() {
				if l.Err() != nil {
					t.Errorf("%s: the link is gone: %v", what, l.Err())
				}
			}
			c.turn("two", 2)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := len(s.links()); n != 2 {
			t.Errorf("%d links for two conversations with two contributors", n)
		}
		hangUp()
		s.close()
		s.quiet()
	})
}

// A link that was held for long, or broke meanwhile, is dialled again, and whoever is not asked any more does not wait for
// ever.
func TestHeldLinksEnd(t *testing.T) {
	for name, between := range map[string]func(s *stage, hangUp func()){
		"held for long":            func(*stage, func()) { time.Sleep(9 * time.Minute) },
		"the contributor gave up":  func(*stage, func()) { time.Sleep(11 * time.Minute) },
		"the link broke":           func(s *stage, _ func()) { _ = s.links()[0].Close(fedkv.CodeLost, "the connection broke") },
		"the publisher ended them": func(_ *stage, hangUp func()) { hangUp() },
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 3)
			s.open()
			contacts := s.question().Contacts
			hangUp := s.keepLinks(contacts)
			s.check(s.mustAsk(func(q *node.Question) { q.Contacts = contacts }))
			between(s, hangUp)
			o := s.mustAsk(func(q *node.Question) { q.Contacts = contacts })
			s.check(o)
			if n := len(s.links()); n != 2 || o.report.Present() != 1 {
				t.Errorf("%d links, missing: %v", n, missing(o.report))
			}
			hangUp()
			s.close()
			s.quiet()
		})
	}
}

// A held link does not keep a contributor from stopping, and who asks over it hears why nothing comes.
func TestHeldLinksDoNotHoldUpADrain(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		s.open()
		contacts := s.question().Contacts
		defer s.keepLinks(contacts)()
		s.check(s.mustAsk(func(q *node.Question) { q.Contacts = contacts }))
		arrive()
		if n := s.hosts[0].node.Drain(context.Background()); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		if m := onlyMissing(t, s.mustAsk(func(q *node.Question) { q.Contacts = contacts })); m.Code != fedkv.CodeStopping {
			t.Errorf("%v", m)
		}
		s.close()
		s.quiet()
	})
}

// strict is an owner who lets somebody in so many times.
type strict struct{ times int }

func (o *strict) Admit(string, fedkv.Role) (node.Grant, error) {
	if o.times == 0 {
		return node.Grant{}, fedkv.Errorf(fedkv.CodeForbidden, "that was enough for today")
	}
	o.times--
	return node.Grant{}, nil
}

func (*strict) Consent(context.Context, node.Request) error { return nil }

// The owner is asked about each session, and a refusal ends the link.
func TestTheOwnerIsAskedAboutEachSessionOfALink(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		s.hosts[0].config.Owner = &strict{times: 2}
		s.open()
		contacts := s.question().Contacts
		hangUp := s.keepLinks(contacts)
		defer hangUp()
		for i := range 3 {
			o := s.mustAsk(func(q *node.Question) { q.Contacts = contacts })
			arrive()
			if i < 2 {
				s.check(o)
			} else if m := onlyMissing(t, o); m.Code != fedkv.CodeForbidden || m.Phase != fedkv.PhaseSetup {
				t.Errorf("%v", m)
			}
		}
		if l := s.links(); len(l) != 1 || l[0].Err() == nil {
			t.Errorf("%d links, the first one's end: %v", len(l), l[0].Err())
		}
		s.close()
	})
}

// In lockstep, and where rows stay home, a session has a link of its own.
func TestLinksAreNotHeldWhereMoreThanMessagesGoesOverThem(t *testing.T) {
	for _, spec := range []string{"lockstep", "home"} {
		play(t, spec, func(t *testing.T) {
			schedule := spec
			if spec == "home" {
				schedule = "gather"
			}
			s := newStage(t, schedule, f16, 7, 3)
			s.open()
			contacts := s.question().Contacts
			defer s.keepLinks(contacts)()
			for i := range contacts {
				contacts[i].Home = spec == "home"
			}
			for range 2 {
				if o := s.mustAsk(func(q *node.Question) { q.Contacts = contacts }); o.report.Present() != 1 {
					t.Errorf("missing: %v", missing(o.report))
				}
			}
			if n := len(s.links()); n != 2 {
				t.Errorf("%d links for two sessions", n)
			}
			s.close()
			s.quiet()
		})
	}
}
