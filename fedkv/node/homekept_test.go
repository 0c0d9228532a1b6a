package node_test

import (
	"context"
	"fmt"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// keepHome has everybody keep rows that stay with them, so many bytes.
func (s *stage) keepHome(most int64) {
	s.shelve()
	for _, h := range s.hosts {
		h.config.HomeRows = most
	}
}

// A second question about rows that stay home needs no engine at the contributors, and gets the same answer, bit for bit;
// windows or not, wherever the segment is evaluated.
func TestRowsAtHomeAreKept(t *testing.T) {
	for _, windows := range []bool{false, true} {
		for _, positions := range []fedkv.Positions{fedkv.Canonical, fedkv.InPlace} {
			play(t, fmt.Sprint(windows, positions), func(t *testing.T) {
				s := newStage(t, "gather", f16, 7, 4, 3)
				if windows {
					s.slide()
				}
				s.positions = positions
				s.keepHome(1 << 20)
				s.open()
				first := s.mustAsk(answering(3), stay())
				arrive()
				before := s.evaluated()
				second := s.mustAsk(answering(3), stay())
				arrive()
				if after := s.evaluated(); fmt.Sprint(before) != fmt.Sprint(after) {
					t.Errorf("evaluations before %v, after %v", before, after)
				}
				if furthest(first.logits, second.logits) != 0 || furthest(first.after, second.after) != 0 {
					t.Error("rows that were kept answer otherwise")
				}
				s.close() // it counts caches and rows that are left
				for _, h := range s.hosts {
					if list := h.contributions(); len(list) != 2 || list[0].Kept || !list[1].Kept {
						t.Errorf("%s: %+v", h.id, list)
					}
				}
			})
		}
	}
}

// Rows are computed again for another prefix, another text or other layers, where there is no room for them, and after
// their text was withdrawn.
func TestRowsAtHomeAreKeptForTheSameOnly(t *testing.T) {
	for name, of := range map[string]struct {
		most   int64
		change func(s *stage, q *node.Question)
	}{
		"prefix":   {most: 1 << 20, change: func(_ *stage, q *node.Question) { q.Prefix = append(sample(9, 1), q.Prefix...) }},
		"layers":   {most: 1 << 20, change: func(_ *stage, q *node.Question) { q.Schedules = q.Schedules.From(1) }},
		"no room":  {most: 100, change: func(*stage, *node.Question) {}},
		"not kept": {change: func(*stage, *node.Question) {}},
		"withdrawn": {most: 1 << 20, change: func(s *stage, _ *node.Question) {
			for _, h := range s.hosts {
				if err := h.node.Retain(func(node.RowKey) bool { return false }); err != nil {
					s.t.Error(err)
				}
			}
		}},
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", f16, 7, 4, 3)
			s.keepHome(of.most)
			s.open()
			s.mustAsk(answering(2), stay())
			arrive()
			before := s.evaluated()
			s.mustAsk(answering(2), stay(), func(q *node.Question) { of.change(s, q) })
			arrive()
			for i, n := range s.evaluated() {
				if n == before[i] {
					t.Errorf("host %d: kept rows answered", i)
				}
			}
			s.close()
		})
	}
}

// Two sessions at the same time have rows of their own.
func TestRowsAtHomeAreForOneSessionAtATime(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 7, 4, 3)
		s.keepHome(1 << 20)
		for _, h := range s.hosts {
			h.config.Sessions = 2
		}
		s.open()
		want := s.mustAsk(answering(4), stay())
		arrive()
		q := s.question()
		stay()(&q)
		q.Answer = 4
		session, err := node.Ask(context.Background(), q) // it has the rows until it is closed
		if err != nil {
			t.Fatal(err)
		}
		other := s.mustAsk(answering(4), stay())
		if furthest(want.after, other.after) != 0 {
			t.Error("a session beside another one answers otherwise")
		}
		var o outcome
		if _, err := session.Generate(context.Background(), recorder{&o.answer, &o.after}, 4, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if furthest(want.after, o.after) != 0 {
			t.Error("a session whose rows another one wanted answers otherwise")
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		s.close()
	})
}
