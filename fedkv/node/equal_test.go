package node_test

import (
	"fmt"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// casts are lengths of segments, the publisher's last: one to eight participants, uneven ones, of one token too.
var casts = [][]int{{5}, {4, 3}, {1, 1}, {7, 1, 4}, {2, 9, 1, 3, 1, 6, 4, 2}}

func specs(list ...string) []string { return list }

// What participants compute together is what one pass with FedAttn's mask computes, bit for bit, whatever the schedule,
// the wire types, the positions and the cut.
func TestSessionsEqualTheOracle(t *testing.T) {
	for _, spec := range specs("gather", "contributors=none;publisher=2-", "contributors=none;publisher=1,4", "none",
		"lockstep", "H=2", "contributors=0-2;publisher=all", "contributors=2-;publisher=2-", "contributors=all;publisher=none",
		"contributors=5;publisher=0") {
		for i, types := range []fedkv.WireTypes{lossy, f16, {K: fedkv.Q5_1, V: fedkv.Q4_1}} {
			for _, cast := range casts[min(i, 1) : len(casts)-min(i, 1)] {
				play(t, fmt.Sprintf("%s,%v,%v", spec, types, cast), func(t *testing.T) {
					s := newStage(t, spec, types, cast...)
					s.open()
					o := s.mustAsk()
					s.close()
					s.check(o)
					if s.schedules.Publisher.Count() > 0 { // else contributors are sent home in the middle of their work
						s.quiet()
					}
					if o.report.Present() != len(s.hosts) {
						t.Errorf("missing: %v", missing(o.report))
					}
				})
			}
		}
	}
}

func TestGatherInPlaceEqualsTheOracle(t *testing.T) {
	for _, cast := range casts {
		play(t, fmt.Sprint(cast), func(t *testing.T) {
			s := newStage(t, "gather", lossy, cast...)
			s.positions = fedkv.InPlace
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
		})
	}
}

// DESIGN §2.8: with every layer a sync layer and rows as they are, a session is one process.
func TestLosslessLockstepIsOneProcess(t *testing.T) {
	for _, cast := range casts {
		play(t, fmt.Sprint(cast), func(t *testing.T) {
			s := newStage(t, "lockstep", f16, cast...)
			s.open()
			o := s.mustAsk()
			s.close()
			if !equal(o.logits, s.alone()) {
				t.Error("differs")
			}
		})
	}
}

// The first contributor has nobody before it, so in gather too it computes what one process would.
func TestLosslessGatherOfTwoIsOneProcess(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 7, 4)
		s.positions = fedkv.InPlace
		s.open()
		o := s.mustAsk()
		s.close()
		if !equal(o.logits, s.alone()) {
			t.Error("differs")
		}
	})
}

// alone is the publisher's logits if one process evaluates everything.
func (s *stage) alone() [][]float32 {
	all := append([]fedkv.Token(nil), s.prefix...)
	for _, segment := range s.segments {
		all = append(all, segment...)
	}
	own := len(s.segments[len(s.segments)-1])
	c, err := s.engine.OpenPlain(len(all), 5, own)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.Eval(all, 0, own, nil); err != nil {
		s.t.Fatal(err)
	}
	var out [][]float32
	for i := range own {
		row, err := c.Logits(i)
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, row)
	}
	return out
}

// Without a prefix the first rows are placed before anything was evaluated.
func TestSessionsWithoutAPrefix(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "none") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 2, 3)
			s.prefix = nil
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
		})
	}
}

// The publisher's micro-batches do not matter, in gather as in lockstep.
func TestThePublishersMicroBatchesDoNotMatter(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		for _, batch := range []int{1, 3, 4, 100} {
			play(t, fmt.Sprint(spec, batch), func(t *testing.T) {
				s := newStage(t, spec, lossy, 4, 2, 8)
				s.open()
				o := s.mustAsk(func(q *node.Question) { q.MicroBatch = batch })
				s.close()
				s.check(o)
			})
		}
	}
}

