package node_test

import (
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// blind is an engine whose caches show no queries.
type blind struct{ *nodetest.Engine }

func (e blind) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := e.Engine.Open(spec)
	return struct{ node.Cache }{c}, err
}

// Who cannot say what it looks for does not ask for rows by it.
func TestQueriesNeedAnEngineThatShowsThem(t *testing.T) {
	for name, change := range map[string]func(*stage, *node.Question){
		"engine": func(s *stage, q *node.Question) { q.Engine = blind{s.engine} },
		"model":  func(s *stage, _ *node.Question) { s.engine.Rigid = true },
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 5, 3)
			s.rows = mustRows(t, "query=0.5")
			s.open()
			q := s.question()
			change(s, &q)
			_, err := s.ask(q)
			s.close()
			if fedkv.CodeOf(err) != fedkv.CodePlan {
				t.Fatal(err)
			}
			contains(t, err.Error(), "quer", "choose rows by norm or diverse")
			if n := s.engine.OpenCaches(); n != 0 {
				t.Errorf("%d caches are open", n)
			}
		})
	}
}

// A contributor whose keys cannot be compared is missing, and says why.
func TestQueriesNeedKeysThatCanBeRotated(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 5, 4, 3)
		s.positions = fedkv.InPlace
		s.rows = mustRows(t, "query=0.5")
		s.hosts[1].engine.Rigid = true
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		list := missing(o.report)
		if len(list) != 1 || list[0].Origin != 1 || list[0].Code != fedkv.CodePlan {
			t.Fatalf("missing: %v", list)
		}
		contains(t, list[0].Text, "comparing", "norm or diverse")
	})
}

// Contributors that are ready long before the publisher knows what it looks for wait, direct links and all, and an own
// segment in several micro-batches is one query.
func TestContributorsWaitForQueries(t *testing.T) {
	for _, spec := range specs("gather", "lockstep") {
		play(t, spec, func(t *testing.T) {
			s := newStage(t, spec, lossy, 5, 4, 3)
			s.rows = mustRows(t, "query=0.3")
			s.engine.LayerTime = 2 * time.Second
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			s.quiet()
		})
	}
}
