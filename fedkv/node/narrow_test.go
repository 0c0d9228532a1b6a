package node_test

import (
	"fmt"
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// A session whose terms are narrowed at the commit is the session that was planned with them, bit for bit and byte for
// byte, whoever is left out before.
func TestNarrowedSessionsAreThosePlannedSo(t *testing.T) {
	for _, left := range []int{-1, 0, 1} {
		for _, spec := range specs("gather", "contributors=none;publisher=1,4", "contributors=none;publisher=0") {
			play(t, fmt.Sprint(spec, ",", left), func(t *testing.T) {
				small := fedkv.WireTypes{K: fedkv.Q4_0, V: fedkv.NF3 | fedkv.Hadamard}
				ask := func(s *stage, change func(*node.Question)) *outcome {
					if left >= 0 {
						s.hosts[left].config.Self.Engine = "another"
					}
					s.open()
					o := s.mustAsk(change)
					s.close()
					return o
				}
				planned := newStage(t, spec, small, 7, 5, 4)
				want := ask(planned, func(*node.Question) {})
				planned.check(want)

				s := newStage(t, "gather", lossy, 7, 5, 4)
				var told []int
				got := ask(s, func(q *node.Question) {
					q.Narrow = func(tokens []int) (fedkv.Terms, error) {
						told = slices.Clone(tokens)
						return fedkv.Terms{Publisher: planned.schedules.Publisher, Wire: planned.wire}, nil
					}
				})
				if !equal(got.logits, want.logits) || got.report.Received() != want.report.Received() {
					t.Errorf("%d bytes, %d if planned so; the same answer: %v", got.report.Received(), want.report.Received(), equal(got.logits, want.logits))
				}
				tokens := []int{7, 5}
				if left >= 0 {
					tokens[left] = 0
				}
				if !slices.Equal(told, tokens) {
					t.Errorf("chosen for %v tokens, these are %v", told, tokens)
				}
			})
		}
	}
}

// Terms beyond the plan, or none, end the session.
func TestTermsThatCannotBe(t *testing.T) {
	for why, narrow := range map[string]func(s *stage) (fedkv.Terms, error){
		"too few bytes": func(*stage) (fedkv.Terms, error) { return fedkv.Terms{}, fmt.Errorf("too few bytes") },
		"larger than the plan's": func(s *stage) (fedkv.Terms, error) {
			return fedkv.Terms{Publisher: s.schedules.Publisher, Wire: fedkv.Uniform(f16, 6)}, nil
		},
	} {
		play(t, why, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 5, 3)
			s.open()
			q := s.question()
			q.Narrow = func([]int) (fedkv.Terms, error) { return narrow(s) }
			_, err := s.ask(q)
			s.close()
			if fedkv.CodeOf(err) != fedkv.CodePlan {
				t.Fatal(err)
			}
			contains(t, err.Error(), why)
		})
	}
}
