package node_test

import (
	"errors"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// work is how many tokens the engines of the contributors and, last, of the publisher evaluated so far.
func (s *stage) work() (list []int) {
	for _, h := range s.hosts {
		list = append(list, h.engine.Evaluated())
	}
	return append(list, s.engine.Evaluated())
}

// The second session of a prefix evaluates the segments and nothing else, and its logits are the oracle's, bit for bit.
func TestAPrefixIsEvaluatedOnce(t *testing.T) {
	for _, spec := range []string{"gather", "lockstep", "contributors=none;publisher=2-", "home"} {
		play(t, spec, func(t *testing.T) {
			schedules := spec
			if spec == "home" {
				schedules = "gather"
			}
			s := newStage(t, schedules, f16, 7, 4, 5, 3)
			s.open()
			ask := func() (o *outcome, spent []int) {
				before := s.work()
				o = s.mustAsk(func(q *node.Question) {
					for i := range q.Contacts {
						q.Contacts[i].Home = spec == "home"
					}
				})
				for i, n := range s.work() {
					spent = append(spent, n-before[i])
				}
				return o, spent
			}
			first, spent := ask()
			for i, n := range spent {
				if want := len(s.prefix) + len(s.segments[i]); n != want {
					t.Errorf("participant %d evaluates %d tokens in its first session, want %d", i, n, want)
				}
			}
			again, spent := ask()
			for i, n := range spent {
				if want := len(s.segments[i]); n != want {
					t.Errorf("participant %d evaluates %d tokens in its second session, want %d", i, n, want)
				}
			}
			s.prefix = sample(98, 5)
			other, spent := ask()
			for i, n := range spent {
				if want := len(s.prefix) + len(s.segments[i]); n != want {
					t.Errorf("participant %d evaluates %d tokens with another prefix, want %d", i, n, want)
				}
			}
			s.close()
			if !equal(first.logits, again.logits) {
				t.Error("the second session has other logits")
			}
			if spec != "home" {
				s.check(other)
				s.prefix = sample(99, 3)
				s.check(again)
			}
		})
	}
}

// Rows that are chosen by the question take a cache more, and its prefix is not evaluated again either.
func TestThePrefixOfQueriesIsEvaluatedOnce(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		s.rows = mustRows(t, "query=0.5")
		s.open()
		first := s.mustAsk()
		before := s.work()
		again := s.mustAsk()
		after := s.work()
		s.close()
		if n := after[1] - before[1]; n != 2*len(s.segments[1]) {
			t.Errorf("%d tokens for a question of %d", n, len(s.segments[1]))
		}
		if !equal(first.logits, again.logits) {
			t.Error("the second session has other logits")
		}
	})
}

// A conversation begins with the prefix of the one before.
func TestAPrefixIsEvaluatedOnceForAllConversations(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 3)
		s.open()
		first := s.converse()
		first.turn("one", 2)
		first.check("the first conversation")
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		before := s.work()
		second := s.converse()
		second.turn("one", 2)
		after := s.work()
		second.check("the second conversation")
		second.close()
		for i, want := range []int{len(s.segments[0]), len(s.segments[1]), len("one") + len(suffix) + 1} {
			if n := after[i] - before[i]; n != want {
				t.Errorf("participant %d evaluates %d tokens, want %d", i, n, want)
			}
		}
	})
}

// Who asks with one prefix after another does not fill this device's memory.
func TestKeptPrefixesAreBounded(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		s.open()
		spent := func(prefix int) int {
			s.prefix = sample(prefix, 3)
			before := s.work()[0]
			s.mustAsk()
			return s.work()[0] - before - len(s.segments[0])
		}
		for i := range fedkv.MaxKeptPrefixes + 1 {
			if n := spent(i); n != 3 {
				t.Errorf("prefix %d: %d tokens of it are evaluated", i, n)
			}
		}
		for _, test := range []struct{ prefix, tokens int }{{1, 0}, {0, 3}, {1, 0}, {2, 3}} {
			if n := spent(test.prefix); n != test.tokens {
				t.Errorf("prefix %d: %d tokens of it are evaluated again, want %d", test.prefix, n, test.tokens)
			}
		}
		s.close()
	})
}

// A prefix whose evaluation was cut short is not kept: the next session evaluates all of it.
func TestHalfAPrefixIsNotKept(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		failing := true
		s.hosts[0].engine.Layer = func(layer, first, _ int) error {
			if failing && layer == 3 && first == 0 {
				return errors.New("the accelerator is gone")
			}
			return nil
		}
		s.open()
		if m := onlyMissing(t, s.mustAsk()); m.Code != fedkv.CodeInternal {
			t.Error(m)
		}
		failing = false
		before := s.work()
		o := s.mustAsk()
		if n, want := s.work()[0]-before[0], len(s.prefix)+len(s.segments[0]); n != want {
			t.Errorf("%d tokens, want %d", n, want)
		}
		s.close()
		s.check(o)
	})
}

// stubborn is an engine whose caches take no copies.
type stubborn struct{ *nodetest.Engine }

func (e stubborn) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := e.Engine.Open(spec)
	return closedCache{c}, err
}

type closedCache struct{ node.Cache }

func (c closedCache) State() ([]byte, error) { return c.Cache.(node.Restorable).State() }

func (closedCache) SetState([]byte) error { return errors.New("no memory for a copy") }

// Where a copy cannot be had, the prefix is evaluated, and nobody notices.
func TestAPrefixWithoutCopiesIsEvaluated(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 3)
		s.hosts[0].config.Engine = stubborn{s.hosts[0].engine}
		s.open()
		for range 2 {
			before := s.work()
			s.check(s.mustAsk())
			if n, want := s.work()[0]-before[0], len(s.prefix)+len(s.segments[0]); n != want {
				t.Errorf("%d tokens, want %d", n, want)
			}
		}
		s.close()
		s.quiet()
	})
}
