package fedkv

import (
	"math"
	"time"
)

// Way is what a link between two devices carries.
type Way struct {
	RTT time.Duration
	// Up and Down are bytes of rows a second, towards the publisher and away from it. 0: more than can be noticed.
	Up, Down float64
}

// Back is the way seen from the other side.
func (w Way) Back() Way { return Way{w.RTT, w.Down, w.Up} }

// Over is the way from one contributor to another, each of which has one to the publisher: on a network of one switch or
// radio it is as slow as the slower one.
func (w Way) Over(o Way) Way {
	return Way{max(w.RTT, o.RTT), slower(w.Up, o.Down), slower(w.Down, o.Up)}
}

func slower(a, b float64) float64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// What QUIC sends before it has heard anything back, and at most, in bytes: the initial congestion window of 32 packets,
// and package transport's window of a connection.
const (
	firstWindow = 32 * 1252
	lastWindow  = 8 << 20
)

// Pipe is one direction of a way as what goes through it sees it: one payload after the other. QUIC's slow start is in
// it, since a session's rows are often gone before it is over: in each round trip as many bytes may leave as the window has,
// which doubles. Times are seconds since any fixed moment.
type Pipe struct {
	Rate, RTT float64 // bytes a second, 0 for no limit; seconds

	used  bool
	began float64 // when it first carried anything
	free  float64 // when it has carried everything
	round int     // trips since it began
	gone  float64 // bytes that left in this round
}

// NewPipe is the direction of a way towards the publisher.
func NewPipe(w Way) *Pipe { return &Pipe{Rate: w.Up, RTT: w.RTT.Seconds()} }

// Send puts bytes behind what is on its way at this moment, and returns when they have left, and when the last of them
// arrives.
func (p *Pipe) Send(at float64, bytes int) (left, arrives float64) {
	at = max(at, p.free)
	if !p.used {
		p.began, p.used = at, true
	}
	rate := math.Inf(1)
	if p.Rate > 0 {
		rate = p.Rate
	}
	for rest := float64(bytes); rest > 0; {
		if p.RTT < leastRTT {
			at += rest / rate
			break
		}
		now := max(p.round, int(min((at-p.began)/p.RTT*(1+1e-12), maxRounds)))
		if now >= maxRounds {
			at += rest / min(rate, lastWindow/p.RTT)
			break
		}
		if now > p.round {
			p.round, p.gone = now, 0
		}
		ends := p.began + float64(now+1)*p.RTT
		room := min(lastWindow, firstWindow*math.Exp2(float64(now))) - p.gone
		if fits := min(room, rate*max(0, ends-at)); rest > fits {
			rest, at, p.round, p.gone = rest-fits, ends, now+1, 0
			continue
		}
		at, p.gone = at+rest/rate, p.gone+rest
		break
	}
	p.free = at
	return at, at + p.RTT/2
}

// maxRounds is when slow start is over on any way, and leastRTT the seconds of a round trip below which nobody notices it.
const (
	maxRounds = 24
	leastRTT  = 1e-6
)
