package node_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

var (
	suffix  = sample(50, 2)
	between = sample(51, 3)
)

// talk is a conversation under test and what was said in it.
type talk struct {
	*node.Conversation
	s     *stage
	said  []fedkv.Token
	first []float32 // logits before the first token of the last answer
	reply node.Reply
}

// converse opens a conversation with everybody.
func (s *stage) converse(change ...func(*node.Chat)) *talk {
	s.t.Helper()
	q := s.question()
	chat := node.Chat{
		Engine: s.engine, Self: q.Self, ID: q.ID, Contacts: q.Contacts, Prefix: q.Prefix, Suffix: suffix, Between: between,
		Schedules: q.Schedules, Wire: q.Wire, Rows: q.Rows, Positions: q.Positions, MaxContext: 300, Keep: 100,
		SetupBy: setupBy, GatherBy: gatherBy, Log: q.Log,
	}
	for _, c := range change {
		c(&chat)
	}
	c, err := node.Open(context.Background(), chat)
	if err != nil {
		s.t.Fatal(err)
	}
	return &talk{Conversation: c, s: s}
}

func text(number, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + (number*7+i*3)%26)
	}
	return string(b)
}

func (c *talk) tokens(text string) []fedkv.Token {
	tokens, err := c.s.engine.Tokenize(text)
	if err != nil {
		c.s.t.Fatal(err)
	}
	return tokens
}

// turn says something, with an answer of so many tokens, and keeps the book of what was said.
func (c *talk) turn(text string, limit int) {
	c.s.t.Helper()
	if err := c.try(context.Background(), text, limit); err != nil {
		c.s.t.Fatalf("%v\n%s", err, c.s.log)
	}
}

func (c *talk) try(ctx context.Context, text string, limit int) (err error) {
	said := slices.Clone(c.said)
	if c.Turns() > 0 {
		said = append(said, between...)
	}
	said = slices.Concat(said, c.tokens(text), suffix)
	var answer []fedkv.Token
	var logits [][]float32
	c.reply, err = c.Turn(ctx, node.Turn{Text: text, Limit: limit, Sampler: recorder{&answer, &logits}})
	if len(logits) > 0 {
		c.first, c.said = logits[0], append(said, answer...)
	}
	return err
}

// check holds the last turn's first logits against one session over everybody who is there, whose question is all that
// was said.
func (c *talk) check(what string) {
	c.s.t.Helper()
	said := c.said[:len(c.said)-c.reply.Report.Decoded]
	o := nodetest.Oracle{
		Engine: c.s.engine, Prefix: c.s.prefix, Segments: append(slices.Clone(c.s.segments[:len(c.s.hosts)]), said),
		Schedules: c.s.schedules, Wire: c.s.wire, Positions: c.s.positions,
	}
	for _, h := range c.s.hosts {
		o.Batches = append(o.Batches, h.config.MicroBatch)
	}
	l := c.reply.Report.Layout
	l.Segments = slices.Clone(l.Segments)
	own := &l.Segments[len(l.Segments)-1]
	own.Origin, own.Offset, own.Tokens = len(c.s.hosts), own.End()-len(said), len(said)
	o.Layout = &l
	logits := o.Logits()
	if !slices.Equal(c.first, logits[len(logits)-1]) {
		c.s.t.Errorf("%s: the logits are not those of one session", what)
	}
}

func (c *talk) close() {
	c.s.t.Helper()
	if err := c.Close(); err != nil {
		c.s.t.Error(err)
	}
	if err := c.Close(); err != nil {
		c.s.t.Error(err)
	}
	c.s.close()
}

// A conversation computes what one question over all that was said computes, and later turns receive nothing.
func TestConversationsAreOneSession(t *testing.T) {
	for _, spec := range specs("gather", "contributors=none;publisher=2-", "none", "lockstep", "H=2") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 7, 4, 5, 1)
			for _, h := range s.hosts {
				if s.schedules.Regime() == fedkv.Lockstep {
					h.config.MicroBatch = 100
				}
			}
			s.open()
			c := s.converse()
			for turn, n := range []int{6, 3, 9} {
				c.turn(text(turn, n), 4+turn)
				c.check(text(turn, n))
				r := c.reply.Report
				if r.Present() != 3 || r.Decoded != 4+turn || (r.Received() > 0) != (turn == 0 && s.schedules.Publisher.Count() > 0) {
					t.Errorf("turn %d: %d present, %d tokens, %d bytes", turn, r.Present(), r.Decoded, r.Received())
				}
			}
			c.close()
			if s.schedules.Publisher.Count() > 0 {
				s.quiet()
			}
			for _, h := range s.hosts {
				if n := len(h.contributions()); n != 1 {
					t.Errorf("%s took part in %d sessions", h.id, n)
				}
			}
		})
	}
}

