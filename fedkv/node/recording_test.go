package node_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// shelf is a RowCache that tests look into.
type shelf struct {
	mu    sync.Mutex
	kept  map[node.RowKey][]byte
	hits  int
	spoil func(raw []byte) []byte // what Get returns of what is there
}

func (s *shelf) Get(key node.RowKey) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, ok := s.kept[key]
	if ok {
		s.hits++
	}
	if ok && s.spoil != nil {
		raw = s.spoil(raw)
	}
	return raw, ok
}

func (s *shelf) Put(key node.RowKey, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = map[node.RowKey][]byte{}
	}
	s.kept[key] = raw
}

// held is what it keeps; contributors may still be at work.
func (s *shelf) held() map[node.RowKey][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.kept)
}

// shelve gives everybody a cache of rows.
func (s *stage) shelve() []*shelf {
	var list []*shelf
	for _, h := range s.hosts {
		shelf := &shelf{}
		h.config.Rows = shelf
		list = append(list, shelf)
	}
	return list
}

// evaluated is what the contributors' engines have done so far.
func (s *stage) evaluated() (list []int) {
	for _, h := range s.hosts {
		list = append(list, h.engine.Evaluations())
	}
	return list
}

// A second question needs no engine at the contributors, and gets the same rows, bit for bit.
func TestKeptRowsNeedNoEngine(t *testing.T) {
	for _, test := range []struct {
		spec  string
		types fedkv.WireTypes
		rows  string
		slide bool
		at    fedkv.Positions
	}{
		{spec: "gather", types: lossy},
		{spec: "contributors=none;publisher=2-", types: fedkv.WireTypes{K: fedkv.Q4_0 | fedkv.Centred | fedkv.Hadamard, V: fedkv.NF3 | fedkv.Hadamard}},
		{spec: "gather", types: lossy, rows: "norm=0.5"},
		{spec: "gather", types: lossy, rows: "random=0.4:0.7"},
		{spec: "gather", types: lossy, slide: true},
		{spec: "gather", types: lossy, rows: "diverse=0.5", slide: true},
		{spec: "gather", types: lossy, at: fedkv.InPlace},
	} {
		play(t, fmt.Sprintf("%+v", test), func(t *testing.T) {
			s := newStage(t, test.spec, test.types, 7, 4, 5, 3)
			if test.slide {
				s.slide()
			}
			if test.rows != "" {
				s.rows = mustRows(t, test.rows)
			}
			if test.at != 0 {
				s.positions = test.at
			}
			s.shelve()
			s.open()
			first := s.mustAsk()
			arrive() // its sessions are over before the next ones begin
			before := s.evaluated()
			second := s.mustAsk()
			after := s.evaluated()
			s.close()
			s.quiet()
			for _, o := range []*outcome{first, second} {
				s.check(o)
				if o.report.Present() != 3 || o.report.Received() != first.report.Received() {
					t.Errorf("%+v", o.report.Peers)
				}
			}
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("evaluations before %v, after %v", before, after)
			}
			for _, h := range s.hosts {
				if list := h.contributions(); len(list) != 2 || list[0].Kept || !list[1].Kept || list[0].Bytes != list[1].Bytes {
					t.Errorf("%s: %+v", h.id, list)
				}
			}
		})
	}
}

// Whatever rows depend on makes other rows of them.
func TestKeptRowsAreOfTheSameSession(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 3)
		shelves := s.shelve()
		s.open()
		s.check(s.mustAsk())
		prefix, wire, schedules := s.prefix, s.wire, s.schedules
		for what, change := range map[string]func(){
			"prefix":    func() { s.prefix = sample(98, 3) },
			"no prefix": func() { s.prefix = nil },
			"wire":      func() { s.wire = fedkv.Uniform(f16, len(s.engine.Shape().Layers)) },
			"layers":    func() { s.schedules = mustSchedules(t, "contributors=none;publisher=1,3", s) },
			"rows":      func() { s.rows = mustRows(t, "random=0.5") },
		} {
			s.prefix, s.wire, s.schedules, s.rows = prefix, wire, schedules, fedkv.RowPolicy{}
			change()
			before := s.evaluated()
			s.check(s.mustAsk())
			if after := s.evaluated(); after[0] == before[0] || after[1] == before[1] {
				t.Errorf("another %s: rows of the old one are sent", what)
			}
		}
		s.close()
		for _, shelf := range shelves {
			if shelf.hits != 0 || len(shelf.held()) != 6 {
				t.Errorf("%d hits, %d kept", shelf.hits, len(shelf.held()))
			}
		}
	})
	for _, spec := range specs("lockstep", "H=2") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 7, 4, 3)
			shelves := s.shelve()
			s.open()
			s.check(s.mustAsk())
			s.close()
			for _, shelf := range shelves {
				if len(shelf.held()) != 0 {
					t.Error("rows that depend on others are kept")
				}
			}
		})
	}
}

