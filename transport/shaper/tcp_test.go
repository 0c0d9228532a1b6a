package shaper

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// listenTCP hands every connection to serve and ends with the test.
func listenTCP(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); tasks.Wait() })
	return l.Addr().String()
}

func echoStream(c net.Conn) { _, _ = io.Copy(c, c) }

func startTCP(t *testing.T, target string, path Path) *TCPProxy {
	t.Helper()
	p, err := StartTCP("127.0.0.1:0", target, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func dialTCP(t *testing.T, p *TCPProxy) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.Addr(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// A stream comes out as it went in, is not faster than its link, and ends when it is ended.
func TestTCPProxy(t *testing.T) {
	const n, rate = 400 << 10, 4 << 20
	p := startTCP(t, listenTCP(t, echoStream), Path{Rate: rate, Delay: 5 * time.Millisecond})
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	c := dialTCP(t, p)
	began := time.Now()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	})
	got, err := io.ReadAll(c)
	sending.Wait()
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes of %d came back, %v", len(got), n, err)
	}
	// the last byte passes each direction's rate behind all others, and both delays
	if took, least := time.Since(began), time.Duration(float64(n)/rate*float64(time.Second))+10*time.Millisecond; took < least {
		t.Errorf("it took %v, the link allows %v", took, least)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// Streams of one direction share its rate, whoever they belong to.
func TestTCPStreamsShareTheRate(t *testing.T) {
	const n, rate = 128 << 10, 4 << 20
	p := startTCP(t, listenTCP(t, func(c net.Conn) {
		got, _ := io.Copy(io.Discard, c)
		_, _ = c.Write([]byte{byte(got >> 16)})
	}), Path{Rate: rate})
	began := time.Now()
	var both sync.WaitGroup
	for range 2 {
		c := dialTCP(t, p)
		both.Go(func() {
			_, _ = c.Write(make([]byte, n))
			_ = c.CloseWrite()
			if answer, err := io.ReadAll(c); err != nil || len(answer) != 1 || answer[0] != n>>16 {
				t.Errorf("the target saw %v, %v", answer, err)
			}
		})
	}
	both.Wait()
	if took, least := time.Since(began), time.Duration(2*float64(n)/rate*float64(time.Second)); took < least {
		t.Errorf("two streams took %v, their link allows %v", took, least)
	}
}

// Whoever sends to somebody who reads nothing waits: the proxy holds no more than its link has on the way.
func TestTCPProxyHoldsBack(t *testing.T) {
	path := Path{Rate: 1 << 30}
	hold := make(chan struct{})
	defer close(hold)
	p := startTCP(t, listenTCP(t, func(net.Conn) { <-hold }), path)
	c := dialTCP(t, p)
	_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	sent := 0
	for {
		n, err := c.Write(make([]byte, 1<<20))
		sent += n
		if err != nil {
			break
		}
		if sent > 1<<30 {
			t.Fatal("a GiB went to somebody who reads nothing")
		}
	}
	if most := int(path.inFlight()) + 64<<20; sent > most { // and what the four sockets hold
		t.Errorf("%d bytes were taken, %d are on their way at most", sent, most)
	}
}

// A target that is not there, or goes away, ends the client's stream.
func TestTCPTargetGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	for _, target := range []string{nobody, listenTCP(t, func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 4)) })} {
		c := dialTCP(t, startTCP(t, target, Path{Delay: time.Millisecond}))
		_, _ = c.Write([]byte("four"))
		_, err := io.ReadAll(c)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestTCPRefusesLoss(t *testing.T) {
	for _, path := range []Path{{Loss: 0.1}, {Reorder: 0.1}, {Up: time.Second, Down: time.Second}} {
		if p, err := StartTCP("127.0.0.1:0", "127.0.0.1:1", path); err == nil {
			p.Close()
			t.Errorf("%v is taken", path)
		}
	}
}

func TestParseLink(t *testing.T) {
	for text, want := range map[string]Path{
		"loopback":         {},
		"1gbit/0.3ms":      {Rate: 125_000_000, Delay: 150 * time.Microsecond},
		"100mbit/2ms":      {Rate: 12_500_000, Delay: time.Millisecond},
		"2.5Mbit/600ms/1%": {Rate: 312_500, Delay: 300 * time.Millisecond, Loss: 0.01},
		"64kbit/0s":        {Rate: 8000},
	} {
		l, err := ParseLink(text)
		if err != nil || l.Path != want || l.String() != text || l.Clear() != (text == Loopback) {
			t.Errorf("%s: %+v, %v", text, l, err)
		}
	}
	if (Link{}).String() != Loopback {
		t.Error("no link has another name than loopback")
	}
	for _, text := range []string{"", "lan", "100mbit", "100/2ms", "0mbit/2ms", "-1mbit/2ms", "NaNmbit/1ms", "1gbit/2", "1gbit/-1ms", "1gbit/2m", "1gbit/1ms/2", "1gbit/1ms/1%/x"} {
		if l, err := ParseLink(text); err == nil {
			t.Errorf("%q is read as %+v", text, l)
		}
	}
}
