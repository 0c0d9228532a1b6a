package shaper

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Link is a path by the name that people give it, such as 100mbit/2ms: rate in each direction, round trip and, if any,
// loss. The zero value is Loopback.
type Link struct {
	Name string
	Path Path
}

// Loopback is the name of a link that nothing is done to.
const Loopback = "loopback"

// rateUnits are what the rate of a link may be given in, bits a second.
var rateUnits = []struct {
	suffix string
	bits   float64
}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}}

// ParseLink reads loopback, or RATE/RTT or RATE/RTT/LOSS as in 1gbit/0.3ms, 20mbit/10ms/1%. Half of the round trip is the
// delay of each direction.
func ParseLink(text string) (Link, error) {
	if text == Loopback {
		return Link{Name: text}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return Link{}, fmt.Errorf("link %q: must be loopback, or rate/round trip[/loss] such as 100mbit/2ms or 20mbit/10ms/1%%", text)
	}
	l := Link{Name: text}
	for _, u := range rateUnits {
		number, ok := strings.CutSuffix(strings.ToLower(parts[0]), u.suffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(number, 64); err == nil && n > 0 && n*u.bits/8 >= 1 && n*u.bits < 1e15 {
			l.Path.Rate = int64(n * u.bits / 8)
		}
	}
	if l.Path.Rate == 0 {
		return Link{}, fmt.Errorf("link %q: the rate must be such as 20mbit or 1gbit", text)
	}
	rtt, err := time.ParseDuration(parts[1])
	if err != nil || rtt < 0 || rtt > time.Minute {
		return Link{}, fmt.Errorf("link %q: the round trip must be a time such as 2ms, at most a minute", text)
	}
	l.Path.Delay = rtt / 2
	if len(parts) == 3 {
		if l.Path.Loss, err = parseShare(parts[2]); err != nil {
			return Link{}, fmt.Errorf("link %q: the loss %w", text, err)
		}
	}
	return l, nil
}

// Clear reports whether nothing is done to the link.
func (l Link) Clear() bool { return l.Path == Path{} }

func (l Link) String() string {
	if l.Name == "" {
		return Loopback
	}
	return l.Name
}