// A folder of rows may be shared: what the same model with other weights computed of the same text is not sent instead.
func TestKeptRowsAreOfTheSameModel(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 7, 3)
		s.segments[1] = s.segments[0]
		other := s.hosts[1]
		other.config.Source = tokens(s.segments[1])
		config := other.engine.Model.Config
		config.Seed++
		other.engine.Model = fedkvtest.NewTiny(config)
		other.config.Self = other.engine.Hello(other.id, fedkv.RoleContributor)
		all := &shelf{}
		for _, h := range s.hosts {
			h.config.Rows = all
		}
		s.open()
		first := s.mustAsk()
		before := s.evaluated()
		again := s.mustAsk()
		if fmt.Sprint(before) != fmt.Sprint(s.evaluated()) || all.hits != 2 || len(all.kept) != 2 {
			t.Errorf("%d hits, %d kept; evaluations before %v, after %v", all.hits, len(all.kept), before, s.evaluated())
		}
		s.close()
		if !equal(first.logits, again.logits) {
			t.Error("rows of other weights were sent")
		}
	})
}

func mustSchedules(t *testing.T, spec string, s *stage) fedkv.Schedules {
	t.Helper()
	out, err := fedkv.ParseSchedules(spec, s.engine.Model.Layers)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Rows that were kept for one layout serve another: what its windows need besides is computed. When somebody is lost, what
// comes into the windows is there as well.
func TestKeptRowsServeOtherWindows(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 0, 1}, {1}, {0, 2}} {
		for _, lost := range []int{-1, 0, 1} {
			play(t, fmt.Sprint(order, lost), func(t *testing.T) {
				s := newStage(t, "gather", lossy, 7, 9, 5, 3)
				s.slide()
				s.shelve()
				s.open()
				s.check(s.mustAsk())
				segments, hosts := s.segments, s.hosts
				s.segments, s.hosts = nil, nil
				for _, i := range order {
					s.segments, s.hosts = append(s.segments, segments[i]), append(s.hosts, hosts[i])
				}
				s.segments = append(s.segments, segments[3])
				if lost >= 0 && lost < len(order) {
					h := s.hosts[lost]
					h.mu.Lock()
					h.watch = func(w *nodetest.Watched) {
						w.BeforeBlock = func(h fedkv.BlockHeader) {
							if h.Layer > 1 {
								_ = w.Link.Close(fedkv.CodeLost, "the connection broke")
							}
						}
					}
					h.mu.Unlock()
				}
				o := s.mustAsk()
				s.check(o)
				if n := len(missing(o.report)); (n == 1) != (lost >= 0 && lost < len(order)) {
					t.Errorf("%d are missing", n)
				}
				s.hosts = hosts
				s.close()
			})
		}
	}
}

// What is not a recording is as if it were not there.
func TestSpoiltRecordingsAreIgnored(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"cut":     func(raw []byte) []byte { return raw[:len(raw)/2] },
		"longer":  func(raw []byte) []byte { return append(raw[:len(raw):len(raw)], 0) },
		"numbers": func(raw []byte) []byte { return append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, raw...) },
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 7, 4, 3)
			shelves := s.shelve()
			s.open()
			s.check(s.mustAsk())
			for _, shelf := range shelves {
				shelf.spoil = spoil
			}
			before := s.evaluated()
			s.check(s.mustAsk())
			if after := s.evaluated(); after[0] == before[0] {
				t.Error("nothing was computed")
			}
			s.close()
			s.quiet()
		})
	}
}

// A session that ends in the middle keeps nothing half.
func TestAnInterruptedSessionKeepsNothingHalf(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 3)
		shelves := s.shelve()
		n := 0
		s.hosts[0].engine.Layer = func(layer, _, _ int) error {
			if n++; n == 9 {
				return fmt.Errorf("the accelerator is gone")
			}
			return nil
		}
		s.open()
		s.check(s.mustAsk())
		if len(shelves[0].held()) != 0 || len(shelves[1].held()) != 1 {
			t.Errorf("kept %d and %d", len(shelves[0].held()), len(shelves[1].held()))
		}
		was := shelves[1].held()
		s.check(s.mustAsk())
		s.close()
		if len(shelves[0].held()) != 1 || len(was) != len(shelves[1].held()) {
			t.Error("the second session did not make up for it")
		}
	})
}

var _ node.RowCache = (*shelf)(nil)
