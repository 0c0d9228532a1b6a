package node_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// What a contributor can send that the plan does not say, and what becomes of it. The others' part must not suffer.
func TestWhatThePlanDoesNotSayIsRefused(t *testing.T) {
	before := func(bad func(*fedkv.BlockHeader)) func(fedkv.BlockHeader) []fedkv.BlockHeader {
		return func(h fedkv.BlockHeader) []fedkv.BlockHeader {
			wrong := h
			bad(&wrong)
			return []fedkv.BlockHeader{wrong, h}
		}
	}
	again := func(n int) func(fedkv.BlockHeader) []fedkv.BlockHeader {
		return func(h fedkv.BlockHeader) []fedkv.BlockHeader {
			list := make([]fedkv.BlockHeader, n)
			for i := range list {
				list[i] = h
			}
			return list
		}
	}
	rows := func(h *fedkv.BlockHeader, n int) {
		h.Length = h.Length / h.Rows * n
		h.Rows, h.Kept = n, n
	}
	for _, test := range []struct {
		name   string
		blocks func(fedkv.BlockHeader) []fedkv.BlockHeader
		code   fedkv.Code // of the sender's loss; 0: it stays
	}{
		{"a block twice", again(2), 0},
		{"a block without end", again(100), fedkv.CodeProtocol},
		{"of another session", before(func(h *fedkv.BlockHeader) { h.Session[0]++ }), 0},
		{"of another contributor", before(func(h *fedkv.BlockHeader) { h.Origin = 0 }), fedkv.CodeForbidden},
		{"of the publisher", before(func(h *fedkv.BlockHeader) { h.Origin = 3 }), fedkv.CodeForbidden},
		{"of a local layer", before(func(h *fedkv.BlockHeader) { h.Layer = 0 }), fedkv.CodeRange},
		{"of no layer", before(func(h *fedkv.BlockHeader) { h.Layer = 6 }), fedkv.CodeRange},
		{"rows beyond the segment", before(func(h *fedkv.BlockHeader) { h.First = 4 }), fedkv.CodeRange},
		{"of other types", before(func(h *fedkv.BlockHeader) { h.Types.K = fedkv.Q5_1 }), fedkv.CodeTypes},
		{"of another length", before(func(h *fedkv.BlockHeader) { h.Length-- }), fedkv.CodeRange},
		{"in pieces that overlap", func(h fedkv.BlockHeader) []fedkv.BlockHeader {
			piece := h
			rows(&piece, 1)
			return []fedkv.BlockHeader{piece, h}
		}, fedkv.CodeDeadline}, // the second one is a repetition, so rows stay away
	} {
		play(t, test.name, func(t *testing.T) {
			s := newStage(t, "contributors=none;publisher=1-", f16, 5, 4, 6, 3)
			h := s.hosts[1]
			h.config.MicroBatch = 4
			h.watch = func(w *nodetest.Watched) { w.Blocks = test.blocks }
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			list := missing(o.report)
			switch {
			case test.code == 0 && len(list) > 0, test.code != 0 && (len(list) != 1 || list[0].Origin != 1 || list[0].Code != test.code):
				t.Fatalf("missing: %v", list)
			case test.code != 0 && test.code != fedkv.CodeDeadline && o.took > time.Second:
				t.Errorf("took %v", o.took)
			}
			contains(t, s.log.String(), `"peer":"host1"`, "refused")
		})
	}
}

// One value that is not finite would spoil every token that attends to it.
func TestRowsThatAreNotFiniteAreRefused(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		for _, types := range []fedkv.WireTypes{f16, lossy} {
			for name, bits := range map[string]uint16{"NaN": 0x7e01, "infinity": 0xfc00} {
				play(t, fmt.Sprint(spec, types, name), func(t *testing.T) {
					s := newStage(t, spec, types, 5, 4, 3)
					s.hosts[0].config.MicroBatch = 5
					s.hosts[0].watch = func(w *nodetest.Watched) {
						w.Rows = func(h fedkv.BlockHeader, rows []byte) []byte {
							if h.Layer != 3 {
								return rows
							}
							rows = append([]byte(nil), rows...)
							rows[0], rows[1] = byte(bits), byte(bits>>8)
							return rows
						}
					}
					s.open()
					o := s.mustAsk()
					s.close()
					s.check(o)
					m := onlyMissing(t, o)
					if m.Name != "host0" || m.Code != fedkv.CodeValue || m.Layer != 3 {
						t.Errorf("%v", m)
					}
					contains(t, m.String(), "host0", "layer 3", "not finite")
					for _, row := range o.logits {
						for _, v := range row {
							if math.IsNaN(float64(v)) {
								t.Fatal("the logits are spoilt")
							}
						}
					}
					contains(t, s.log.String(), `"publisher":"publisher","error":"layer 3, K: elements from 0 on are not finite in float16"`)
				})
			}
		}
	}
}

