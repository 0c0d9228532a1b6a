package node_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
)

// A contributor that is 2, 5 or 10 times as slow as the others is waited for until the deadline, and not longer; the answer
// is the oracle's either way. FEDATTN_T8_N is how often each is tried.
func TestStragglersOfAnyPace(t *testing.T) {
	trials := fedkvtest.NewTrials(t, "T8", 3)
	each, waited, given := trials.N, 0, 0
	paces := []int{2, 5, 10}
	for _, spec := range specs("gather", "lockstep") {
		for _, pace := range paces {
			for i := range each {
				play(t, fmt.Sprint(spec, " ", pace, " times as slow"), func(t *testing.T) {
					r := rand.New(rand.NewPCG(trials.Seed+uint64(i), uint64(pace)))
					s := newStage(t, spec, lossy, 1+r.IntN(5), 1+r.IntN(5), 1+r.IntN(5), 3)
					step := time.Duration(100+r.IntN(900)) * time.Millisecond
					for _, h := range s.hosts {
						h.engine.LayerTime = step
					}
					s.hosts[r.IntN(len(s.hosts))].engine.LayerTime = time.Duration(pace) * step
					deadline := 6*step + time.Duration(r.IntN(90))*step
					s.open()
					o := s.mustAsk(func(q *node.Question) { q.GatherBy = deadline; q.SetupBy = min(q.SetupBy, deadline/2) })
					s.close()
					s.check(o)
					if o.report.Present() == len(s.hosts) {
						waited++
					} else {
						given++
					}
					var err error
					if o.took > deadline*11/10 {
						err = fmt.Errorf("it took %v of %v", o.took, deadline)
					}
					trials.Run(t, "a straggler", true, err)
				})
			}
		}
	}
	trials.N = 2 * len(paces) * each
	trials.Note("2, 5 and 10 times as slow, in both regimes; waited for %d, given up %d", waited, given)
	trials.Report(t)
}
