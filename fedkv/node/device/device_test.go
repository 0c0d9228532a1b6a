package device

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// board makes a directory that looks like the sysfs of a board, from lines "path content".
func board(t *testing.T, lines ...string) Board {
	t.Helper()
	b := Board{Root: t.TempDir()}
	for _, line := range lines {
		path, content, _ := strings.Cut(line, " ")
		b.write(t, path, content)
	}
	return b
}

func (b Board) write(t *testing.T, path, content string) {
	t.Helper()
	file := filepath.Join(b.Root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	// at once, as sysfs has it: somebody may be reading
	if err := os.WriteFile(file+".new", []byte(content+"\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

const (
	piZone     = "class/thermal/thermal_zone0/type cpu-thermal"
	piFirmware = "devices/platform/soc/soc:firmware/get_throttled "
	fan        = "class/thermal/cooling_device0/type pwm-fan"
	fanRuns    = "class/thermal/cooling_device0/cur_state 3"
	clock      = "class/thermal/cooling_device1/type cpufreq-cpu0"
)

func TestHeat(t *testing.T) {
	for name, c := range map[string]struct {
		board Board
		want  Heat
		none  bool
	}{
		"nothing is known": {board: board(t), none: true},
		"a Pi at ease": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp 52582", piFirmware+"0", fan, fanRuns),
			want:  Heat{Celsius: 52.582},
		},
		"a Pi that throttled in the past only": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp 61000", piFirmware+"e0000"),
			want:  Heat{Celsius: 61},
		},
		"a Pi that throttles": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp 85100", piFirmware+"60006"),
			want:  Heat{Celsius: 85.1, Throttled: true, Cause: "the firmware throttles"},
		},
		"a Pi at its soft limit": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp 80000", piFirmware+"80008"),
			want:  Heat{Celsius: 80, Throttled: true, Cause: "the firmware's soft temperature limit"},
		},
		"a Pi 5 with a weak supply": {
			board: board(t, "devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled 0x50005"),
			want:  Heat{Throttled: true, Cause: "too little voltage: the power supply is too weak"},
		},
		"a Jetson whose processor is cooled by its clock": {
			board: board(t, "class/thermal/thermal_zone1/type gpu-thermal", "class/thermal/thermal_zone1/temp 99000",
				"class/thermal/thermal_zone0/type cpu-thermal", "class/thermal/thermal_zone0/temp 97250", clock,
				"class/thermal/cooling_device1/cur_state 2"),
			want: Heat{Celsius: 97.25, Throttled: true, Cause: "the kernel lowers the processor's clock"},
		},
		"hot, but the clock is not lowered": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp 84000", clock, "class/thermal/cooling_device1/cur_state 0"),
			want:  Heat{Celsius: 84},
		},
		"hot, and nobody says whether the clock is lowered": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp 81000", fan, fanRuns),
			want:  Heat{Celsius: 81, Throttled: true, Cause: "at least 80 °C"},
		},
		"the hottest zone of a processor, whatever the others": {
			board: board(t, "class/thermal/thermal_zone0/type acpitz", "class/thermal/thermal_zone0/temp 90000",
				"class/thermal/thermal_zone1/type x86_pkg_temp", "class/thermal/thermal_zone1/temp 55000",
				"class/thermal/thermal_zone2/type cpu1", "class/thermal/thermal_zone2/temp 57000"),
			want: Heat{Celsius: 57},
		},
		"files that say nothing": {
			board: board(t, piZone, "class/thermal/thermal_zone0/temp ?", piFirmware, clock, "class/thermal/cooling_device1/cur_state -"),
			none:  true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := c.board.Heat()
			if ok == c.none || got != c.want {
				t.Errorf("it is %+v (%v), want %+v", got, ok, c.want)
			}
		})
	}
}