// Messages out of turn end the sender's part and nobody else's.
func TestMessagesOutOfTurn(t *testing.T) {
	for name, test := range map[string]struct {
		bad  func(s *stage) fedkv.Message
		code fedkv.Code
	}{
		"hello":                   {func(s *stage) fedkv.Message { return s.engine.Hello("host1", fedkv.RoleContributor) }, fedkv.CodeOrder},
		"commit":                  {func(s *stage) fedkv.Message { return s.commit() }, fedkv.CodeOrder},
		"plan":                    {func(s *stage) fedkv.Message { return s.plan() }, fedkv.CodeOrder},
		"refuse":                  {func(*stage) fedkv.Message { return fedkv.Refuse{Code: fedkv.CodeForbidden, Text: "no"} }, fedkv.CodeForbidden},
		"done of another session": {func(*stage) fedkv.Message { return fedkv.Done{Session: fedkv.SessionID{9}} }, 0},
		"ping":                    {func(*stage) fedkv.Message { return fedkv.Ping{Nonce: 1} }, 0},
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 5, 4, 3)
			s.hosts[1].watch = func(w *nodetest.Watched) {
				w.BeforeSend = func(m fedkv.Message) {
					if _, ok := m.(fedkv.Ready); ok {
						_ = w.Link.Send(t.Context(), test.bad(s))
					}
				}
			}
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			if test.code == 0 {
				if o.report.Present() != 2 {
					t.Errorf("missing: %v", missing(o.report))
				}
			} else if m := onlyMissing(t, o); m.Name != "host1" || m.Code != test.code {
				t.Errorf("%v", m)
			}
		})
	}
}

// A peer that asks without listening is cut off before its answers fill the memory.
func TestAPeerThatOnlyAsksIsCutOff(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 5, 4, 3)
		s.dialledAs = func(id string, l node.Link) node.Link { return stuck{Link: l, send: id == "host1"} }
		h := s.hosts[1]
		h.watch = func(w *nodetest.Watched) {
			w.AfterSend = func(m fedkv.Message) {
				if _, ok := m.(fedkv.Welcome); !ok {
					return
				}
				arrive() // its plan is on the way
				for i := range uint64(1000) {
					if w.Link.Send(t.Context(), fedkv.Ping{Nonce: i}) != nil {
						break
					}
				}
			}
		}
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		if m := onlyMissing(t, o); m.Code != fedkv.CodeProtocol || o.took > time.Second {
			t.Errorf("%v after %v", m, o.took)
		}
	})
}

// What a contributor's engine or owner says reaches the asker, with the contributor's name.
func TestAContributorsReasonReachesTheAsker(t *testing.T) {
	for name, test := range map[string]struct {
		arm   func(*host)
		code  fedkv.Code
		phase fedkv.Phase
		text  string
	}{
		"no memory for the cache": {func(h *host) { h.engine.MostCells = 5 }, fedkv.CodeMemory, fedkv.PhasePrefill, "no memory for 7 cells"},
		"no memory in the middle": {func(h *host) {
			h.engine.Layer = func(layer, _, _ int) error {
				if layer == 2 {
					return fmt.Errorf("scratch buffers: %w", fedkv.ErrMemory)
				}
				return nil
			}
		}, fedkv.CodeMemory, fedkv.PhasePrefill, "evaluating the prefix: scratch buffers: the device has not enough free memory"},
		"the engine fails": {func(h *host) {
			h.engine.Layer = func(_, first, _ int) error {
				if first > 0 {
					return errors.New("the accelerator is gone")
				}
				return nil
			}
		}, fedkv.CodeInternal, fedkv.PhasePrefill, "evaluating the segment: the accelerator is gone"},
		"a segment that is too long": {func(h *host) { h.config.MaxTokens = 3 }, fedkv.CodeTooLong, fedkv.PhaseSetup, "4 tokens, 3 fit"},
		"layers that stay here":      {func(h *host) { h.config.MinLayer = 2 }, fedkv.CodeForbidden, fedkv.PhaseSetup, "shares rows from layer 2 on"},
		"no room for the prefix":     {func(h *host) { h.config.MaxContext = 3 }, fedkv.CodeTooLong, fedkv.PhaseSetup, "no room"},
		"other wire types":           {func(h *host) { h.config.Self.Types = []fedkv.Type{fedkv.F16} }, fedkv.CodeTypes, fedkv.PhaseConnect, "q8_0"},
		"another model":              {func(h *host) { h.config.Self.Model.Tokenizer[0]++ }, fedkv.CodeTokenizer, fedkv.PhaseConnect, "tokenizers differ"},
		"another engine":             {func(h *host) { h.config.Self.Engine = "other" }, fedkv.CodeVersion, fedkv.PhaseConnect, "install the same release"},
		"another protocol":           {func(h *host) { h.config.Self.Protocol++ }, fedkv.CodeVersion, fedkv.PhaseConnect, "install the same release"},
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 5, 4, 3)
			test.arm(s.hosts[1])
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			m := onlyMissing(t, o)
			if m.Name != "host1" || m.Code != test.code || m.Phase != test.phase {
				t.Errorf("%v", m)
			}
			contains(t, m.Text, test.text)
			if o.took > time.Second {
				t.Errorf("took %v", o.took)
			}
		})
	}
}

