package node

import (
	"fmt"
	"time"

	"fedattn/fedkv"
)

// InQueue says that a contributor serves others first.
type InQueue struct {
	Contributor string        // as the owner calls it, or as it calls itself
	Place       int           // 1: this session is the next
	Wait        time.Duration // as the contributor expects; 0: it does not know
}

// String is one line for the user: garden-pi: 2nd in its queue, about 12 s.
func (q InQueue) String() string {
	line := fmt.Sprintf("%s: %s in its queue", q.Contributor, ordinal(q.Place))
	switch wait := q.Wait.Round(time.Second); {
	case q.Wait == 0:
		return line
	case wait < time.Second:
		return line + ", less than a second"
	case wait < 2*time.Minute:
		return fmt.Sprintf("%s, about %d s", line, wait/time.Second)
	default:
		return fmt.Sprintf("%s, about %d min", line, q.Wait.Round(time.Minute)/time.Minute)
	}
}

// ordinal is 1st, 2nd, 3rd, 4th, 11th.
func ordinal(n int) string {
	end := "th"
	if tens := n / 10 % 10; tens != 1 {
		switch n % 10 {
		case 1:
			end = "st"
		case 2:
			end = "nd"
		case 3:
			end = "rd"
		}
	}
	return fmt.Sprint(n, end)
}

// tellAgain is how long a place in a queue that has not become better is no news.
const tellAgain = 10 * time.Second

// toldPlace is the place that the user knows of.
type toldPlace struct {
	place int
	at    time.Time
}

// tell tells the user about places in queues, under the exchange's lock: what is better than before at once, the rest from
// time to time, so that a contributor cannot fill a screen.
func (g *gathering) tell(list []fedkv.QueuePlace) {
	for _, q := range list {
		known, told := g.told[q.Origin]
		if g.terms.Waiting == nil || told && q.Place >= known.place && time.Since(known.at) < tellAgain {
			continue
		}
		if g.told == nil {
			g.told = map[int]toldPlace{}
		}
		g.told[q.Origin] = toldPlace{q.Place, time.Now()}
		say := InQueue{g.names[q.Origin], q.Place, q.Wait}
		g.x.tasks.start(func() { g.terms.Waiting(say) })
	}
}