// Whoever is withdrawn was never there, and everybody else stays where they are.
func TestWithdrawnWasNeverThere(t *testing.T) {
	for _, spec := range specs("gather", "contributors=none;publisher=1,4") {
		for number := range 3 {
			play(t, spec, func(t *testing.T) {
				s := newStage(t, spec, lossy, 7, 4, 5, 1)
				s.open()
				c := s.converse()
				c.turn(text(1, 6), 4)
				before := c.reply.Report.Layout
				if err := errors.Join(c.Withdraw(number), c.Withdraw(number)); err != nil {
					t.Fatal(err)
				}
				c.turn(text(2, 3), 3)
				c.check("after the withdrawal")
				r := c.reply.Report
				for _, was := range before.Segments[:3] {
					is, ok := r.Layout.Segment(was.Origin)
					if ok == (was.Origin == number) || ok && is != was {
						t.Errorf("share %d was %+v and is %+v", was.Origin, was, is)
					}
				}
				if r.Again != 6+2+3 || len(r.Peers) != 2 || c.Shares()[number].State != node.ShareWithdrawn {
					t.Errorf("%d tokens again, %d peers, %v", r.Again, len(r.Peers), c.Shares()[number].State)
				}
				c.turn(text(3, 3), 2)
				c.check("later")
				if again := c.reply.Report.Again; again != 0 {
					t.Errorf("%d tokens once more", again)
				}
				// nothing said is left: the others close up
				if err := c.Rewind(0); err != nil {
					t.Fatal(err)
				}
				c.said = nil
				c.turn(text(1, 6), 2)
				if l := c.reply.Report.Layout; l.Segments[0].Offset != 3 || l.Segments[1].Offset != l.Segments[0].End() {
					t.Errorf("after the rewind: %+v", l)
				}
				c.close()
			})
		}
	}
	play(t, "before the first turn", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 5, 1)
		s.open()
		c := s.converse()
		if err := c.Withdraw(1); err != nil {
			t.Fatal(err)
		}
		c.turn(text(1, 6), 4)
		c.check("")
		c.close()
	})
	play(t, "in lockstep", func(t *testing.T) {
		s := newStage(t, "lockstep", lossy, 7, 4, 1)
		s.open()
		c := s.converse()
		c.turn(text(1, 6), 4)
		if err := c.Withdraw(0); fedkv.CodeOf(err) != fedkv.CodePlan {
			t.Error(err)
		}
		if err := c.Add(s.contact("host0")); fedkv.CodeOf(err) != fedkv.CodePlan {
			t.Error(err)
		}
		c.turn(text(2, 6), 4)
		c.close()
	})
}

// late is a conversation that a third contributor joins at its second turn.
func late(t *testing.T, s *stage) *talk {
	t.Helper()
	c := s.converse(func(chat *node.Chat) { chat.Contacts = chat.Contacts[:2] })
	c.turn(text(1, 6), 4)
	if err := c.Add(s.contact("host2")); err != nil {
		t.Fatal(err)
	}
	return c
}

// A contributor may join later: its rows stand before what the user says then, and nothing is received again of others.
func TestAContributorMayJoinLater(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 5, 1)
		s.open()
		c := late(t, s)
		c.turn(text(2, 3), 3)
		r := c.reply.Report
		// prefix 3, segments 7 and 4, question 6+2, answer 4, between 3
		if at, ok := r.Layout.Segment(2); !ok || at.Offset != 3+7+4+6+2+4+3 || r.Peers[0].Bytes != 0 || r.Peers[2].Bytes == 0 {
			t.Errorf("%+v; %+v", at, r.Peers)
		}
		want := c.first

		// withdrawing it leaves the conversation without it, at the same positions
		if err := c.Withdraw(2); err != nil {
			t.Fatal(err)
		}
		c.turn(text(3, 3), 3)
		if again := c.reply.Report.Again; again != 3+2+2 { // the last token of the answer was not evaluated yet
			t.Errorf("%d tokens again", again)
		}

		// the same once more: its cells, when they are written anew, are the same
		if err := c.Rewind(1); err != nil {
			t.Fatal(err)
		}
		if err := c.Add(s.contact("host2")); err != nil {
			t.Fatal(err)
		}
		c.turn(text(2, 3), 3)
		if r := c.reply.Report; r.Layout.Segments[2].Origin != 3 {
			t.Errorf("%+v", r.Layout)
		}
		if !slices.Equal(c.first, want) {
			t.Error("another answer")
		}
		c.close()
		s.quiet()
	})
}