func TestOtherWeightsAreSaidAloud(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 5, 3)
		s.hosts[0].config.Self.Model.Weights[0]++
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		if len(o.report.Notes) != 1 {
			t.Fatalf("notes: %q", o.report.Notes)
		}
		contains(t, o.report.Notes[0], "different weights")
		contains(t, s.log.String(), "different weights")
	})
}

func TestContributorsThatDoNotFitAreLeftOut(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 5, 4, 6, 3)
			s.open()
			o := s.mustAsk(func(q *node.Question) { q.MaxContext, q.Answer = prefixSize+5+4+3+5, 2 })
			s.close()
			s.check(o)
			m := onlyMissing(t, o)
			if m.Name != "host2" || m.Code != fedkv.CodeTooLong || m.Phase != fedkv.PhaseSetup {
				t.Errorf("%v", m)
			}
		})
	}
}

// What the asker has wrong is an error that says what to do, and everybody else is told.
func TestQuestionsThatCannotBeAsked(t *testing.T) {
	for name, test := range map[string]struct {
		spec   string
		change func(*stage, *node.Question)
		code   fedkv.Code
		text   []string
	}{
		"more rows than may be held": {"gather", func(_ *stage, q *node.Question) { q.MaxStaging = 1 << 10 }, fedkv.CodeMemory, []string{"MiB", "--wire"}},
		"no memory":                  {"gather", func(s *stage, _ *node.Question) { s.engine.MostCells = 11 }, fedkv.CodeMemory, []string{"a cache for 15 tokens", "no memory"}},
		"rows that cannot be rotated": {"gather", func(s *stage, _ *node.Question) { s.engine.Rigid = true }, fedkv.CodePlan,
			[]string{"cannot be rotated", "--positions inplace"}},
		"no question":         {"gather", func(_ *stage, q *node.Question) { q.Own = nil }, fedkv.CodePlan, []string{"own tokens"}},
		"too long a question": {"gather", func(_ *stage, q *node.Question) { q.MaxContext = 5 }, fedkv.CodeTooLong, []string{"more than fit"}},
		"canonical lockstep":  {"lockstep", func(_ *stage, q *node.Question) { q.Positions = fedkv.Canonical }, fedkv.CodePlan, []string{"canonical", "lockstep"}},
		"an engine that fails": {"gather", func(s *stage, _ *node.Question) {
			s.engine.Layer = func(int, int, int) error { return errors.New("the accelerator is gone") }
		}, fedkv.CodeInternal, []string{"evaluating the prefix", "the accelerator is gone"}},
		"an engine that fails later": {"lockstep", func(s *stage, _ *node.Question) {
			s.engine.Layer = func(layer, first, _ int) error {
				if layer == 4 && first > 0 {
					return errors.New("the accelerator is gone")
				}
				return nil
			}
		}, fedkv.CodeInternal, []string{"evaluating the question", "the accelerator is gone"}},
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, test.spec, lossy, 5, 4, 3)
			for _, h := range s.hosts {
				h.engine.LayerTime = time.Second
			}
			s.open()
			q := s.question()
			test.change(s, &q)
			_, err := s.ask(q)
			if err == nil {
				t.Fatal("no error")
			}
			if fedkv.CodeOf(err) != test.code {
				t.Errorf("code %v", fedkv.CodeOf(err))
			}
			contains(t, err.Error(), test.text...)
			s.close()
			for _, h := range s.hosts {
				for _, c := range h.contributions() {
					if c.Err != nil && strings.Contains(c.Err.Error(), "is gone:") {
						t.Errorf("%s is not told why: %v", h.id, c.Err)
					}
				}
			}
		})
	}
}
