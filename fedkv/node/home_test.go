package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
	"fedattn/fedkv/node/tap"
)

// stay leaves the rows of these hosts where they are; of all without any.
func stay(hosts ...int) func(*node.Question) {
	return func(q *node.Question) {
		for i := range q.Contacts {
			q.Contacts[i].Home = len(hosts) == 0
		}
		for _, i := range hosts {
			q.Contacts[i].Home = true
		}
	}
}

func answering(n int) func(*node.Question) {
	return func(q *node.Question) { q.Answer = n }
}

func furthest(a, b [][]float32) (most float64) {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		for j := range a[i] {
			most = max(most, math.Abs(float64(a[i][j]-b[i][j])))
		}
	}
	return most
}

// Rows that stay home give the answer that rows give that are sent as they are, but for the rounding of queries and
// outputs; with windows, at either kind of positions, and where only some stay.
func TestHomeIsGather(t *testing.T) {
	for _, cast := range casts[1:] {
		for _, positions := range []fedkv.Positions{fedkv.Canonical, fedkv.InPlace} {
			for _, windows := range []bool{false, true} {
				for _, who := range [][]int{nil, {0}} {
					play(t, fmt.Sprint(cast, positions, windows, who), func(t *testing.T) {
						s := newStage(t, "gather", f16, cast...)
						if windows {
							s.slide()
						}
						s.positions = positions
						s.open()
						gather := s.mustAsk(answering(5))
						home := s.mustAsk(answering(5), stay(who...))
						s.close()
						if d := furthest(gather.logits, home.logits); d > 0.02 {
							t.Errorf("logits differ by %g", d)
						}
						if d := furthest(gather.after, home.after); d > 0.02 {
							t.Errorf("logits of the answer differ by %g", d)
						}
						if home.report.Present() != len(s.hosts) || home.report.Home.Rounds != s.engine.Model.Layers*(1+len(home.after)-1) {
							t.Errorf("%d rounds, missing %v", home.report.Home.Rounds, missing(home.report))
						}
						for i, p := range home.report.Peers {
							if stays := who == nil || i == 0; stays != (p.Bytes == 0) {
								t.Errorf("%d bytes of rows of contributor %d", p.Bytes, i)
							}
						}
					})
				}
			}
		}
	}
}

// The context may be larger than the caches of the publisher: rows that stay home take none of them.
func TestHomeNeedsNoCells(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 30, 25, 4)
		s.open()
		gather := s.mustAsk(answering(3))
		small := func(q *node.Question) { q.MaxContext, q.MaxPositions = 12, 1000 }
		home := s.mustAsk(answering(3), stay(), small)
		if d := furthest(gather.logits, home.logits); d > 0.02 {
			t.Errorf("logits differ by %g", d)
		}
		if alone := s.mustAsk(answering(3), small); alone.report.Present() != 0 {
			t.Error("rows that are sent fit into a context that is too small for them")
		}
		s.close()
	})
}

// A conversation over rows that stay home is one over rows that are sent, in every turn; and it has room for more than its
// publisher could hold.
func TestHomeInAConversation(t *testing.T) {
	for _, who := range [][]int{{0, 1}, {0}} {
		play(t, fmt.Sprint(who), func(t *testing.T) {
			s := newStage(t, "gather", f16, 30, 25, 4)
			s.open()
			gather := s.converse()
			home := s.converse(func(chat *node.Chat) {
				for _, i := range who {
					chat.Contacts[i].Home = true
				}
				if len(who) == len(s.hosts) {
					chat.MaxContext, chat.Keep, chat.MaxPositions = 50, 40, 1000
				}
			})
			for turn, n := range []int{6, 3} {
				gather.turn(text(turn, n), 4)
				home.turn(text(turn, n), 4)
				if d := furthest([][]float32{gather.first}, [][]float32{home.first}); d > 0.02 {
					t.Errorf("turn %d: logits differ by %g", turn, d)
				}
				if r := home.reply.Report; r.Present() != 2 || r.Peers[who[0]].Bytes != 0 || r.Home.Rounds == 0 {
					t.Errorf("turn %d: %d present, %d bytes of rows, %d rounds", turn, r.Present(), r.Peers[who[0]].Bytes, r.Home.Rounds)
				}
			}
			if err := gather.Close(); err != nil {
				t.Error(err)
			}
			home.close()
		})
	}
}

