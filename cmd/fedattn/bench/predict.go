package bench

import (
	"context"
	"fmt"
	"math"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node"
)

// selfTest is how long measuring this device's speed takes, about.
const selfTest = 2 * time.Second

// predict asks the cost model, which knows this device's speed and what a link is said to be, what it expects of the times to
// the first token. Nodes elsewhere are not predicted: what they can do is their business.
func (b *Bench) predict(ctx context.Context) error {
	if len(b.fleets) == 0 || len(b.cfg.Peers) > 0 {
		return nil
	}
	b.say("measuring this device for about %v", selfTest)
	speed, err := node.MeasureSpeed(ctx, b.cfg.Engine, selfTest)
	if err != nil {
		return fmt.Errorf("this device's speed: %w", err)
	}
	if !speed.Known() {
		return nil
	}
	for _, s := range b.sessions {
		f := b.fleets[fleetKey{s.nodes, s.prompt}]
		for _, r := range b.rows {
			if r.Prompt == 0 || !s.makes(r.Test) {
				continue
			}
			cost, err := b.caseOf(s, f, speed, r.Kept == Warm).Cost()
			if err != nil {
				return fmt.Errorf("what is expected of %s: %w", r.Name(), err)
			}
			r.PredictedMS = milliseconds(cost.TTFT)
		}
	}
	return nil
}

// makes reports whether a test is one of the session's.
func (s session) makes(t Test) bool {
	for _, own := range s.tests() {
		if own == t {
			return true
		}
	}
	return false
}

// caseOf is a session as the cost model sees it.
func (b *Bench) caseOf(s session, f *fleet, speed fedkv.Speed, warm bool) fedkv.Case {
	// either direction has the link's rate, and loopback none that could be noticed
	way := fedkv.Way{RTT: 2 * s.link.Path.Delay, Up: float64(s.link.Path.Rate), Down: float64(s.link.Path.Rate)}
	c := fedkv.Case{
		Shape: b.cfg.Engine.Shape(), Schedules: s.exchange.Schedules, Wire: s.exchange.Wire, Home: s.exchange.Home,
		Prefix: f.frame.prefix, MicroBatch: b.cfg.MicroBatch, PrefixKept: warm,
	}
	for i, tokens := range f.parts {
		p := fedkv.Planned{Name: deviceName(len(f.parts), i), Tokens: tokens, Speed: speed, Way: way, Model: b.cfg.Size, Kept: warm}
		if p.Local = i == len(f.parts)-1; p.Local {
			p.Way = fedkv.Way{}
		}
		c.Participants = append(c.Participants, p)
	}
	c.Participants = append(c.Participants, fedkv.Planned{Name: "question", Tokens: f.frame.own, Speed: speed, Model: b.cfg.Size})
	return c
}

// predictionErrors is how far predictions are from what was measured, as shares of that.
func predictionErrors(rows []*Row) (shares []float64) {
	for _, r := range rows {
		if r.PredictedMS == 0 || len(r.Samples) == 0 {
			continue
		}
		measured := measure.Median(r.each(func(s Sample) float64 { return s.TTFTMS }))
		shares = append(shares, math.Abs(r.PredictedMS-measured)/measured)
	}
	return shares
}
