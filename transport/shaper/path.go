package shaper

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Path is what happens to packets on their way, in either direction. The zero value lets everything through at once.
type Path struct {
	Loss      float64       // share of packets that are dropped, 0 to 1
	Handshake float64       // share of QUIC's long-header packets, those of handshakes, that are dropped besides
	Reorder   float64       // share of packets that come ReorderBy later than the others, which overtake them
	Delay     time.Duration // one way
	Rate      int64         // bytes per second in each direction, UDP payloads; 0: no limit
	Queue     int64         // bytes that wait where Rate is exceeded, more are dropped; 0: what passes in 50 ms, at least 64 KiB
	Up, Down  time.Duration // for so long packets pass, and for so long none does, by turns; Down 0: always up
}

// ReorderBy is how much later a packet comes that others overtake.
const ReorderBy = 5 * time.Millisecond

// ParsePath reads a list such as "loss=5%,delay=10ms,rate=12500000,reorder=25%,handshake=30%,up=5s,down=2s". Empty is a
// path that does nothing.
func ParsePath(text string) (p Path, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "loss":
			p.Loss, err = parseShare(value)
		case "handshake":
			p.Handshake, err = parseShare(value)
		case "reorder":
			p.Reorder, err = parseShare(value)
		case "delay":
			p.Delay, err = time.ParseDuration(value)
		case "up":
			p.Up, err = time.ParseDuration(value)
		case "down":
			p.Down, err = time.ParseDuration(value)
		case "rate":
			p.Rate, err = strconv.ParseInt(value, 10, 64)
		case "queue":
			p.Queue, err = strconv.ParseInt(value, 10, 64)
		default:
			err = fmt.Errorf("known are loss, handshake, reorder, delay, rate, queue, up, down")
		}
		if err != nil {
			return Path{}, fmt.Errorf("path %q: %w", part, err)
		}
	}
	if p.Delay < 0 || p.Rate < 0 || p.Queue < 0 || p.Up < 0 || p.Down < 0 || p.Down > 0 && p.Up == 0 {
		return Path{}, fmt.Errorf("path %q: a negative value, or down without up", text)
	}
	return p, nil
}

func parseShare(text string) (float64, error) {
	percent := strings.HasSuffix(text, "%")
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if percent {
		n /= 100
	}
	if err == nil && !(n >= 0 && n <= 1) {
		err = fmt.Errorf("must be 0 to 1, or 0%% to 100%%")
	}
	return n, err
}

// String is what ParsePath reads; "clear" for a path that does nothing.
func (p Path) String() string {
	var parts []string
	for _, share := range []struct {
		name string
		n    float64
	}{{"loss", p.Loss}, {"handshake", p.Handshake}, {"reorder", p.Reorder}} {
		if share.n > 0 {
			parts = append(parts, fmt.Sprintf("%s=%g%%", share.name, 100*share.n))
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"delay", p.Delay}, {"up", p.Up}, {"down", p.Down}} {
		if d.d > 0 {
			parts = append(parts, fmt.Sprintf("%s=%v", d.name, d.d))
		}
	}
	if p.Rate > 0 {
		parts = append(parts, fmt.Sprintf("rate=%d", p.Rate))
	}
	if p.Queue > 0 {
		parts = append(parts, fmt.Sprintf("queue=%d", p.Queue))
	}
	if len(parts) == 0 {
		return "clear"
	}
	return strings.Join(parts, ",")
}

// fate is what becomes of a packet.
type fate uint8

const (
	passes fate = iota
	lost
	lostHandshake
	lostDown
	lostQueue
)

// lane decides about the packets of one direction, in their order: equal seeds and equal packets at equal times give
// equal decisions.
type lane struct {
	path   Path
	random *rand.Rand
	free   time.Duration // when the rate lets the next packet begin
}

func newLane(p Path, seed, direction uint64) *lane {
	return &lane{path: p, random: rand.New(rand.NewPCG(seed, direction))}
}

// packet says what becomes of a packet that comes at a time since the start: if it passes, when it arrives, and whether
// others may overtake it. Each packet draws the same numbers, whatever happens to it.
func (l *lane) packet(now time.Duration, data []byte) (at time.Duration, overtaken bool, f fate) {
	p := l.path
	loss, handshake, reorder := l.random.Float64(), l.random.Float64(), l.random.Float64()
	if p.Down > 0 && now%(p.Up+p.Down) >= p.Up {
		return 0, false, lostDown
	}
	if len(data) > 0 && data[0]&0x80 != 0 && handshake < p.Handshake {
		return 0, false, lostHandshake
	}
	if loss < p.Loss {
		return 0, false, lost
	}
	at = now
	if p.Rate > 0 {
		if waits := int64(max(0, l.free-now).Seconds() * float64(p.Rate)); waits > p.queue() {
			return 0, false, lostQueue
		}
		at = l.through(now, len(data))
	}
	at += p.Delay
	if overtaken = reorder < p.Reorder; overtaken {
		at += ReorderBy
	}
	return at, overtaken, passes
}

// through is when the rate has let so many bytes pass that come at a time since the start, behind those before them.
func (l *lane) through(now time.Duration, n int) time.Duration {
	if l.path.Rate == 0 {
		return now
	}
	l.free = max(l.free, now) + time.Duration(float64(n)/float64(l.path.Rate)*float64(time.Second))
	return l.free
}

func (p Path) queue() int64 {
	if p.Queue > 0 {
		return p.Queue
	}
	return max(64<<10, p.Rate/20)
}
