package transport

import (
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// A node under attack (make test-release): openings of handshakes that nobody finishes, devices that are not on the
// owner's list, and one that is and takes all that a peer can take. What is promised: memory stays bounded, and an honest
// peer's worst hundredth of round trips takes at most twice as long as without them.
//
// FEDATTN_FLOOD is how long the attack lasts; without it there is none.

const (
	floodOpenings   = 1000     // per second, of handshakes that nobody finishes
	floodStrangers  = 5        // per second, who finish them and are refused
	floodMemory     = 64 << 20 // bytes of heap that an attack may add, the attackers' own included
	floodLeast      = 5 * time.Millisecond
	capturedFirsts  = 400
	honestBlock     = 64 << 10
	honestIntervals = 20 * time.Millisecond
)

func TestFlood(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv("FEDATTN_FLOOD"))
	if err != nil {
		t.Skip("make test-release runs it")
	}
	honest, guest := newIdentity(t), newIdentity(t)
	var refused atomic.Int64
	victim := listenLoopback(t, Config{
		Allow: func(id ID) error {
			if id == honest.ID() || id == guest.ID() {
				return nil
			}
			refused.Add(1)
			return fedkv.Errorf(fedkv.CodeForbidden, "not on the list")
		},
	})
	from, to := connect(t, listenLoopback(t, Config{Identity: honest}), victim)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	firsts := firstPackets(t, victim)
	before, goroutines := heap(), runtime.NumGoroutine()
	quiet := roundTrips(t, from, to, min(lasts, 10*time.Second))

	attack, stop := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	var opened atomic.Int64
	attackers.Go(func() { openAndLeave(t, attack, victim, firsts, &opened) })
	attackers.Go(func() { beRefused(attack, t, victim) })
	greedy := beGreedy(t, victim, guest)
	var most uint64
	attackers.Go(func() {
		for attack.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			time.Sleep(100 * time.Millisecond)
		}
	})
	flooded := roundTrips(t, from, to, lasts)
	stop()
	attackers.Wait()
	if err := greedy.Err(); err != nil {
		t.Logf("the greedy peer was cut off: %v", err)
	}
	greedy.Close(0, "")
	held := victim.handshakes.Load()
	quiet = append(quiet, roundTrips(t, from, to, min(lasts, 10*time.Second))...) // other work on this machine comes and goes

	calm, worst := p99(quiet), p99(flooded)
	t.Logf("T12: %v, %d openings, %d devices refused, %d handshakes in flight at the end, heap at most %d MiB (%d before), p99 %v, without attack %v (%d and %d round trips)",
		lasts, opened.Load(), refused.Load(), held, most>>20, before>>20, worst, calm, len(flooded), len(quiet))
	if opened.Load() < int64(lasts.Seconds()*floodOpenings/4) || refused.Load() == 0 {
		t.Error("INVALID: there was no attack worth the name")
	}
	if most > before+floodMemory {
		t.Errorf("the heap grew from %d to %d MiB", before>>20, most>>20)
	}
	if worst > max(2*calm, floodLeast) {
		t.Errorf("p99 is %v, without attack %v", worst, calm)
	}
	for deadline := time.Now().Add(2 * HandshakeTimeout); victim.handshakes.Load() > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d handshakes are left behind", victim.handshakes.Load())
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines+20 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

// roundTrips is how long a block and the answer to a message behind it take, again and again.
func roundTrips(t *testing.T, from, to *Peer, lasts time.Duration) (list []time.Duration) {
	t.Helper()
	ctx := within(t, lasts+time.Minute)
	payload := pattern(1, honestBlock)
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(honestIntervals) {
		begin := time.Now()
		sent := make(chan error, 1)
		go func() { sent <- from.SendBlock(ctx, blockOf(0, honestBlock), payload) }()
		_, buffer, err := to.AcceptBlock(ctx, anyBlock)
		if err != nil {
			t.Fatalf("an honest block: %v", err)
		}
		buffer.Release()
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if _, err := from.Ping(ctx); err != nil {
			t.Fatalf("an honest message: %v", err)
		}
		list = append(list, time.Since(begin))
	}
	return list
}

func p99(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)*99/100]
}

// firstPackets are those of handshakes, from connections that got no answer.
func firstPackets(t *testing.T, victim *Endpoint) (list [][]byte) {
	t.Helper()
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	dialler := quic.Transport{Conn: socket}
	defer dialler.Close()
	certificate, err := selfSigned(newIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2048)
	for range capturedFirsts {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if conn, err := dialler.Dial(ctx, deaf.LocalAddr(), dialTLS(certificate, alpn, victim.ID()), Config{}.dialQUIC()); err == nil {
				conn.CloseWithError(0, "")
			}
		}()
		n, _, err := deaf.ReadFrom(buffer)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, slices.Clone(buffer[:n]))
		cancel()
		<-done
	}
	return list
}

// openAndLeave opens handshakes from many addresses and goes on with none.
func openAndLeave(t *testing.T, ctx context.Context, victim *Endpoint, firsts [][]byte, opened *atomic.Int64) {
	var sockets []net.PacketConn
	for range 32 {
		s, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		sockets = append(sockets, s)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for range floodOpenings / 100 {
			if _, err := sockets[i%len(sockets)].WriteTo(firsts[i%len(firsts)], victim.Addr()); err == nil {
				opened.Add(1)
			}
			i++
		}
	}
}

// beRefused finishes handshakes with keys that nobody knows.
func beRefused(ctx context.Context, t *testing.T, victim *Endpoint) {
	stranger, err := Listen(Config{Identity: newIdentity(t), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Error(err)
		return
	}
	defer stranger.Close()
	for ctx.Err() == nil {
		if p, err := stranger.Dial(ctx, addressOf(victim)); err == nil {
			t.Error("a stranger was let in")
			p.Close(0, "")
		}
		select {
		case <-time.After(time.Second / floodStrangers):
		case <-ctx.Done():
		}
	}
}

// beGreedy is a peer on the list that begins all the blocks that it may and ends none, and fills every window.
func beGreedy(t *testing.T, victim *Endpoint, identity Identity) *Peer {
	t.Helper()
	p, _ := connect(t, listenLoopback(t, Config{Identity: identity}), victim)
	for range MaxIncomingBlocks {
		stream, err := p.conn.OpenUniStream()
		if err != nil {
			t.Fatal(err)
		}
		go func() { // until the connection ends: nobody reads it
			payload := make([]byte, 1<<20)
			for {
				if _, err := stream.Write(payload); err != nil {
					return
				}
			}
		}()
	}
	if stream, err := p.conn.OpenUniStream(); err == nil {
		stream.Close()
		t.Error("more streams than a peer may open")
	}
	return p
}
