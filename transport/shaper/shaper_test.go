package shaper

import (
	"encoding/binary"
	"math"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What is said of a path happens to that share of packets, and equal seeds decide equally.
func TestSharesAndSeeds(t *testing.T) {
	const n = 20000
	path := Path{Loss: 0.1, Handshake: 0.3, Reorder: 0.25}
	decide := func(seed uint64) (fates [lostQueue + 1]int, overtaken int, trace []fate) {
		l := newLane(path, seed, 0)
		for i := range n {
			data := []byte{0x40}
			if i%2 == 0 {
				data[0] |= 0x80
			}
			_, over, f := l.packet(time.Duration(i)*time.Millisecond, data)
			fates[f]++
			trace = append(trace, f)
			if over {
				overtaken++
			}
		}
		return
	}
	fates, overtaken, trace := decide(7)
	near := func(what string, got int, want float64) {
		if math.Abs(float64(got)-want) > 5*math.Sqrt(want) {
			t.Errorf("%s: %d packets, want about %.0f", what, got, want)
		}
	}
	near("handshakes", fates[lostHandshake], n/2*0.3)
	near("lost", fates[lost], (n/2*0.7+n/2)*0.1)
	near("overtaken", overtaken, float64(fates[passes])*0.25)
	again, _, sameTrace := decide(7)
	other, _, _ := decide(8)
	if again != fates || other == fates {
		t.Error("the seed does not decide")
	}
	for i := range trace {
		if trace[i] != sameTrace[i] {
			t.Fatalf("packet %d has two fates", i)
		}
	}
}

func TestRateAndQueue(t *testing.T) {
	l := newLane(Path{Rate: 1000, Queue: 500, Delay: time.Second}, 1, 0)
	data := make([]byte, 100)
	for i, want := range []time.Duration{1100, 1200, 1300, 1400, 1500, 1600} {
		if at, _, f := l.packet(0, data); f != passes || at != want*time.Millisecond {
			t.Errorf("packet %d: at %v, fate %d, want %v", i, at, f, want*time.Millisecond)
		}
	}
	if _, _, f := l.packet(0, data); f != lostQueue {
		t.Errorf("more than the queue holds: fate %d", f)
	}
	if at, _, f := l.packet(10*time.Second, data); f != passes || at != 11100*time.Millisecond {
		t.Errorf("after a pause: at %v, fate %d", at, f)
	}
}

func TestUpAndDown(t *testing.T) {
	l := newLane(Path{Up: 5 * time.Second, Down: 2 * time.Second}, 1, 0)
	for at, want := range map[time.Duration]fate{0: passes, 4999: passes, 5000: lostDown, 6999: lostDown, 7000: passes, 12500: lostDown} {
		if _, _, f := l.packet(at*time.Millisecond, []byte{0}); f != want {
			t.Errorf("at %v ms: fate %d, want %d", int(at), f, want)
		}
	}
}

func TestParsePath(t *testing.T) {
	for _, text := range []string{
		"clear", "loss=5%", "loss=1%,handshake=30%,reorder=25%,delay=10ms,up=5s,down=2s,rate=12500000,queue=65536",
	} {
		read := text
		if text == "clear" {
			read = ""
		}
		p, err := ParsePath(read)
		if err != nil || p.String() != text {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	if p, err := ParsePath("loss=0.5"); err != nil || p.Loss != 0.5 {
		t.Errorf("%v, %v", p, err)
	}
	for _, text := range []string{"loss", "loss=x", "loss=101%", "loss=-1", "loss=NaN", "delay=1", "delay=-1s", "rate=-1", "down=2s", "speed=1"} {
		if p, err := ParsePath(text); err == nil {
			t.Errorf("%s is read as %v", text, p)
		}
	}
}

// echo answers each packet with its sender's port.
func echo(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, maxPacket)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(binary.BigEndian.AppendUint16(buffer[:n:n], from.Port()), from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func dial(t *testing.T, p *Proxy) *net.UDPConn {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// ask sends a packet and returns the port from which the target saw it.
func ask(t *testing.T, c *net.UDPConn, text string) uint16 {
	t.Helper()
	buffer := make([]byte, 100)
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(buffer)
	if err != nil || string(buffer[:n-2]) != text {
		t.Fatalf("%q, %v", buffer[:n], err)
	}
	return binary.BigEndian.Uint16(buffer[n-2 : n])
}

func TestProxy(t *testing.T) {
	target := echo(t)
	p, err := Start("127.0.0.1:0", target.LocalAddr().String(), Path{Delay: 2 * time.Millisecond}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	a, b := dial(t, p), dial(t, p)
	begin := time.Now()
	portA, portB := ask(t, a, "one"), ask(t, b, "two")
	if took := time.Since(begin); took < 8*time.Millisecond {
		t.Errorf("two round trips took %v", took)
	}
	if portA == portB || ask(t, a, "three") != portA {
		t.Error("clients are mixed up")
	}
	p.Rebind()
	if ask(t, a, "four") == portA {
		t.Error("a client was not moved")
	}
	if c := p.Counts(); c.Passed != 8 || c.Rebinds != 2 || c.Faults() != 2 {
		t.Errorf("counts %+v", c)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestProxyThatLosesEverything(t *testing.T) {
	p, err := Start("127.0.0.1:0", echo(t).LocalAddr().String(), Path{Loss: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := dial(t, p)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	for p.Counts().Lost == 0 {
		time.Sleep(time.Millisecond)
	}
	if got := p.Counts(); got.Passed != 0 || got.Lost != 1 {
		t.Errorf("%+v", got)
	}
}
