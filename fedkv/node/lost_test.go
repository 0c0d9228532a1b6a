package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// moment is when a contributor dies.
type moment struct {
	name  string
	phase fedkv.Phase // in which it goes missing; empty: it has done its part
	arm   func(s *stage, h *host, die func())
}

// arrive lets everything that is under way arrive: virtual time passes only when nothing else happens.
func arrive() { time.Sleep(time.Millisecond) }

func onMessage[M fedkv.Message](die func()) func(fedkv.Message) {
	return func(m fedkv.Message) {
		if _, ok := m.(M); ok {
			arrive()
			die()
		}
	}
}

const (
	deathLayer = 2
	prefixSize = 3 // of a stage
)

var moments = []moment{
	{"at hello", fedkv.PhaseConnect, func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) { w.AfterReceive = onMessage[fedkv.Hello](die) }
	}},
	{"after welcome", fedkv.PhaseSetup, func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) { w.AfterSend = onMessage[fedkv.Welcome](die) }
	}},
	{"at the plan", fedkv.PhaseSetup, func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) { w.AfterReceive = onMessage[fedkv.Plan](die) }
	}},
	{"after ready", fedkv.PhaseSetup, func(s *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) {
			w.BeforeSend = func(m fedkv.Message) {
				if _, ok := m.(fedkv.Ready); ok {
					_ = w.Link.Send(context.Background(), m)
					die()
				}
			}
		}
		for _, other := range s.hosts { // nobody commits before
			if other != h {
				other.config.Source = tardy{other.config.Source, time.Second}
			}
		}
	}},
	{"at the commit", fedkv.PhasePrefill, func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) { w.AfterReceive = onMessage[fedkv.Commit](die) }
	}},
	{"in the prefix", fedkv.PhasePrefill, func(_ *stage, h *host, die func()) {
		h.engine.Layer = func(layer, first, _ int) error {
			if layer == deathLayer && first == 0 {
				die()
			}
			return nil
		}
	}},
	{"in the segment", fedkv.PhaseTransfer, func(_ *stage, h *host, die func()) {
		h.engine.Layer = func(layer, first, _ int) error {
			if layer == deathLayer && first > 0 {
				arrive()
				die()
			}
			return nil
		}
	}},
	{"before a block", fedkv.PhaseTransfer, func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) {
			w.BeforeBlock = func(b fedkv.BlockHeader) {
				if b.Layer == deathLayer {
					arrive()
					die()
				}
			}
		}
	}},
	{"within a block", fedkv.PhaseTransfer, func(s *stage, h *host, die func()) {
		h.watch = nil
		s.receive = func(id string, w *nodetest.Watched) {
			if id == h.id {
				w.BetweenBlocks = func(b fedkv.BlockHeader) {
					if b.Layer == deathLayer {
						die()
					}
				}
			}
		}
	}},
	{"between layers", fedkv.PhaseTransfer, func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) {
			w.AfterBlock = func(b fedkv.BlockHeader) {
				if b.Layer == deathLayer {
					arrive()
					die()
				}
			}
		}
	}},
	{"before done", "", func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) { w.BeforeSend = onMessage[fedkv.Done](die) }
	}},
	{"after done", "", func(_ *stage, h *host, die func()) {
		h.watch = func(w *nodetest.Watched) { w.AfterSend = onMessage[fedkv.Done](die) }
	}},
	{"in the answer", "", func(s *stage, _ *host, die func()) { s.decoding = die }},
}

// tardy is a Source that takes its time.
type tardy struct {
	node.Source
	takes time.Duration
}

func (l tardy) Segment(ctx context.Context, plan fedkv.Plan) (fedkv.Text, error) {
	time.Sleep(l.takes)
	return l.Source.Segment(ctx, plan)
}

// lossy sessions of four, in which host number victim dies at a moment.
func (m moment) play(t *testing.T, spec string, victim int) (*stage, *outcome) {
	t.Helper()
	s := newStage(t, spec, lossy, 7, 4, 5, 3)
	h := s.hosts[victim]
	m.arm(s, h, sync.OnceFunc(func() { h.kill() }))
	s.open()
	o := s.mustAsk(func(q *node.Question) { q.Answer = 4 })
	s.close()
	return s, o
}

