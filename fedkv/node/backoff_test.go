package node_test

import (
	"context"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// A device that is busy for a moment takes part all the same; one that stays busy is dialled a few times, at growing
// distances, and named; any other error is believed at once.
func TestBusyDevicesAreDialledAgain(t *testing.T) {
	for name, test := range map[string]struct {
		code        fedkv.Code
		busy        int // attempts that are refused
		least, most int // attempts
		present     int
	}{
		"for a moment":   {fedkv.CodeBusy, 3, 4, 4, 1},
		"for good":       {fedkv.CodeBusy, 1000, 6, 14, 0},
		"another reason": {fedkv.CodeForbidden, 1000, 1, 1, 0},
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, 4, 3)
			s.open()
			var at []time.Time
			o := s.mustAsk(func(q *node.Question) {
				reach := q.Contacts[0].Dial
				q.Contacts[0].Dial = func(ctx context.Context) (node.Link, error) {
					if at = append(at, time.Now()); len(at) <= test.busy {
						return nil, fedkv.Errorf(test.code, "not now")
					}
					return reach(ctx)
				}
			})
			s.close()
			if len(at) < test.least || len(at) > test.most || o.report.Present() != test.present {
				t.Errorf("%d attempts, missing %v", len(at), missing(o.report))
			}
			for i := 1; i < len(at); i++ {
				if wait := at[i].Sub(at[i-1]); wait < 50*time.Millisecond || wait > time.Second {
					t.Errorf("attempt %d came after %v", i, wait)
				}
			}
			if took := at[len(at)-1].Sub(at[0]); took > 5*time.Second {
				t.Errorf("it was dialled for %v", took)
			}
		})
	}
}
