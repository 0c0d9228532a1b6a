package bench

import (
	"sync"
	"time"

	"fedattn/fedkv/node/device"
)

// sampling is how often sensors are read that do not add up energy by themselves.
const sampling = 100 * time.Millisecond

// power is the energy that this machine draws; a nil one is a machine that does not tell.
type power struct {
	mu    sync.Mutex
	meter *device.Meter
	done  chan struct{}
	ended sync.WaitGroup
}

// startPower reads the machine's sensors until it is closed.
func startPower(board device.Board) *power {
	meter, err := board.Meter()
	if err != nil {
		return nil
	}
	p := &power{meter: meter, done: make(chan struct{})}
	p.ended.Go(func() {
		ticker := time.NewTicker(sampling)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.joules()
			case <-p.done:
				return
			}
		}
	})
	return p
}

// joules since the start, 0 if they are not known.
func (p *power) joules() float64 {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.meter == nil || p.meter.Sample(time.Now()) != nil {
		p.meter = nil // a sensor that fails once has no sum
		return 0
	}
	return p.meter.Joules()
}

// name is what is measured, empty if nothing is.
func (p *power) name() string {
	if p == nil {
		return ""
	}
	return p.meter.Name()
}

func (p *power) close() {
	if p != nil {
		close(p.done)
		p.ended.Wait()
	}
}