// named checks that a report names the victim, nobody else, and how far it was.
func (m moment) named(t *testing.T, s *stage, o *outcome, victim int) {
	t.Helper()
	list := missing(o.report)
	if m.phase == "" {
		if len(list) > 0 {
			t.Errorf("missing: %v", list)
		}
		return
	}
	if len(list) != 1 || list[0].Origin != victim || list[0].Name != s.hosts[victim].id || list[0].Phase != m.phase || list[0].Text == "" {
		t.Fatalf("missing: %v, should be %s, since %s", list, s.hosts[victim].id, m.phase)
	}
}

// Whoever dies before its rows are all here was never there: the same bits as in a session that did not ask it.
func TestInGatherALostContributorWasNeverThere(t *testing.T) {
	for _, m := range moments {
		for victim := range 3 {
			play(t, fmt.Sprintf("%s, host %d", m.name, victim), func(t *testing.T) {
				s, o := m.play(t, "gather", victim)
				s.check(o)
				m.named(t, s, o, victim)

				without := newStage(t, "gather", lossy, 7, 4, 5, 3)
				if m.phase != "" {
					without.leave(victim)
				}
				without.open()
				never := without.mustAsk(func(q *node.Question) { q.Answer = 4 })
				without.close()
				if !equal(o.logits, never.logits) || !equal(o.after, never.after) {
					t.Error("the answer is not that of a session without it")
				}
			})
		}
	}
}

// leave takes a host off the stage.
func (s *stage) leave(victim int) {
	s.hosts = append(s.hosts[:victim:victim], s.hosts[victim+1:]...)
	s.segments = append(s.segments[:victim:victim], s.segments[victim+1:]...)
}

// The answer comes, names who is missing with the layer, and is that of the mask that hides it from there on.
func TestInLockstepALostContributorIsHiddenFromItsLayerOn(t *testing.T) {
	for _, spec := range specs("lockstep", "H=2", "contributors=0-3;publisher=all") {
		for _, m := range moments {
			for victim := range 3 {
				play(t, fmt.Sprintf("%s, %s, host %d", spec, m.name, victim), func(t *testing.T) {
					s, o := m.play(t, spec, victim)
					s.check(o)
					if spec != "lockstep" {
						return // its death layer may be no sync layer
					}
					m.named(t, s, o, victim)
					if m.phase == fedkv.PhaseTransfer {
						if l := missing(o.report)[0].Layer; l < deathLayer || l > deathLayer+1 {
							t.Errorf("missing from layer %d on, died at layer %d", l, deathLayer)
						}
					}
				})
			}
		}
	}
}

// In place, everybody else stays where they are: the positions of the lost one stay empty.
func TestInGatherInPlaceAGapIsLeft(t *testing.T) {
	for lost := range 8 { // a set of three
		play(t, fmt.Sprintf("%03b", lost), func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 4, 5, 3)
			s.positions = fedkv.InPlace
			for i, h := range s.hosts {
				if lost>>i&1 == 1 {
					h.watch = func(w *nodetest.Watched) { w.BeforeBlock = func(fedkv.BlockHeader) { h.kill() } }
				}
			}
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			own := o.report.Layout.Segments[len(o.report.Layout.Segments)-1]
			if own.Offset != prefixSize+7+4+5 || o.report.Present() != 3-bits.OnesCount(uint(lost)) {
				t.Errorf("layout %v", o.report.Layout)
			}
		})
	}
}

// Everybody dies, in the worst order.
func TestAllContributorsAreLost(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 4, 4, 4, 3)
			for i, h := range s.hosts {
				h.engine.Layer = func(layer, first, _ int) error {
					if layer == i && first > 0 {
						arrive()
						h.kill()
					}
					return nil
				}
			}
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			if o.report.Present() != 0 {
				t.Errorf("%d contributors are said to be there", o.report.Present())
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		q := s.question()
		q.Contacts = append(q.Contacts, s.contact("nobody"))
		s.join(s.hosts[0].id) // is there, and does not answer
		o, err := s.ask(q)
		if err != nil {
			t.Fatal(err)
		}
		list := missing(o.report)
		if len(list) != 2 || list[0].Code != fedkv.CodeDeadline || list[1].Code != fedkv.CodeLost || list[0].Phase != fedkv.PhaseConnect {
			t.Errorf("missing: %v", list)
		}
		if o.took != setupBy {
			t.Errorf("took %v", o.took)
		}
	})
}

