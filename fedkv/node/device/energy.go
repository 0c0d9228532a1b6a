package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ErrNoSensor is the error of a board that has no power sensor, or none that this user may read.
var ErrNoSensor = errors.New("no power sensor")

// Meter adds up the energy that a board draws. One goroutine takes samples, any may ask for the sum.
type Meter struct {
	name    string
	counted []counter
	rails   []rail

	mu     sync.Mutex
	joules float64
	last   time.Time
	watts  float64 // of the rails at the last sample
}

// counter is a sensor that adds up energy by itself (RAPL).
type counter struct {
	file  string
	wraps int64 // microjoules after which it begins at 0 again; 0: unknown
	last  int64
}

// rail is a sensor of voltage and current (INA3221).
type rail struct{ volts, amps string } // files, in mV and mA

// Meter finds the board's power sensors: the packages of an x86 processor (RAPL), or the rails that an INA3221 watches,
// as on Jetson modules. It fails with ErrNoSensor.
func (b Board) Meter() (*Meter, error) {
	m := &Meter{}
	denied := ""
	var names []string
	for _, zone := range b.glob("class/powercap/intel-rapl:*") {
		// the packages; zones inside of them (intel-rapl:0:1) are parts of these
		name := text(filepath.Join(zone, "name"))
		if !strings.HasPrefix(name, "package-") {
			continue
		}
		c := counter{file: filepath.Join(zone, "energy_uj")}
		if _, err := os.ReadFile(c.file); errors.Is(err, os.ErrPermission) {
			denied = c.file
			continue
		}
		if _, ok := number(c.file); !ok {
			continue
		}
		c.wraps, _ = number(filepath.Join(zone, "max_energy_range_uj"))
		m.counted = append(m.counted, c)
		names = append(names, name)
	}
	if len(names) == 0 {
		m.rails, names = b.rails()
	}
	switch {
	case len(names) > 0:
		m.name = strings.Join(names, "+")
		return m, nil
	case denied != "":
		return nil, fmt.Errorf("%w: %s may not be read; run as root or change its permissions", ErrNoSensor, denied)
	}
	return nil, ErrNoSensor
}

// rails are those that sum up to the whole board: VDD_IN alone where there is one, otherwise all that have a name.
func (b Board) rails() (rails []rail, names []string) {
	for _, chip := range b.glob("class/hwmon/hwmon*") {
		if text(filepath.Join(chip, "name")) != "ina3221" {
			continue
		}
		for channel := 1; channel <= 3; channel++ {
			file := func(format string) string { return filepath.Join(chip, fmt.Sprintf(format, channel)) }
			label := text(file("in%d_label"))
			r := rail{volts: file("in%d_input"), amps: file("curr%d_input")}
			if _, ok := r.read(); !ok || label == "" || label == "NC" {
				continue
			}
			if label == "VDD_IN" {
				return []rail{r}, []string{label}
			}
			rails, names = append(rails, r), append(names, label)
		}
	}
	return rails, names
}

// read is the rail's power now, in watts.
func (r rail) read() (float64, bool) {
	millivolts, ok := number(r.volts)
	milliamps, also := number(r.amps)
	return float64(millivolts) * float64(milliamps) / 1e6, ok && also
}

// Name says what is measured, such as "package-0" or "VDD_IN".
func (m *Meter) Name() string { return m.name }

// Sample takes a reading at a time. The first one begins the measurement. Between two, counters have counted; of rails
// the mean of both readings counts, so take one every tenth of a second.
func (m *Meter) Sample(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.last.IsZero()
	for i := range m.counted {
		c := &m.counted[i]
		n, ok := number(c.file)
		if !ok {
			return fmt.Errorf("%s cannot be read any more", c.file)
		}
		if !first {
			passed := n - c.last
			if passed < 0 {
				passed += c.wraps
			}
			m.joules += float64(max(0, passed)) / 1e6
		}
		c.last = n
	}
	watts := 0.0
	for _, r := range m.rails {
		w, ok := r.read()
		if !ok {
			return fmt.Errorf("%s cannot be read any more", r.volts)
		}
		watts += w
	}
	if !first {
		m.joules += (m.watts + watts) / 2 * now.Sub(m.last).Seconds()
	}
	m.watts, m.last = watts, now
	return nil
}

// Joules is the energy between the first and the last sample.
func (m *Meter) Joules() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joules
}

// sampling is how often Run reads.
const sampling = 100 * time.Millisecond

// Run samples until the context ends, which is how a measurement is meant to end, and takes a last sample then.
func (m *Meter) Run(ctx context.Context) error {
	ticker := time.NewTicker(sampling)
	defer ticker.Stop()
	for {
		if err := m.Sample(time.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return m.Sample(time.Now())
		case <-ticker.C:
		}
	}
}
