package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// far is a link over which answers to queries take a while.
type far struct {
	node.Link
	delay time.Duration
}

func (f far) AcceptRounds(ctx context.Context) (node.Rounds, error) {
	r, err := f.Link.AcceptRounds(ctx)
	return distant{r, f.delay}, err
}

type distant struct {
	node.Rounds
	delay time.Duration
}

func (d distant) Write(b []byte) (int, error) {
	time.Sleep(d.delay)
	return d.Rounds.Write(b)
}

// farStage is contributors that answer queries after a while, and a publisher that evaluates a layer in one millisecond.
func farStage(t *testing.T, delay time.Duration) *stage {
	s := newStage(t, "gather", f16, 30, 25, 4)
	s.engine.LayerTime = time.Millisecond
	for _, h := range s.hosts {
		h.wrap = func(l node.Link) node.Link { return far{l, delay} }
	}
	s.open()
	return s
}

// Guesses spare rounds and change nothing else: the answer is the one without them, bit for bit, wherever it is cut off.
func TestDraftsLeaveTheAnswerAsItIs(t *testing.T) {
	for _, who := range [][]int{nil, {0}} {
		play(t, fmt.Sprint(who), func(t *testing.T) {
			s := farStage(t, 50*time.Millisecond)
			for _, n := range []int{1, 2, 24} {
				plain := s.mustAsk(answering(n), stay(who...))
				drafted := s.mustAsk(answering(n), stay(who...), func(q *node.Question) { q.Draft = 8 })
				if !slices.Equal(plain.answer, drafted.answer) || furthest(plain.after, drafted.after) != 0 {
					t.Errorf("%d tokens: %v, and with guesses %v", n, plain.answer, drafted.answer)
				}
				was, is := plain.report, drafted.report
				if was.Drafted != 0 || is.Accepted > is.Drafted || is.Decoded != n {
					t.Errorf("%d tokens: %d of %d guesses, and %d without", is.Decoded, is.Accepted, is.Drafted, was.Drafted)
				}
				if n == 24 && (is.Accepted == 0 || is.Home.Rounds >= was.Home.Rounds || is.DecodeMS >= was.DecodeMS) {
					t.Errorf("%d of %d guesses were right; %d rounds in %g ms, without %d in %g ms", is.Accepted, is.Drafted, is.Home.Rounds,
						is.DecodeMS, was.Home.Rounds, was.DecodeMS)
				}
			}
			s.close()
		})
	}
}

// Where rounds cost nothing, nothing is guessed by evaluations of one's own.
func TestDraftsOnlyWhereRoundsCost(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := farStage(t, 0)
		o := s.mustAsk(answering(12), stay(), func(q *node.Question) { q.Draft = 8 })
		if o.report.Drafted != 0 {
			t.Errorf("%d guesses", o.report.Drafted)
		}
		s.close()
	})
}

// A conversation goes on from a guess that was cut off as from any token: after a full answer, one that was broken off by
// the user, and one that is answered again.
func TestDraftsInAConversation(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := farStage(t, 50*time.Millisecond)
		home := func(draft int) func(*node.Chat) {
			return func(chat *node.Chat) {
				chat.Draft = draft
				for i := range chat.Contacts {
					chat.Contacts[i].Home = true
				}
			}
		}
		plain, drafted := s.converse(home(0)), s.converse(home(8))
		same := func(what string) {
			t.Helper()
			if furthest([][]float32{plain.first}, [][]float32{drafted.first}) != 0 || !slices.Equal(plain.said, drafted.said) {
				t.Errorf("%s: %v, and with guesses %v", what, plain.said, drafted.said)
			}
		}
		for turn, limit := range []int{16, 3, 9} {
			for _, c := range []*talk{plain, drafted} {
				c.turn(text(turn, 6), limit)
			}
			same(fmt.Sprint("turn ", turn))
		}
		if drafted.Report().Drafted == 0 {
			t.Error("nothing was guessed: the test sees nothing")
		}
		enough := errors.New("enough")
		var answers [2][]fedkv.Token
		for i, c := range []*talk{plain, drafted} {
			var logits [][]float32
			emitted := 0
			_, err := c.Regenerate(context.Background(), node.Turn{
				Limit: 12, Sampler: recorder{&answers[i], &logits},
				Emit: func([]byte) error {
					if emitted++; emitted == 5 {
						return enough
					}
					return nil
				},
			})
			if !errors.Is(err, enough) {
				t.Fatal(err)
			}
		}
		if !slices.Equal(answers[0], answers[1]) {
			t.Errorf("answered again: %v, and with guesses %v", answers[0], answers[1])
		}
		for _, c := range []*talk{plain, drafted} {
			c.turn(text(5, 4), 6)
		}
		if furthest([][]float32{plain.first}, [][]float32{drafted.first}) != 0 {
			t.Error("what follows a broken answer hangs on guesses")
		}
		if err := plain.Close(); err != nil {
			t.Error(err)
		}
		drafted.close()
	})
}