func TestHeatIsSaid(t *testing.T) {
	for want, h := range map[string]Heat{
		"82 °C, the firmware throttles": {Celsius: 81.9, Throttled: true, Cause: "the firmware throttles"},
		"40 °C":                         {Celsius: 40},
		"no sensor":                     {},
	} {
		if got := h.String(); got != want {
			t.Errorf("%+v is %q, want %q", h, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	look := func(b *Backoff, throttled bool, times int) (threads int) {
		for range times {
			threads = b.Look(Heat{Throttled: throttled})
		}
		return threads
	}
	for _, c := range []struct {
		threads, atOnce, later, atLast int
	}{{1, 1, 1, 1}, {2, 1, 1, 1}, {4, 3, 2, 1}, {12, 9, 7, 1}} {
		b := NewBackoff(c.threads)
		if got := look(b, false, 3*patience); got != c.threads {
			t.Errorf("a cool board with %d threads uses %d", c.threads, got)
		}
		if got := look(b, true, 1); got != c.atOnce {
			t.Errorf("%d threads, throttled: %d at once, want %d", c.threads, got, c.atOnce)
		}
		if got := look(b, true, patience-1); got != c.atOnce {
			t.Errorf("%d threads: %d before the patience is over, want %d", c.threads, got, c.atOnce)
		}
		if got := look(b, true, 1); got != c.later {
			t.Errorf("%d threads, still throttled: %d, want %d", c.threads, got, c.later)
		}
		if got := look(b, true, 20*patience); got != c.atLast {
			t.Errorf("%d threads, throttled for long: %d, want %d", c.threads, got, c.atLast)
		}
		if got := look(b, false, patience); got != c.atLast {
			t.Errorf("%d threads: %d right after throttling, want %d", c.threads, got, c.atLast)
		}
		if got := look(b, false, 1); got != min(c.threads, c.atLast+1) {
			t.Errorf("%d threads: %d after a calm while, want one more than %d", c.threads, got, c.atLast)
		}
		if got := look(b, false, 20*patience); got != c.threads {
			t.Errorf("%d threads: %d when cool again", c.threads, got)
		}
	}
}

func TestWatch(t *testing.T) {
	b := board(t, piFirmware+"0")
	ctx, cancel := context.WithCancel(t.Context())
	tick, changes := make(chan time.Time), make(chan int, 3)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Watch(ctx, 4, tick, func(threads int, _ Heat) { changes <- threads })
	}()
	tick <- time.Time{}
	b.write(t, strings.TrimSpace(piFirmware), "4")
	tick <- time.Time{} // by now the first look, before or after the change, is over
	tick <- time.Time{} // and the second one, after it
	if got := <-changes; got != 3 {
		t.Errorf("%d threads while throttled, want 3", got)
	}
	cancel()
	<-done
}

func TestWatchOfABoardThatTellsNothingReturns(t *testing.T) {
	board(t).Watch(t.Context(), 4, nil, func(int, Heat) { t.Error("a change without a sensor") })
}

func TestEnergyOfCounters(t *testing.T) {
	b := board(t,
		"class/powercap/intel-rapl:0/name package-0", "class/powercap/intel-rapl:0/energy_uj 9000000",
		"class/powercap/intel-rapl:0/max_energy_range_uj 10000000",
		"class/powercap/intel-rapl:0:0/name core", "class/powercap/intel-rapl:0:0/energy_uj 5",
		"class/powercap/intel-rapl:1/name package-1", "class/powercap/intel-rapl:1/energy_uj 100",
		"class/powercap/intel-rapl:1/max_energy_range_uj 10000000",
		"class/powercap/intel-rapl:2/name psys", "class/powercap/intel-rapl:2/energy_uj 7",
	)
	m, err := b.Meter()
	if err != nil {
		t.Fatal(err)
	}
	if m.Name() != "package-0+package-1" {
		t.Errorf("measures %s", m.Name())
	}
	sample(t, m, 0)
	b.write(t, "class/powercap/intel-rapl:0/energy_uj", "2000000") // wrapped: 1 J and 2 J
	b.write(t, "class/powercap/intel-rapl:1/energy_uj", "500100")
	sample(t, m, 1)
	b.write(t, "class/powercap/intel-rapl:1/energy_uj", "1000100")
	sample(t, m, 9)
	if got := m.Joules(); math.Abs(got-4) > 1e-9 {
		t.Errorf("%v J, want 4", got)
	}
}

func TestEnergyOfRails(t *testing.T) {
	chip := "class/hwmon/hwmon1/"
	b := board(t, chip+"name ina3221", "class/hwmon/hwmon0/name tmp451",
		chip+"in1_label VDD_GPU_SOC", chip+"in1_input 5000", chip+"curr1_input 1000",
		chip+"in2_label VDD_CPU_CV", chip+"in2_input 5000", chip+"curr2_input 400",
		chip+"in3_label NC", chip+"in3_input 5000", chip+"curr3_input 9999")
	m, err := b.Meter()
	if err != nil {
		t.Fatal(err)
	}
	if m.Name() != "VDD_GPU_SOC+VDD_CPU_CV" {
		t.Errorf("measures %s", m.Name())
	}
	sample(t, m, 0)
	b.write(t, chip+"curr1_input", "3000")
	sample(t, m, 2) // from 7 W to 17 W in two seconds
	if got := m.Joules(); math.Abs(got-24) > 1e-9 {
		t.Errorf("%v J, want 24", got)
	}

	b.write(t, chip+"in1_label", "VDD_IN")
	if m, err = b.Meter(); err != nil || m.Name() != "VDD_IN" {
		t.Errorf("a rail for the whole board is not taken alone: %v, %v", m, err)
	}
}

func sample(t *testing.T, m *Meter, second int64) {
	t.Helper()
	if err := m.Sample(time.Unix(1000+second, 0)); err != nil {
		t.Fatal(err)
	}
}

func TestEnergyWithoutASensor(t *testing.T) {
	if _, err := board(t).Meter(); !errors.Is(err, ErrNoSensor) {
		t.Errorf("a board without sensors: %v", err)
	}
}

func TestEnergyOfASensorThatGoes(t *testing.T) {
	zone := "class/powercap/intel-rapl:0/"
	b := board(t, zone+"name package-0", zone+"energy_uj 1")
	m, err := b.Meter()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.Root, zone, "energy_uj")); err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); err == nil {
		t.Error("a sensor that is gone was read")
	}
}

func TestEnergyIsMeasuredUntilTheEnd(t *testing.T) {
	zone := "class/powercap/intel-rapl:0/"
	b := board(t, zone+"name package-0", zone+"energy_uj 1000000")
	m, err := b.Meter()
	if err != nil {
		t.Fatal(err)
	}
	sample(t, m, 0)
	b.write(t, zone+"energy_uj", "6000000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil || m.Joules() != 5 {
		t.Errorf("%v J, want 5 (%v)", m.Joules(), err)
	}
}