// A session that fails while others are still being dialled ends at once, and nobody goes on dialling.
func TestASessionFailsWhileOthersAreDialled(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		s.hosts[0].config.Self.Model.Tokenizer[0]++
		s.open()
		q := s.question()
		q.RequireAll = true
		var gaveUp error
		q.Contacts = append(q.Contacts, node.Contact{Name: "far", Dial: func(ctx context.Context) (node.Link, error) {
			<-ctx.Done()
			gaveUp = ctx.Err()
			return nil, ctx.Err()
		}})
		started := time.Now()
		_, err := s.ask(q)
		if err == nil || time.Since(started) > time.Second {
			t.Fatalf("%v after %v", err, time.Since(started))
		}
		contains(t, err.Error(), "host0", "tokenizers differ")
		if !errors.Is(gaveUp, context.Canceled) {
			t.Errorf("the dial ends with %v", gaveUp)
		}
		s.close()
	})
}

// failing is peers that stop accepting.
type failing struct {
	node.Peers
	after time.Duration
}

func (f failing) Accept(ctx context.Context) (node.Link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.after, errors.New("the socket is gone"))
	defer cancel()
	l, err := f.Peers.Accept(ctx)
	if err != nil {
		err = context.Cause(ctx)
	}
	return l, err
}

// Serve ends when its network does, after the sessions that it has.
func TestServeEndsWithItsNetwork(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 4, 3)
		h := s.hosts[0]
		h.engine.LayerTime = time.Second
		h.config.Peers = failing{s.join(h.id), 5 * time.Second}
		served := make(chan error)
		go func() { served <- node.NewContributor(h.config).Serve(context.Background()) }()
		o := s.mustAsk()
		if o.report.Present() != 1 {
			t.Errorf("missing: %v", missing(o.report))
		}
		if err := <-served; err == nil || err.Error() != "the socket is gone" {
			t.Errorf("Serve returns %v", err)
		}
	})
}

// RequireAll and MinPeers turn a loss into an error that names it, at once, wherever the publisher is.
func TestALossThatIsTooMuchFailsTheSession(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		for _, m := range moments[:len(moments)-3] {
			for _, all := range []bool{true, false} {
				play(t, fmt.Sprintf("%s, %s, all %v", spec, m.name, all), func(t *testing.T) {
					s := newStage(t, spec, lossy, 7, 4, 5, 3)
					h := s.hosts[1]
					m.arm(s, h, sync.OnceFunc(func() { h.kill() }))
					// a straggler: nobody must wait for it once the session has failed
					s.hosts[2].engine.LayerTime = time.Minute
					s.open()
					q := s.question()
					q.RequireAll, q.MinPeers = all, 3
					started := time.Now()
					_, err := s.ask(q)
					if err == nil {
						t.Fatal("no error")
					}
					if took := time.Since(started); took > 2*time.Second {
						t.Errorf("took %v", took)
					}
					contains(t, err.Error(), h.id, "missing")
					s.close()
					if m.phase != fedkv.PhasePrefill && m.phase != fedkv.PhaseTransfer {
						return
					}
					if c := s.hosts[2].contributions()[0]; c.Err == nil {
						t.Error("who was at work is not told")
					}
				})
			}
		}
	}
}

// A publisher that dies frees its contributors, wherever they are.
func TestALostPublisherFreesItsContributors(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		for _, m := range moments {
			if m.phase == "" {
				continue
			}
			play(t, spec+", "+m.name, func(t *testing.T) {
				s := newStage(t, spec, lossy, 7, 4, 5, 3)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				die := sync.OnceFunc(func() {
					for _, l := range s.links() {
						_ = l.Close(fedkv.CodeLost, "the connection broke")
					}
					cancel()
				})
				m.arm(s, s.hosts[0], die)
				for _, h := range s.hosts[1:] {
					h.engine.LayerTime = time.Hour // in the middle of something
				}
				s.open()
				if session, err := node.Ask(ctx, s.question()); err == nil { // it answered alone before it died
					_ = session.Close()
				}
				time.Sleep(2 * time.Second)
				for _, h := range s.hosts {
					if n := h.engine.OpenCaches(); n != 0 {
						t.Errorf("afterwards %s has %d caches", h.id, n)
					}
					h.engine.LayerTime, h.engine.Layer = 0, nil
					h.disarm()
				}
				s.receive = nil
				again := s.mustAsk()
				s.close()
				if again.took > time.Second {
					t.Errorf("the next session took %v", again.took)
				}
				s.check(again)
			})
		}
	}
}
