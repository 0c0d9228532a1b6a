package node_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

func mustRows(t *testing.T, spec string) fedkv.RowPolicy {
	t.Helper()
	p, err := fedkv.ParseRowPolicy(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Seed = 7
	return p
}

func mustWire(t *testing.T, s *stage, spec string) fedkv.Wire {
	t.Helper()
	w, err := fedkv.ParseWire(spec, s.engine.Model.Layers)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustLocal(t *testing.T, spec string) fedkv.RowPolicy {
	t.Helper()
	p, err := fedkv.ParseLocalRows(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Sparse local attention: a participant's local layers attend to some of its own rows, however the segment is cut, its
// sync layers to all; nothing else of the session changes.
func TestSparseLocalAttentionEqualsTheOracle(t *testing.T) {
	for _, spec := range specs("gather", "H=2", "contributors=2-;publisher=1-", "lockstep") {
		for _, rows := range []string{"random=0.5", "layer-random=0.3:1:0.6", "recent=0.4", "private=0.3", "random=1"} {
			play(t, spec+","+rows, func(t *testing.T) {
				s := newStage(t, spec, lossy, 9, 4, 11, 5)
				s.local = mustLocal(t, rows)
				for _, h := range s.hosts {
					h.config.MicroBatch = 3
				}
				s.open()
				o := s.mustAsk()
				s.close()
				s.check(o)
				s.quiet()
				dense := s.oracle(o.report)
				dense.Local = fedkv.RowPolicy{}
				if same := equal(dense.Logits(), o.logits); same != (rows == "random=1" || spec == "lockstep") {
					t.Errorf("as if all own rows were attended to: %v", same)
				}
			})
		}
	}
}

// A choice that needs keys, or an engine that cannot leave rows out, ends the session with a sentence.
func TestLocalRowsThatCannotBe(t *testing.T) {
	for why, change := range map[string]func(*node.Question){
		"norm":         func(q *node.Question) { q.LocalRows.Kind = fedkv.RowsNorm },
		"--local-rows": func(q *node.Question) { q.Engine = blind{q.Engine.(*nodetest.Engine)} },
	} {
		play(t, why, func(t *testing.T) {
			s := newStage(t, "H=2", lossy, 4, 3)
			s.local = mustLocal(t, "random=0.5")
			s.open()
			q := s.question()
			change(&q)
			_, err := s.ask(q)
			s.close()
			if fedkv.CodeOf(err) != fedkv.CodePlan {
				t.Fatal(err)
			}
			contains(t, err.Error(), why)
		})
	}
}

// Rows that were not selected are not attended to, whoever chose them and wherever the segment was cut.
func TestSparseSessionsEqualTheOracle(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "contributors=2-;publisher=1-") {
		for _, rows := range []string{"random=0.5", "layer-random=0.3:1:0.6", "recent=0.4", "norm=0.5", "diverse=0.5", "query=0.5", "private=0.3", "random=0.01"} {
			play(t, spec+","+rows, func(t *testing.T) {
				s := newStage(t, spec, lossy, 9, 4, 11, 3)
				s.rows = mustRows(t, rows)
				s.open()
				o := s.mustAsk()
				s.close()
				s.check(o)
				s.quiet()
				whole := s.oracle(o.report)
				whole.Rows = fedkv.RowPolicy{}
				if equal(whole.Logits(), o.logits) {
					t.Error("all rows were attended to")
				}
				for i, p := range o.report.Peers {
					share := int(s.rows.Of(i).Shares[0])
					want := max(1, (len(s.segments[i])*share+5000)/10000) * s.schedules.Publisher.Count()
					if s.rows.Kind != fedkv.RowsPrivate && p.Rows != want {
						t.Errorf("%d rows of %s, want %d", p.Rows, p.ID, want)
					}
				}
			})
		}
	}
}

// A profile may thin rows by layer; layers may differ in types and transforms.
func TestLayersMayDifferInTypesAndRows(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "contributors=none;publisher=2-") {
		for _, wire := range []string{
			"q8_0/q4_0,0-1=f16,5=q5_1/q4_1", "q4_0+h/q4_0+h", "q8_0+c/q4_0+c", "q4_0+c+h/q4_0+c+h,3=f16+c/f16", "f16+c/f16+c",
		} {
			play(t, spec+","+wire, func(t *testing.T) {
				s := newStage(t, spec, lossy, 9, 1, 6, 3)
				s.wire = mustWire(t, s, wire)
				s.rows = mustRows(t, "random=0.7")
				s.rows.Layers = []fedkv.Share{10000, 5000, 10000, 100, 2500, 10000}
				s.open()
				o := s.mustAsk()
				s.close()
				s.check(o)
				s.quiet()
				for i, h := range s.hosts {
					c := h.contributions()[0]
					if c.Wire != s.wire || c.Rows.Kind != fedkv.RowsRandom || o.report.Peers[i].Bytes == 0 {
						t.Errorf("%s reports %+v", h.id, c)
					}
				}
			})
		}
	}
}

// With windows too, rows that nobody sees stay where they are, and nobody is the worse for it.
func TestSlidingSessionsEqualTheOracle(t *testing.T) {
	for _, spec := range specs("gather", "lockstep", "contributors=none;publisher=0,4", "contributors=0-3;publisher=1-", "contributors=none;publisher=3") {
		for _, wire := range []string{"q8_0/q4_0", "q4_0+c+h/q8_0+c"} {
			for _, cast := range [][]int{{5}, {4, 3}, {1, 1, 1, 1}, {9, 2, 7, 4}, {2, 9, 1, 3, 1, 6, 4, 2}} {
				for _, positions := range []fedkv.Positions{fedkv.Canonical, fedkv.InPlace} {
					play(t, fmt.Sprint(spec, wire, cast, positions), func(t *testing.T) {
						s := newStage(t, spec, lossy, cast...)
						if s.positions == fedkv.InPlace && positions == fedkv.Canonical {
							t.Skip("lockstep is in place")
						}
						s.positions = positions
						s.slide()
						s.wire = mustWire(t, s, wire)
						s.open()
						o := s.mustAsk()
						s.close()
						s.check(o)
						s.quiet()
						// A window of 4 tokens reaches the last 3 rows before the own segment.
						layers, windowed := s.schedules.Publisher.Count(), 0
						for _, l := range s.schedules.Publisher.Layers() {
							if s.engine.Shape().Window(l) > 0 {
								windowed++
							}
						}
						want, reach := 0, 3
						for i := len(s.hosts) - 1; i >= 0; i-- {
							n := len(s.segments[i])
							want += n*(layers-windowed) + min(n, reach)*windowed
							reach = max(0, reach-n)
						}
						got := 0
						for _, p := range o.report.Peers {
							got += p.Rows
						}
						if got != want {
							t.Errorf("%d rows came, want %d", got, want)
						}
					})
				}
			}
		}
	}
}

// DESIGN §2.8 with windows: every layer a sync layer and rows as they are is one process.
func TestLosslessSlidingLockstepIsOneProcess(t *testing.T) {
	for _, cast := range casts {
		play(t, fmt.Sprint(cast), func(t *testing.T) {
			s := newStage(t, "lockstep", f16, cast...)
			s.slide()
			s.open()
			o := s.mustAsk()
			s.close()
			if !equal(o.logits, s.alone()) {
				t.Error("differs")
			}
		})
	}
}

// In gather somebody who is lost was never there, with windows too: those before it send the rows that come into the
// publisher's window when its place closes, whether they are done, at work, or had nothing to send at that layer.
func TestOthersSendWhatALossMakesVisible(t *testing.T) {
	for _, cast := range [][]int{{9, 4, 2, 3}, {2, 1, 1, 4, 2}, {6, 5, 4}} {
		for _, rows := range []string{"all", "random=0.6", "norm=0.5", "query=0.5"} {
			for _, after := range []time.Duration{time.Second, 7 * time.Second, 20 * time.Second} {
				play(t, fmt.Sprint(cast, rows, after), func(t *testing.T) {
					s := newStage(t, "gather", lossy, cast...)
					s.slide()
					s.rows = mustRows(t, rows)
					for _, h := range s.hosts {
						h.engine.LayerTime = 300 * time.Millisecond
					}
					last := s.hosts[len(s.hosts)-1]
					last.engine.LayerTime = time.Minute
					s.open()
					time.AfterFunc(after, last.kill)
					o := s.mustAsk()
					s.close()
					s.check(o)
					if m := missing(o.report); len(m) != 1 || m[0].Origin != last.index() {
						t.Fatalf("missing: %v", m)
					}
					if s.oracle(o.report).Layout.Total() != len(s.prefix)+sum(cast)-cast[len(cast)-2] {
						t.Errorf("the stream is %v", o.report.Layout)
					}

					without := newStage(t, "gather", lossy, cast...)
					without.slide()
					without.rows = s.rows
					without.segments = append(without.segments[:len(cast)-2:len(cast)-2], without.segments[len(cast)-1])
					without.hosts = without.hosts[:len(cast)-2]
					without.open()
					never := without.mustAsk()
					without.close()
					if !equal(never.logits, o.logits) {
						t.Error("the answer is not that of a session without it")
					}
				})
			}
		}
	}
}

// index is the host's origin.
func (h *host) index() int {
	for i, other := range h.stage.hosts {
		if other == h {
			return i
		}
	}
	return -1
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

// When the time is over there is none left to close the gap: the positions of the missing stay empty, and nobody else
// is lost for it.
func TestALateLossLeavesItsPositionsEmpty(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 9, 4, 2, 3)
		s.slide()
		s.hosts[2].engine.LayerTime = time.Hour
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		if m := missing(o.report); len(m) != 1 || m[0].Origin != 2 || m[0].Code != fedkv.CodeDeadline {
			t.Fatalf("missing: %v", m)
		}
		if total := o.report.Layout.Total(); total != 3+9+4+2+3 {
			t.Errorf("%d positions: %v", total, o.report.Layout)
		}
	})
}