func TestTheOrderOfArrivalDoesNotMatter(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "H=2") {
		for seed := range uint64(10) {
			play(t, fmt.Sprint(spec, seed), func(t *testing.T) {
				s := newStage(t, spec, lossy, 7, 1, 10, 4)
				for i, h := range s.hosts {
					h.wrap = nodetest.Scatter(100*seed+uint64(i), time.Second)
				}
				s.open()
				o := s.mustAsk()
				s.close()
				s.check(o)
				s.quiet()
			})
		}
	}
}

// Decode is the publisher's alone: its local layers see prefix, question and answer, its sync layers everything.
func TestAnswersEqualTheOracle(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "contributors=none;publisher=3-", "H=3", "none") {
		for _, cast := range [][]int{{5}, {4, 1, 3}} {
			play(t, fmt.Sprint(spec, cast), func(t *testing.T) {
				s := newStage(t, spec, lossy, cast...)
				s.open()
				const length = 6
				o := s.mustAsk(func(q *node.Question) { q.Answer = length })
				s.close()
				if len(o.answer) != length || o.report.Decoded != length {
					t.Fatalf("an answer of %d tokens, %d reported", len(o.answer), o.report.Decoded)
				}
				own := len(s.segments[len(s.segments)-1])
				s.segments[len(s.segments)-1] = append(s.segments[len(s.segments)-1], o.answer[:length-1]...)
				oracle := s.oracle(o.report)
				oracle.Layout = nil // everybody, the answer's beginning included
				if want := oracle.Logits(); !equal(o.after, want[own-1:]) {
					t.Error("differs")
				}
			})
		}
	}
}

// The same session twice gives the same bits: nothing stays behind in a contributor.
func TestSessionsRepeat(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 5, 3, 4)
			s.open()
			first := s.mustAsk()
			second := s.mustAsk()
			s.close()
			s.quiet()
			if !equal(first.logits, second.logits) {
				t.Error("differs")
			}
			for _, h := range s.hosts {
				list := h.contributions()
				if len(list) != 2 || list[0].Err != nil || list[0].Bytes != list[1].Bytes || list[0].Session == list[1].Session {
					t.Errorf("%s reports %+v", h.id, list)
				}
			}
		})
	}
}

func TestReports(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "contributors=none;publisher=1-", lossy, 7, 2, 4)
		s.engine.LayerTime, s.hosts[0].engine.LayerTime = time.Second, 2*time.Second
		s.open()
		o := s.mustAsk(func(q *node.Question) { q.Answer = 3 })
		s.close()
		r := o.report
		const layers, row = 5, 64/32*34 + 64/32*18 // q8_0 and q4_0 of 64 elements
		for i, p := range r.Peers {
			n := len(s.segments[i])
			if p.Origin != i || p.Name != s.hosts[i].id || p.ID != s.hosts[i].id || p.Tokens != n || p.Rows != layers*n ||
				p.Bytes != int64(layers*n*row) || p.Missing != nil {
				t.Errorf("contributor %d: %+v", i, p)
			}
			c := s.hosts[i].contributions()[0]
			if c.Err != nil || c.Publisher != "publisher" || c.Session != r.Session || c.Tokens != n || c.Layers != layers ||
				c.Wire != s.wire || c.Bytes != p.Bytes {
				t.Errorf("contribution %d: %+v", i, c)
			}
		}
		// host 0: prefix and three micro-batches of 6 layers at 2 s, the last one until its last layer's rows
		if p := r.Peers[0].PrefillMS; p != 48_000 {
			t.Errorf("host 0 took %v ms", p)
		}
		if r.Received() != r.Peers[0].Bytes+r.Peers[1].Bytes || r.Present() != 2 || r.Own != 4 || r.Regime != fedkv.Gather ||
			r.Layout.Total() != 3+7+2+4 {
			t.Errorf("report %+v", r)
		}
		// the publisher: prefix while it waits, question, two of three tokens
		if r.WaitMS != 42_000 || r.PrefillMS != 6_000 || r.TTFTMS != 54_000 || r.DecodeMS != 12_000 || r.Decoded != 3 {
			t.Errorf("report %+v", r)
		}
	})
}