// A contributor that dies in the middle of an answer is gone from the next layer on, and the answer says since when.
func TestHomeLostInTheAnswer(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 5, 6, 4)
		tokens := 0
		s.decoding = func() {
			if tokens++; tokens == 2 {
				s.hosts[1].kill()
			}
		}
		s.open()
		o := s.mustAsk(answering(6), stay())
		s.close()
		if len(o.answer) != 6 {
			t.Errorf("%d tokens of 6", len(o.answer))
		}
		m := o.report.Peers[1].Missing
		if m == nil || m.Phase != fedkv.PhaseAnswer || o.report.Peers[0].Missing != nil {
			t.Fatalf("missing: %v", missing(o.report))
		}
		if notes := strings.Join(o.report.Notes, "\n"); !strings.Contains(notes, "host1 answers no more from token 3") {
			t.Errorf("notes: %q", notes)
		}
		without := newStage(t, "gather", f16, 5, 6, 4)
		without.open()
		whole := without.mustAsk(answering(6), stay())
		without.close()
		if furthest(o.after[:1], whole.after[:1]) != 0 || furthest(o.after, whole.after) < 1e-3 {
			t.Error("the loss changes the answer before it, or not after it")
		}
	})
}

func TestHomeRequireAll(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 5, 6, 4)
		s.open()
		q := s.question()
		stay()(&q)
		q.Answer, q.RequireAll = 6, true
		session, err := node.Ask(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		var answer []fedkv.Token
		var after [][]float32
		_, err = session.Generate(context.Background(), recorder{&answer, &after}, 6, func([]byte) error {
			if len(answer) == 2 {
				s.hosts[0].kill()
				arrive()
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "host0") {
			t.Errorf("the answer goes on: %v", err)
		}
		_ = session.Close()
		s.close()
	})
}

// liar is a link whose answers are not what was asked for.
type liar struct {
	node.Link
	change func(b []byte) []byte
}

func (l liar) AcceptRounds(ctx context.Context) (node.Rounds, error) {
	r, err := l.Link.AcceptRounds(ctx)
	if err != nil {
		return nil, err
	}
	return lying{r, l.change}, nil
}

type lying struct {
	node.Rounds
	change func(b []byte) []byte
}

func (l lying) Write(b []byte) (int, error) {
	changed := l.change(bytes.Clone(b))
	if _, err := l.Rounds.Write(changed); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Whoever answers wrongly, or not at all, is out, and the session goes on in time.
func TestHomeWrongAnswers(t *testing.T) {
	nan := binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN())))
	for name, change := range map[string]func(b []byte) []byte{
		"an output that is infinite": func(b []byte) []byte {
			binary.LittleEndian.PutUint16(b[fedkv.RoundHeaderSize:], 0x7c00)
			return b
		},
		"a sum that is not a number": func(b []byte) []byte { copy(b[len(b)-4:], nan); return b },
		"another layer":              func(b []byte) []byte { b[7]++; return b },
		"another round":              func(b []byte) []byte { b[11]++; return b },
		"another length":             func(b []byte) []byte { b[31]++; return b },
		"rubbish":                    func(b []byte) []byte { b[0]++; return b },
		"silence":                    func([]byte) []byte { return nil },
		"half":                       func(b []byte) []byte { return b[:len(b)/2] },
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", f16, 5, 6, 4)
			s.hosts[1].wrap = func(l node.Link) node.Link { return liar{l, change} }
			s.open()
			o := s.mustAsk(answering(2), stay())
			if o.took > time.Minute {
				t.Errorf("took %v", o.took)
			}
			if m := o.report.Peers[1].Missing; m == nil || m.Phase != fedkv.PhaseAnswer || o.report.Peers[0].Missing != nil {
				t.Errorf("missing: %v", missing(o.report))
			}
			s.close()
		})
	}
}

// No row crosses a link: the search finds them where they are sent, and not where they stay.
func TestHomeSendsNoRows(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 9, 8, 4)
		var record bytes.Buffer
		to := tap.NewRecorder(&record)
		s.dialledAs = func(_ string, l node.Link) node.Link { return to.Link(l) }
		s.open()
		rows := map[string]bool{}
		for i, h := range s.hosts {
			for _, row := range h.rows(t, s.prefix, s.segments[i]) {
				rows[string(row)] = true
			}
		}
		found := func() (n int) {
			for row := range rows {
				if bytes.Contains(record.Bytes(), []byte(row)) {
					n++
				}
			}
			return n
		}
		home := s.mustAsk(answering(4), stay())
		if n := found(); n != 0 || home.report.Home.Received == 0 || record.Len() < int(home.report.Home.Sent+home.report.Home.Received) {
			t.Errorf("%d rows cross the links in %d bytes", n, record.Len())
		}
		record.Reset()
		s.mustAsk()
		if n := found(); n != len(rows) {
			t.Errorf("the search finds %d of %d rows that were sent", n, len(rows))
		}
		s.close()
	})
}