// What a later contributor's rows are in the cache is what one who was there from the start has, when everything that was
// said between is forgotten.
func TestRewindClosesUp(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 7, 4, 5, 1)
		s.open()
		c := late(t, s)
		c.turn(text(2, 3), 3)
		if err := c.Rewind(0); err != nil {
			t.Fatal(err)
		}
		c.said = nil
		c.turn(text(4, 5), 3)
		moved := c.first
		if l := c.reply.Report.Layout; l.Segments[2].Offset != l.Segments[1].End() {
			t.Errorf("%+v", l)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		whole := s.converse()
		whole.turn(text(4, 5), 3)
		// rows that were moved were rotated twice and rounded twice
		for i, v := range whole.first {
			if d := v - moved[i]; d > 0.02 || d < -0.02 {
				t.Fatalf("logit %d: %v and %v", i, v, moved[i])
			}
		}
		whole.close()
	})
}

// Regenerating begins where the first answer began, bit for bit, and what was recalled is what was said.
func TestRegenerateAndRecall(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 1)
		s.open()
		c := s.converse()
		c.turn(text(1, 6), 4)
		c.turn(text(2, 5), 6)
		first := c.first
		var answer []fedkv.Token
		var logits [][]float32
		reply, err := c.Regenerate(context.Background(), node.Turn{Limit: 6, Sampler: recorder{&answer, &logits}})
		if err != nil || reply.Text != c.reply.Text || !slices.Equal(logits[0], first) || c.Turns() != 2 {
			t.Errorf("%v: %q, was %q", err, reply.Text, c.reply.Text)
		}
		c.turn(text(3, 4), 2)
		c.check("after it")

		if err := c.Rewind(1); err != nil {
			t.Fatal(err)
		}
		if err := c.Rewind(7); err == nil {
			t.Error("a turn that is not there")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}

		// an answer's text has not always the tokens that were drawn; here every token is a byte
		again := s.converse()
		if err := again.Recall(text(1, 6), "abcd"); err != nil {
			t.Fatal(err)
		}
		again.said = slices.Concat(again.tokens(text(1, 6)), suffix, again.tokens("abcd"))
		again.turn(text(2, 5), 6)
		again.check("recalled")
		if reply, err := again.Regenerate(context.Background(), node.Turn{Limit: 6, Sampler: nodetest.Greedy{}}); err != nil ||
			reply.Text != again.reply.Text {
			t.Errorf("%v: %q, was %q", err, reply.Text, again.reply.Text)
		}
		again.close()
	})
}

// A turn may be stopped at any moment. Before the first token it was never there, after it what was said stays.
func TestATurnMayBeStopped(t *testing.T) {
	for _, after := range []time.Duration{0, 1, 5, 9, 13, 17, 20, 24, 28, 31, 35, 40} {
		play(t, after.String(), func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 4, 5, 1)
			for _, h := range s.hosts[1:] {
				h.engine.LayerTime = time.Second
			}
			s.engine.LayerTime = time.Second
			s.open()
			c := s.converse()
			ctx, cancel := context.WithTimeout(context.Background(), after*time.Second+time.Second/2)
			err := c.try(ctx, text(1, 6), 3)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			if started := c.reply.Report.Decoded > 0; started != (c.Turns() == 1) {
				t.Errorf("%d tokens, %d turns", c.reply.Report.Decoded, c.Turns())
			}
			s.engine.LayerTime = 0
			c.turn(text(2, 5), 3)
			c.check("the next turn")
			c.close()
			s.quiet()
		})
	}
}

// A turn that comes while others' rows are evaluated again may be stopped too.
func TestARefreshMayBeStopped(t *testing.T) {
	for after := range 30 {
		play(t, "", func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 4, 5, 1)
			s.open()
			c := late(t, s)
			c.turn(text(2, 3), 3)
			whole := slices.Clone(c.said)
			if err := c.Withdraw(0); err != nil {
				t.Fatal(err)
			}
			s.engine.LayerTime = time.Second
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(after)*time.Second+time.Second/2)
			err := c.try(ctx, text(3, 4), 1)
			cancel()
			if err == nil {
				t.Skip("it was over before")
			}
			s.engine.LayerTime = 0
			c.said = whole
			c.turn(text(3, 4), 1)
			stopped := c.first

			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			other := late(t, s)
			other.turn(text(2, 3), 3)
			if err := other.Withdraw(0); err != nil {
				t.Fatal(err)
			}
			other.turn(text(3, 4), 1)
			if !slices.Equal(stopped, other.first) {
				t.Error("another answer than without the interruption")
			}
			other.close()
		})
	}
}

