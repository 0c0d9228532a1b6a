package node_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// In virtual time an evaluation of the engine takes as long as its layers do, however many tokens it has.
func TestMeasureSpeed(t *testing.T) {
	for _, e := range []*nodetest.Engine{nodetest.NewEngine(), nodetest.NewSlidingEngine()} {
		synctest.Test(t, func(t *testing.T) {
			e.LayerTime = 5 * time.Millisecond
			began := time.Now()
			s, err := node.MeasureSpeed(t.Context(), e, 300*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			whole := 5e-3 * float64(e.Model.Layers)
			if math.Abs(s.Call-whole) > 1e-4 || s.Token > 1e-5 || math.Abs(s.Step-whole) > 1e-4 || !s.Known() {
				t.Errorf("%+v, an evaluation takes %g s", s, whole)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %v", took)
			}
			if n := e.OpenCaches(); n != 0 {
				t.Errorf("%d caches are open", n)
			}
		})
	}
}

func TestMeasureSpeedEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := nodetest.NewEngine()
		e.LayerTime = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := node.MeasureSpeed(ctx, e, time.Second); !errors.Is(err, nodetest.ErrInterrupted) {
			t.Errorf("%v", err)
		}
		if n := e.OpenCaches(); n != 0 {
			t.Errorf("%d caches are open", n)
		}
	})
}
