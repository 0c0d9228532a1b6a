package device

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// hotWithoutWord is the temperature, in °C, from which a board counts as slowed down that has no other way of saying so.
// Raspberry Pis begin to lower their clock at 80 °C.
const hotWithoutWord = 80

// Heat is how a board fares.
type Heat struct {
	Celsius   float64 // of the hottest sensor of the processor; 0: unknown
	Throttled bool    // the board runs slower than it could, to stay cool or because it lacks power
	Cause     string  // what says so, for people; empty if not throttled
}

// String says it in a few words, such as "82 °C, the firmware throttles".
func (h Heat) String() string {
	var parts []string
	if h.Celsius != 0 {
		parts = append(parts, fmt.Sprintf("%.0f °C", h.Celsius))
	}
	if h.Cause != "" {
		parts = append(parts, h.Cause)
	}
	if len(parts) == 0 {
		return "no sensor"
	}
	return strings.Join(parts, ", ")
}

// Heat reads the board's sensors. It is false if there is none.
func (b Board) Heat() (Heat, bool) {
	celsius, any := b.celsius()
	h := Heat{Celsius: celsius}
	firmware, asked := b.firmware()
	cooled, cooling := b.cooling()
	switch {
	case firmware != "":
		h.Throttled, h.Cause = true, firmware
	case cooled != "":
		h.Throttled, h.Cause = true, cooled
	case !asked && !cooling && celsius >= hotWithoutWord:
		h.Throttled, h.Cause = true, fmt.Sprintf("at least %d °C", hotWithoutWord)
	}
	return h, any || asked || cooling
}

// celsius is the temperature of the hottest thermal zone of the processor, or of all zones if none is known to be one.
func (b Board) celsius() (hottest float64, found bool) {
	cpu := false
	for _, zone := range b.glob("class/thermal/thermal_zone*") {
		milli, ok := number(filepath.Join(zone, "temp"))
		if !ok {
			continue
		}
		kind := strings.ToLower(text(filepath.Join(zone, "type")))
		ofCPU := strings.Contains(kind, "cpu") || strings.Contains(kind, "x86_pkg") || strings.Contains(kind, "soc")
		degrees := float64(milli) / 1000
		switch {
		case ofCPU && !cpu:
			hottest, cpu = degrees, true
		case ofCPU == cpu && (!found || degrees > hottest):
			hottest = degrees
		}
		found = true
	}
	return hottest, found
}

// What a Raspberry Pi's firmware says of this moment, bit by bit; higher bits are about the past.
var firmwareCauses = []struct {
	bit  uint64
	text string
}{
	{1 << 0, "too little voltage: the power supply is too weak"},
	{1 << 3, "the firmware's soft temperature limit"},
	{1 << 2, "the firmware throttles"},
	{1 << 1, "the firmware caps the clock"},
}

// firmware asks a Raspberry Pi's firmware; asked is false on other boards.
func (b Board) firmware() (cause string, asked bool) {
	for _, file := range b.glob("devices/platform/soc*/*firmware/get_throttled") {
		bits, err := strconv.ParseUint(strings.TrimPrefix(text(file), "0x"), 16, 64)
		if err != nil {
			continue
		}
		asked = true
		for _, c := range firmwareCauses {
			if bits&c.bit != 0 {
				return c.text, true
			}
		}
	}
	return "", asked
}

// cooling asks the kernel's cooling devices that lower the processor's clock.
func (b Board) cooling() (cause string, asked bool) {
	for _, device := range b.glob("class/thermal/cooling_device*") {
		kind := text(filepath.Join(device, "type"))
		// "Processor" is ACPI's, cpufreq-… and thermal-cpufreq-… are device trees'
		if kind != "Processor" && !strings.Contains(kind, "cpufreq") {
			continue
		}
		state, ok := number(filepath.Join(device, "cur_state"))
		if !ok {
			continue
		}
		asked = true
		if state > 0 {
			return "the kernel lowers the processor's clock", true
		}
	}
	return "", asked
}
