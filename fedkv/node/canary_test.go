package node_test

import (
	"fmt"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

func canary(t *testing.T, e node.Engine) fedkv.Canary {
	t.Helper()
	c, err := node.Canary(e)
	if err != nil || len(c) == 0 {
		t.Fatalf("%d bytes, %v", len(c), err)
	}
	return c
}

// A contributor whose engine is wrong at one layer, whichever it is, has nothing to say, although it runs the same model
// and its rows are well-formed. The others' answer is the one without it.
func TestAnEngineThatComputesSomethingElseIsRefused(t *testing.T) {
	right := nodetest.NewEngine()
	for layer := range right.Model.Layers {
		play(t, fmt.Sprint("layer", layer), func(t *testing.T) {
			s := newStage(t, "gather", f16, 5, 4, 3)
			for i, h := range s.hosts {
				if i == 1 {
					h.engine.Model = h.engine.Model.Damaged(layer)
				}
				h.config.Self.Canary = canary(t, h.engine)
			}
			s.open()
			o := s.mustAsk(func(q *node.Question) { q.Self.Canary = canary(t, s.engine) })
			s.close()
			list := missing(o.report)
			if len(list) != 1 || list[0].Origin != 1 || list[0].Code != fedkv.CodeCanary || list[0].Phase != fedkv.PhaseConnect {
				t.Fatalf("missing: %v", list)
			}
			contains(t, list[0].Text, "host1", "publisher", "same release", "memory")
			s.check(o)
		})
	}
}

// It leaves nothing open, and does not depend on when it is taken.
func TestCanaryOfAnEngine(t *testing.T) {
	for _, e := range []*nodetest.Engine{nodetest.NewEngine(), nodetest.NewSlidingEngine()} {
		a, b := canary(t, e), canary(t, e)
		if string(a) != string(b) {
			t.Error("the same engine, other values")
		}
		if n := e.OpenCaches(); n != 0 {
			t.Errorf("%d caches are open", n)
		}
	}
}
