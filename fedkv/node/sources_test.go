package node_test

import (
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// ofSources is the weight of each contributor from the first one on in an answer's sources, by number.
func ofSources(t *testing.T, r node.Report, first, contributors int) []float64 {
	t.Helper()
	if len(r.Sources) != contributors-first {
		t.Fatalf("sources %+v of %d contributors", r.Sources, contributors)
	}
	weight := make([]float64, contributors)
	for i, s := range r.Sources {
		if !(s.Weight > 0) || i > 0 && s.Weight > r.Sources[i-1].Weight {
			t.Errorf("sources %+v", r.Sources)
		}
		weight[s.Number] = s.Weight
	}
	return weight
}

// Saying what an answer looked at changes no logit; rows that stay home, and those that were withdrawn, are no source.
func TestSourcesOfRowsHereAndElsewhere(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 12, 9, 4)
		s.open()
		defer s.close()
		for _, who := range [][]int{nil, {0}, {0, 1}} {
			c := s.converse(func(chat *node.Chat) {
				chat.Sources = true
				for _, i := range who {
					chat.Contacts[i].Home = true
				}
			})
			plain := s.converse(func(chat *node.Chat) { chat.Contacts = slices.Clone(chat.Contacts); home(chat, who) })
			c.turn(text(1, 6), 4)
			plain.turn(text(1, 6), 4)
			if furthest([][]float32{c.first}, [][]float32{plain.first}) > 1e-6 || !slices.Equal(c.said, plain.said) {
				t.Errorf("%v: watching changes the answer", who)
			}
			if len(plain.reply.Report.Sources) != 0 {
				t.Error("sources that nobody asked for")
			}
			if len(who) < 2 {
				ofSources(t, c.reply.Report, len(who), 2)
				if err := c.Withdraw(0); err != nil {
					t.Fatal(err)
				}
				c.turn(text(2, 6), 2)
				if r := c.reply.Report.Sources; len(r) != 1 || r[0].Number != 1 {
					t.Errorf("sources after contributor 0 was withdrawn: %+v", r)
				}
			} else if len(c.reply.Report.Sources) != 0 {
				t.Errorf("rows that stay home are sources: %+v", c.reply.Report.Sources)
			}
			for _, c := range []*talk{c, plain} {
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func home(chat *node.Chat, who []int) {
	for _, i := range who {
		chat.Contacts[i].Home = true
	}
}

// Whoever sent few rows is looked at less.
func TestSourcesOfSparseRows(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 12, 12, 4)
		s.open()
		defer s.close()
		ask := func(rows string) []float64 {
			policy, err := fedkv.ParseRowPolicy(rows)
			if err != nil {
				t.Fatal(err)
			}
			c := s.converse(func(chat *node.Chat) { chat.Rows, chat.Sources = policy, true })
			defer c.Close()
			c.turn(text(1, 6), 4)
			return ofSources(t, c.reply.Report, 0, 2)
		}
		all, few := ask("all"), ask("random=0.25:1")
		if few[0] > 0.6*all[0] || slices.Max(few) != few[1] {
			t.Errorf("sources are %v, with a quarter of the first one's rows %v", all, few)
		}
	})
}