// A model whose K rows cannot be rotated has no centred K, and both sides say so.
func TestCentredKNeedsRotation(t *testing.T) {
	play(t, "publisher", func(t *testing.T) {
		s := newStage(t, "gather", f16, 4, 3)
		s.positions = fedkv.InPlace
		s.wire = mustWire(t, s, "q8_0+c/q8_0")
		s.engine.Rigid = true
		s.open()
		_, err := s.ask(s.question())
		s.close()
		if fedkv.CodeOf(err) != fedkv.CodePlan {
			t.Fatal(err)
		}
		contains(t, err.Error(), "cannot be rotated", "+c")
	})
	for _, prefix := range []int{0, 3} {
		play(t, fmt.Sprint("contributor, prefix ", prefix), func(t *testing.T) {
			s := newStage(t, "gather", f16, 4, 3)
			s.positions = fedkv.InPlace
			s.prefix = s.prefix[:prefix]
			s.wire = mustWire(t, s, "q8_0+c/q8_0")
			s.hosts[0].engine.Rigid = true
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			list := missing(o.report)
			if len(list) != 1 || prefix > 0 && list[0].Code != fedkv.CodePlan {
				t.Fatalf("missing: %v", list)
			}
			contains(t, list[0].Text, "cannot be rotated")
		})
	}
	play(t, "V only", func(t *testing.T) {
		s := newStage(t, "gather", f16, 4, 3)
		s.positions = fedkv.InPlace
		s.wire = mustWire(t, s, "q8_0/q8_0+c+h")
		s.engine.Rigid, s.hosts[0].engine.Rigid = true, true
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		s.quiet()
	})
}