// rows is every head's part of every K and V row that a host computes, in float16 as the cache holds it.
func (h *host) rows(t *testing.T, prefix, segment []fedkv.Token) (list [][]byte) {
	t.Helper()
	n := len(prefix) + len(segment)
	none, err := fedkv.NewSchedule(h.engine.Model.Layers)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.engine.Open(fedkv.CacheSpec{Sync: none, LocalCells: n, SyncCells: n, MicroBatch: 3, Outputs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, part := range []struct {
		tokens []fedkv.Token
		at     int
	}{{prefix, 0}, {segment, len(prefix)}} {
		if err := c.Eval(part.tokens, part.at, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	for layer := range h.engine.Model.Layers {
		rows, err := c.AppendRows(nil, layer, fedkv.Span(len(prefix), len(segment)), f16)
		if err != nil {
			t.Fatal(err)
		}
		for head := 0; head < len(rows); head += 2 * h.engine.Model.HeadDim {
			list = append(list, rows[head:][:2*h.engine.Model.HeadDim])
		}
	}
	return list
}

// Owners may let nothing but queries in, and bound these.
func TestHomeOnly(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 5, 6, 4)
		s.hosts[0].config.HomeOnly = true
		s.hosts[1].config.MaxQueries = 20 // tokens at layers: the question takes 24
		s.open()
		rows := s.mustAsk()
		if m := rows.report.Peers[0].Missing; m == nil || m.Code != fedkv.CodeHome {
			t.Errorf("missing: %v", missing(rows.report))
		}
		home := s.mustAsk(stay(), answering(2))
		if m := home.report.Peers[1].Missing; m == nil || m.Code != fedkv.CodeLimit || home.report.Peers[0].Missing != nil {
			t.Errorf("missing: %v", missing(home.report))
		}
		s.close()
		h := s.hosts[0]
		h.mu.Lock()
		defer h.mu.Unlock()
		last := h.over[len(h.over)-1]
		if last.Bytes != 0 || last.Queries < 4*s.engine.Model.Layers || last.Answers == 0 {
			t.Errorf("%+v", last)
		}
	})
}

// The engine alone, nothing rounded but its own interface: the same logits as with the rows in one cache.
func TestHomeOracle(t *testing.T) {
	e := nodetest.NewEngine()
	all, _ := fedkv.ParseSchedule("all", e.Model.Layers)
	none, _ := fedkv.ParseSchedule("none", e.Model.Layers)
	prefix, text, own := sample(9, 3), sample(1, 8), sample(2, 5)
	open := func(sync fedkv.Schedule) node.HomeCache {
		c, err := e.Open(fedkv.CacheSpec{Sync: sync, LocalCells: 40, SyncCells: 40, MicroBatch: 4, Outputs: len(own)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.(node.HomeCache)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	host := open(none)
	must(host.Eval(prefix, 0, 0, nil))
	must(host.Eval(text, len(prefix), 0, nil))
	kept, err := host.KeepRows(all, fedkv.Span(len(prefix), len(text)))
	must(err)
	defer kept.Close()
	const shift = 7
	at := len(prefix) + shift
	logits := func(c node.Cache) (out [][]float32) {
		must(c.Eval(own, at+len(text), len(own), nil))
		for i := range own {
			row, err := c.Logits(i)
			must(err)
			out = append(out, row)
		}
		return out
	}
	gather := open(all)
	must(gather.Eval(prefix, 0, 0, nil))
	must(gather.Reserve(at, len(text)))
	for layer := range e.Model.Layers {
		rows, err := host.AppendRows(nil, layer, fedkv.Span(len(prefix), len(text)), f16)
		must(err)
		must(gather.WriteRows(layer, fedkv.Span(at, len(text)), shift, f16, rows))
	}
	must(gather.SetNext(at + len(text)))
	want := logits(gather)
	home := open(none)
	must(home.Eval(prefix, 0, 0, nil))
	must(home.SetNext(at + len(text)))
	var p fedkv.Partial
	must(home.SetHome(&node.Home{
		Layers: all,
		Ask: func(layer, first, n int, queries []float32) error {
			_, outputs, heads, _ := e.Shape().Layers[layer].HomeSizes()
			p = fedkv.Partial{Out: make([]float32, n*outputs), LSE: make([]float32, n*heads)}
			return kept.Attend(layer, shift, first, n, queries, p)
		},
		Merge: func(_, _, _ int, own fedkv.Partial) error { own.Merge(p); return nil },
	}))
	// rows that are placed are rounded once more, after their rotation
	if d := furthest(want, logits(home)); d > 2e-3 {
		t.Errorf("logits differ by %g", d)
	}
}
