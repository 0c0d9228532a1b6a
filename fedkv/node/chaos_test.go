package node_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

var simulations = flag.Int("simulations", 60, "how many random sessions are played")

// Whatever is slow, late or dead: the answer comes by the deadline, names who is missing, is the oracle's for those who
// are there, and leaves nothing behind.
func TestWhateverHappensTheAnswerIsTheOracles(t *testing.T) {
	faults, whole := 0, 0
	for seed := range uint64(*simulations) {
		play(t, fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			lengths := make([]int, 2+r.IntN(4))
			for i := range lengths {
				lengths[i] = 1 + r.IntN(7)
			}
			list := specs("gather", "lockstep", "H=2", "contributors=none;publisher=1-4", "contributors=2-;publisher=all")
			s := newStage(t, list[r.IntN(len(list))], lossy, lengths...)
			for _, h := range s.hosts {
				h.config.MicroBatch = 1 + r.IntN(4)
				h.engine.LayerTime = time.Duration(r.IntN(300)) * time.Millisecond
				h.config.Source = tardy{h.config.Source, time.Duration(r.IntN(3000)) * time.Millisecond}
				h.wrap = nodetest.Scatter(r.Uint64(), 2*time.Second)
				switch r.IntN(6) {
				case 0:
					time.AfterFunc(time.Duration(r.IntN(15_000))*time.Millisecond, func() { h.kill() })
					faults++
				case 1:
					time.AfterFunc(time.Duration(r.IntN(15_000))*time.Millisecond, func() { h.stop() })
					faults++
				case 2:
					h.engine.LayerTime *= 20
					faults++
				}
			}
			s.open()
			const deadline = 15 * time.Second
			o := s.mustAsk(func(q *node.Question) {
				q.SetupBy, q.GatherBy = 5*time.Second, deadline
				q.MicroBatch = 10
			})
			time.Sleep(deadline) // the faults that are still to come
			s.close()
			s.check(o)
			if o.took > deadline {
				t.Errorf("took %v", o.took)
			}
			if o.report.Present() == len(s.hosts) {
				whole++
			}
			for _, m := range missing(o.report) {
				if m.Text == "" || m.Code == 0 || m.Code == fedkv.CodeInternal || m.Code == fedkv.CodeOrder {
					t.Errorf("%v", m)
				}
			}
		})
	}
	// a run in which nothing goes wrong, or nothing else, proves little
	if faults < *simulations/3 || whole < *simulations/10 {
		t.Errorf("%d faults in %d sessions, of which %d are whole", faults, *simulations, whole)
	}
}