// A conversation that is full says by how much, and goes on when there is room again.
func TestAFullConversationSaysSo(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 1)
		s.open()
		c := s.converse(func(chat *node.Chat) { chat.MaxContext, chat.Keep = 60, 20 })
		c.turn(text(1, 6), 4) // 3+7+4 + 6+2+4, of which one token waits
		err := c.try(context.Background(), text(2, 40), 1)
		var full *node.ContextFull
		if !errors.As(err, &full) || !errors.Is(err, fedkv.ErrTooLong) || *full != (node.ContextFull{Limit: 60, Used: 25, Need: 1 + 3 + 40 + 2 + 1}) {
			t.Fatalf("%+v", err)
		}
		c.turn(text(2, 4), 0) // as much as there is room for
		if c.reply.Stopped != node.StopLength || c.reply.Report.Decoded != 60-25-1-3-4-2 {
			t.Errorf("%s after %d tokens", c.reply.Stopped, c.reply.Report.Decoded)
		}
		if err := c.try(context.Background(), text(3, 1), 1); !errors.As(err, &full) {
			t.Fatal(err)
		}
		if err := c.Rewind(1); err != nil {
			t.Fatal(err)
		}
		c.said = c.said[:6+2+4]
		c.turn(text(3, 3), 2)
		c.check("with room again")
		c.close()
	})
}

// Who cannot be reached is missing in every turn, and one who joins too late is named in his.
func TestAConversationNamesTheMissing(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 1)
		s.open()
		c := s.converse(func(chat *node.Chat) { chat.Contacts = append(chat.Contacts, s.contact("nobody")) })
		c.turn(text(1, 6), 4)
		if list := missing(c.reply.Report); len(list) != 1 || list[0].Origin != 2 {
			t.Errorf("%+v", list)
		}
		c.check("")
		if err := c.Add(s.contact("nobody else")); err != nil {
			t.Fatal(err)
		}
		c.turn(text(2, 3), 4)
		c.check("")
		if list := c.Shares(); len(list) != 4 || list[0].State != node.SharePresent || list[3].State != node.ShareMissing {
			t.Errorf("%+v", list)
		}
		c.close()
	})
	play(t, "required", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 1)
		s.open()
		c := s.converse(func(chat *node.Chat) {
			chat.Contacts, chat.RequireAll = append(chat.Contacts, s.contact("nobody")), true
		})
		for range 2 {
			if err := c.try(context.Background(), text(1, 6), 4); fedkv.CodeOf(err) != fedkv.CodeLost {
				t.Error(err)
			}
		}
		c.close()
	})
}

// Emit may end an answer: as it should, or not.
func TestEmitMayEndAnAnswer(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 1)
		s.open()
		c := s.converse()
		n := 0
		broken := errors.New("nobody reads it")
		for _, end := range []error{node.ErrEnough, broken} {
			var answer []fedkv.Token
			var logits [][]float32
			reply, err := c.Turn(context.Background(), node.Turn{Text: "x", Sampler: recorder{&answer, &logits}, Emit: func([]byte) error {
				if n++; n%3 == 0 {
					return end
				}
				return nil
			}})
			if end == broken && !errors.Is(err, broken) || end != broken && (err != nil || reply.Stopped != node.StopEnd) || len(reply.Text) != 3 {
				t.Errorf("%v: %+v", err, reply)
			}
		}
		c.turn("y", 3)
		c.close()
	})
}

// Rows may be chosen by what the user says, in each turn that somebody joins.
func TestAConversationMayAskByQueries(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 5, 1)
		s.rows = mustRows(t, "query=0.5")
		s.open()
		c := late(t, s)
		c.turn(text(2, 3), 3)
		if r := c.reply.Report; r.Present() != 3 || r.Peers[2].Bytes == 0 {
			t.Errorf("%+v", r.Peers)
		}
		if err := c.Rewind(0); err != nil {
			t.Fatal(err)
		}
		c.turn(text(2, 3), 3)
		c.close()
		s.quiet()
	})
}
