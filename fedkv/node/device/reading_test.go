package device

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestReading(t *testing.T) {
	zone := "class/powercap/intel-rapl:0/"
	b := board(t, zone+"name package-0", zone+"energy_uj 1000000")
	r, err := b.Begin()
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, zone+"energy_uj", "6000000")
	if got := r.Joules(); math.Abs(got-5) > 1e-9 {
		t.Errorf("%v J on the way, want 5", got)
	}
	e, err := r.End()
	if err != nil || math.Abs(e.Joules-5) > 1e-9 || e.Sensor != "package-0" || e.Seconds <= 0 {
		t.Errorf("%+v, want 5 J of package-0 (%v)", e, err)
	}
	b.write(t, zone+"energy_uj", "9000000")
	if again, err := r.End(); err != nil || again != e {
		t.Errorf("ended again: %+v, before %+v (%v)", again, e, err)
	}
}

func TestReadingOfWhatIsNotThere(t *testing.T) {
	r, err := board(t).Begin()
	if !errors.Is(err, ErrNoSensor) {
		t.Errorf("a board without sensors: %v", err)
	}
	if e, err := r.End(); !errors.Is(err, ErrNoSensor) || e != (Energy{}) {
		t.Errorf("what never began ended with %+v, %v", e, err)
	}
}

func TestReadingOfASensorThatGoes(t *testing.T) {
	zone := "class/powercap/intel-rapl:0/"
	b := board(t, zone+"name package-0", zone+"energy_uj 1")
	r, err := b.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.Root, zone, "energy_uj")); err != nil {
		t.Fatal(err)
	}
	if e, err := r.End(); err == nil || errors.Is(err, ErrNoSensor) {
		t.Errorf("a sensor that went: %+v, %v", e, err)
	}
}

func TestEnergyOfTokens(t *testing.T) {
	e := Energy{Joules: 30, Seconds: 4, Sensor: "VDD_IN"}
	if e.Watts() != 7.5 || e.PerToken(60) != 0.5 || e.String() != "30.0 J of VDD_IN, 7.5 W" {
		t.Errorf("%v W, %v J a token, %q", e.Watts(), e.PerToken(60), e)
	}
	if e.PerToken(0) != 0 || (Energy{}).Watts() != 0 {
		t.Error("a quotient by nothing is not 0")
	}
}
