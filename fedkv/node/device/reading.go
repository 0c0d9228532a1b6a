package device

import (
	"context"
	"fmt"
	"time"
)

// Reading measures what a board draws, from Begin to End.
type Reading struct {
	meter  *Meter
	began  time.Time
	cancel context.CancelFunc
	done   chan error
	ended  *ended
}

type ended struct {
	energy Energy
	err    error
}

// Energy is what a board drew for a while, all programs on it and all that idles there included.
type Energy struct {
	Joules  float64
	Seconds float64
	Sensor  string // what was measured, such as "package-0" or "VDD_IN"
}

// Watts is the mean power; 0 if no time passed.
func (e Energy) Watts() float64 { return quotient(e.Joules, e.Seconds) }

// PerToken is the energy of each of some tokens, in joules; 0 if there is none.
func (e Energy) PerToken(tokens int) float64 { return quotient(e.Joules, float64(tokens)) }

func quotient(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// String says it in a few words, such as "41.2 J of package-0, 13.7 W".
func (e Energy) String() string {
	return fmt.Sprintf("%.1f J of %s, %.1f W", e.Joules, e.Sensor, e.Watts())
}

// Begin starts to measure. It fails with ErrNoSensor, and End of the nil that it returns then does too: who only wants to
// tell the energy if there is any looks at End's error alone.
func (b Board) Begin() (*Reading, error) {
	meter, err := b.Meter()
	if err != nil {
		return nil, err
	}
	r := &Reading{meter: meter, began: time.Now(), done: make(chan error, 1)}
	// the first sample here: what follows Begin is measured whole
	if err := meter.Sample(r.began); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- meter.Run(ctx) }()
	return r, nil
}

// Joules is what was drawn from Begin to this moment; any goroutine may ask. 0 on nil.
func (r *Reading) Joules() float64 {
	if r == nil {
		return 0
	}
	_ = r.meter.Sample(time.Now()) // of a sensor that went, the sum is what it was
	return r.meter.Joules()
}

// End stops measuring and returns what was drawn since Begin. Every reading has to be ended; ended again, it returns the
// same. It fails with ErrNoSensor on nil, and if a sensor could not be read to the end.
func (r *Reading) End() (Energy, error) {
	if r == nil {
		return Energy{}, ErrNoSensor
	}
	if r.ended == nil {
		r.cancel()
		err := <-r.done
		r.ended = &ended{Energy{r.meter.Joules(), r.meter.last.Sub(r.began).Seconds(), r.meter.Name()}, err}
	}
	return r.ended.energy, r.ended.err
}
