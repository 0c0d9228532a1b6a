// Package devices reads what people say of the devices of a session that is to be planned: on the command line, as in
// "pi5,tokens=2000,prefill=35,decode=9,rtt=2ms,rate=90Mbit", or in a file.
//
// Start reading at Device.
package devices

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Self is the name of the device that asks.
const Self = "self"

// Device is what is said of one device. What is 0 or empty was not said. As YAML:
//
//	devices:
//	  - {name: self, prefill: 320, decode: 60, memory: 16GB, watts: 25}
//	  - {name: pi5, tokens: 2000, prefill: 35, decode: 9, rtt: 2ms, rate: 90Mbit, memory: 4GB, watts: 10, trust: home}
type Device struct {
	Name            string
	Tokens          int     // of its text
	Prefill, Decode float64 // tokens a second: of a prompt of 512, and of an answer
	RTT             time.Duration
	HasRTT          bool
	Rate, RateTo    float64 // bits a second, from it and to it; RateTo is Rate if it is not said
	Memory          int64   // bytes
	Watts           float64 // while it evaluates
	Home            bool    // its rows stay with it
	Kept            bool    // its rows were computed before
}

// MaxFile bounds a file in bytes, and MaxDevices what is in it.
const (
	MaxFile    = 64 << 10
	MaxDevices = 1024
)

// Parse reads a device from the command line: its name, then key=value, with commas.
func Parse(text string) (d Device, err error) {
	name, rest, some := strings.Cut(text, ",")
	d.Name = strings.TrimSpace(name)
	if d.Name == "" || strings.Contains(d.Name, "=") {
		return d, fmt.Errorf("%q begins with no name: write NAME,key=value,…", text)
	}
	if !some {
		return d, nil
	}
	said := map[string]bool{}
	for part := range strings.SplitSeq(rest, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok && key != "kept" {
			return d, fmt.Errorf("%s: %q is not key=value", d.Name, part)
		}
		if said[key] {
			return d, fmt.Errorf("%s: %s is said twice", d.Name, key)
		}
		said[key] = true
		if err := d.set(key, value); err != nil {
			return d, fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return d, nil
}

// ParseFile reads a file of devices, each of which has a name of its own.
func ParseFile(text []byte) ([]Device, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", len(text), MaxFile)
	}
	var file struct {
		Devices []map[string]any `yaml:"devices"`
	}
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&file); err != nil {
		return nil, fmt.Errorf("%s", firstLine(err))
	}
	if n := len(file.Devices); n == 0 || n > MaxDevices {
		return nil, fmt.Errorf("it lists %d devices, must be 1 to %d", n, MaxDevices)
	}
	var list []Device
	for i, entry := range file.Devices {
		var d Device
		name, ok := entry["name"].(string)
		if d.Name = strings.TrimSpace(name); !ok || d.Name == "" {
			return nil, fmt.Errorf("device %d has no name", i+1)
		}
		if slices.ContainsFunc(list, func(o Device) bool { return o.Name == d.Name }) {
			return nil, fmt.Errorf("%s is in it twice", d.Name)
		}
		keys := make([]string, 0, len(entry))
		for key := range entry {
			keys = append(keys, key)
		}
		slices.Sort(keys) // the same mistake is told every time
		for _, key := range keys {
			if key == "name" {
				continue
			}
			if err := d.set(key, fmt.Sprint(entry[key])); err != nil {
				return nil, fmt.Errorf("%s: %w", d.Name, err)
			}
		}
		list = append(list, d)
	}
	return list, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// keys are what can be said of a device.
const keys = "tokens, prefill, decode, rtt, rate, rate-to, memory, watts, trust, kept"

func (d *Device) set(key, value string) (err error) {
	value = strings.TrimSpace(value)
	switch key {
	case "tokens":
		d.Tokens, err = strconv.Atoi(value)
		if err != nil || d.Tokens < 0 || d.Tokens > 1<<20 {
			return fmt.Errorf("tokens %q: must be a whole number, at most %d", value, 1<<20)
		}
	case "prefill":
		d.Prefill, err = number(key, value, "tokens a second")
	case "decode":
		d.Decode, err = number(key, value, "tokens a second")
	case "watts":
		d.Watts, err = number(key, value, "watts")
	case "rtt":
		d.RTT, err = time.ParseDuration(value)
		if err != nil || d.RTT < 0 || d.RTT > time.Minute {
			return fmt.Errorf("rtt %q: must be a time such as 2ms, at most a minute", value)
		}
		d.HasRTT = true
	case "rate":
		d.Rate, err = Bits(value)
	case "rate-to":
		d.RateTo, err = Bits(value)
	case "memory":
		d.Memory, err = memory(value)
	case "trust":
		if value != "rows" && value != "home" {
			return fmt.Errorf("trust %q: must be rows or home", value)
		}
		d.Home = value == "home"
	case "kept":
		switch value {
		case "", "true":
			d.Kept = true
		case "false":
			d.Kept = false
		default:
			return fmt.Errorf("kept %q: must be true or false", value)
		}
	default:
		return fmt.Errorf("nothing is called %q; known are %s", key, keys)
	}
	return err
}

func number(key, value, unit string) (float64, error) {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || !(n > 0) || n > 1e9 {
		return 0, fmt.Errorf("%s %q: must be a number of %s", key, value, unit)
	}
	return n, nil
}

// Bits reads a rate such as 100Mbit, 1.5Gbit or 250000.
func Bits(value string) (float64, error) {
	for _, unit := range []struct {
		suffix string
		bits   float64
	}{{"kbit", 1e3}, {"Mbit", 1e6}, {"Gbit", 1e9}, {"", 1}} {
		text, ok := strings.CutSuffix(strings.TrimSuffix(value, "/s"), unit.suffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(text, 64); err == nil && n > 0 && !math.IsInf(n*unit.bits, 0) {
			return n * unit.bits, nil
		}
	}
	return 0, fmt.Errorf("rate %q: must be bits a second such as 100Mbit or 1Gbit", value)
}

func memory(value string) (int64, error) {
	for _, unit := range []struct {
		suffix string
		bytes  float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"GB", 1e9}, {"MB", 1e6}, {"", 1}} {
		text, ok := strings.CutSuffix(value, unit.suffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(text, 64); err == nil && n > 0 && n*unit.bytes < 1<<60 {
			return int64(n * unit.bytes), nil
		}
	}
	return 0, fmt.Errorf("memory %q: must be bytes such as 4GB", value)
}