// Random sessions of everything at once: schedules, positions, types, rows, windows, cuts, delays and deaths.
func TestWhateverIsSentTheAnswerIsTheOracles(t *testing.T) {
	owed, thinned := 0, 0
	for seed := range uint64(*simulations) {
		play(t, fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			pick := func(list ...string) string { return list[r.IntN(len(list))] }
			lengths := make([]int, 2+r.IntN(4))
			for i := range lengths {
				lengths[i] = 1 + r.IntN(9)
			}
			s := newStage(t, pick("gather", "gather", "lockstep", "contributors=none;publisher=1-4", "contributors=2-;publisher=all"), lossy, lengths...)
			if r.IntN(3) == 0 {
				s.positions = fedkv.InPlace
			}
			if r.IntN(3) > 0 {
				s.slide()
			}
			// Means depend on how rows are cut, and so on who was there: see docs/rfc/0003.
			s.wire = mustWire(t, s, pick("q8_0/q4_0", "f16", "q4_0+h/q4_0,0-2=q8_0/q8_0,5=f16", "q5_1/q4_1+h"))
			if spec := pick("all", "random=", "layer-random=", "recent=", "norm=", "diverse=", "query=", "private="); spec != "all" {
				s.rows = mustRows(t, spec+pick("0.3", "0.05", "0.2:0.33"))
				thinned++
			}
			s.local = mustLocal(t, []string{"all", "random=0.5", "layer-random=0.3:0.7", "recent=0.5:1"}[seed%4])
			for _, h := range s.hosts {
				h.config.MicroBatch = 1 + r.IntN(5)
				h.engine.LayerTime = time.Duration(r.IntN(300)) * time.Millisecond
				h.wrap = nodetest.Scatter(r.Uint64(), time.Second)
				if r.IntN(4) == 0 {
					time.AfterFunc(time.Duration(r.IntN(9_000))*time.Millisecond, func() { h.kill() })
				}
			}
			commits := map[string]int{}
			s.receive = func(id string, w *nodetest.Watched) {
				before := w.BeforeSend
				w.BeforeSend = func(m fedkv.Message) {
					before(m)
					if _, ok := m.(fedkv.Commit); ok {
						s.mu.Lock()
						commits[id]++
						s.mu.Unlock()
					}
				}
			}
			s.open()
			o := s.mustAsk(func(q *node.Question) { q.SetupBy, q.GatherBy = 5*time.Second, 20*time.Second })
			time.Sleep(20 * time.Second)
			s.close()
			s.check(o)
			for _, n := range commits {
				if n > 1 {
					owed++
					break
				}
			}
		})
	}
	// or it would prove little
	if owed < *simulations/20 || thinned < *simulations/3 {
		t.Errorf("rows were owed in %d of %d sessions, and left out in %d", owed, *simulations, thinned)
	}
}

func TestStagingCountsTypesAndWindows(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 200, 200, 3)
		s.slide()
		s.open()
		// 2 layers in full and 4 windows of 3 rows, of each of two contributors; f16 rows of 64 elements, K and V
		const rows = 2 * (2*200 + 4*3) * 2 * 128
		_, err := s.ask(func() node.Question { q := s.question(); q.MaxStaging = rows - 1; return q }())
		if fedkv.CodeOf(err) != fedkv.CodeMemory || !strings.Contains(err.Error(), "--wire") {
			t.Errorf("with too little memory: %v", err)
		}
		o := s.mustAsk(func(q *node.Question) { q.MaxStaging = rows + 200 /* bitmaps */ })
		s.close()
		s.check(o)
	})
}
