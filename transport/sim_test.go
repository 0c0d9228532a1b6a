package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"fedattn/fedkv"
)

// network is a simulated one: every packet takes 1 ms, some are lost, and all are while it is cut.
type network struct {
	simnet.PerfectRouter
	net  *simnet.Simnet
	loss float64

	mu    sync.Mutex
	seed  *rand.Rand
	nodes int

	cut     atomic.Bool
	packets atomic.Int64
	dropped atomic.Int64
}

const simRTT = 2 * time.Millisecond

func (n *network) SendPacket(p simnet.Packet) error {
	n.packets.Add(1)
	n.mu.Lock()
	lost := n.seed.Float64() < n.loss
	n.mu.Unlock()
	if lost || n.cut.Load() {
		n.dropped.Add(1)
		return nil
	}
	return n.PerfectRouter.SendPacket(p)
}

// simulate runs a test in virtual time on a network that loses this share of all packets. Everything that
// was started must have ended when it returns.
func simulate(t *testing.T, loss float64, run func(t *testing.T, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &network{loss: loss, seed: rand.New(rand.NewPCG(1, 2))}
		n.net = &simnet.Simnet{Router: n}
		run(t, n)
		if loss > 0 && n.dropped.Load() == 0 {
			t.Errorf("INVALID: none of %d packets was lost", n.packets.Load())
		}
	})
}

// conn adds a device. All are added before start.
func (n *network) conn() *simnet.SimConn {
	n.nodes++
	addr := &net.UDPAddr{IP: net.IPv4(10, 0, 0, byte(n.nodes)).To4(), Port: 7000} // the simulation compares bytes
	return n.net.NewEndpoint(addr, simnet.NodeBiDiLinkSettings{Latency: simRTT / 2})
}

func (n *network) endpoint(t *testing.T, config Config) *Endpoint {
	t.Helper()
	config.Conn = n.conn()
	return listenLoopback(t, config)
}

func (n *network) start(t *testing.T) {
	t.Helper()
	if err := n.net.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.net.Close() })
}

// pair is two devices in connection. On a bad network it may take several attempts.
func (n *network) pair(t *testing.T, config Config) (fromA, fromB *Peer) {
	t.Helper()
	socketA, socketB := n.conn(), n.conn()
	n.start(t)
	config.Conn = socketA
	a := listenLoopback(t, config)
	config.Conn = socketB
	b := listenLoopback(t, config)
	for attempt := range 10 {
		p, err := a.Dial(t.Context(), addressOf(b))
		if err != nil {
			if n.loss == 0 || !errors.Is(err, ErrUnreachable) {
				t.Fatal(err)
			}
			continue
		}
		if attempt > 0 {
			t.Logf("connected at attempt %d", attempt+1)
		}
		for {
			other, err := b.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if other.Err() == nil {
				return p, other
			}
		}
	}
	t.Fatal("no connection in 10 attempts")
	return nil, nil
}

func TestSimTransfer(t *testing.T) {
	const size = 4 << 20
	for _, c := range []struct {
		loss  float64
		limit time.Duration
	}{
		{0, 200 * time.Millisecond},
		{0.01, 3 * time.Second},
		{0.10, 20 * time.Second},
		{0.30, 3 * time.Minute},
	} {
		t.Run(fmt.Sprintf("%g%%", 100*c.loss), func(t *testing.T) {
			simulate(t, c.loss, func(t *testing.T, n *network) {
				fromA, fromB := n.pair(t, Config{})
				want := pattern(1, size)
				begin := time.Now()
				sent := make(chan error, 1)
				go func() { sent <- fromA.SendBlock(t.Context(), blockOf(0, size), want) }()
				_, buffer, err := fromB.AcceptBlock(t.Context(), anyBlock)
				if err != nil {
					t.Fatal(err)
				}
				defer buffer.Release()
				took := time.Since(begin)
				t.Logf("4 MiB at %g %% loss, %v round trip: %v, %d of %d packets lost",
					100*c.loss, simRTT, took, n.dropped.Load(), n.packets.Load())
				if !bytes.Equal(buffer.Bytes(), want) {
					t.Error("the block arrived changed")
				}
				if took > c.limit {
					t.Errorf("it took %v, want at most %v", took, c.limit)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A dead peer is noticed within the idle time and 10 %, whether the connection was quiet or busy.
func TestSimIdleDetection(t *testing.T) {
	for _, profile := range []Profile{LAN, WAN} {
		for _, busy := range []bool{false, true} {
			for _, quiet := range []time.Duration{0, 130 * time.Millisecond, 499 * time.Millisecond, 777 * time.Millisecond, 5 * time.Second} {
				t.Run(fmt.Sprintf("%v/busy=%t/after %v", profile, busy, quiet), func(t *testing.T) {
					simulate(t, 0, func(t *testing.T, n *network) {
						fromA, fromB := n.pair(t, Config{Profile: profile})
						time.Sleep(quiet)
						failed := make(chan error, 1)
						if busy {
							go func() {
								const size = 60 << 20
								failed <- fromA.SendBlock(t.Context(), blockOf(0, size), make([]byte, size))
							}()
							go fromB.AcceptBlock(t.Context(), anyBlock)
							time.Sleep(20 * time.Millisecond)
						}
						n.cut.Store(true)
						begin := time.Now()
						for name, p := range map[string]*Peer{"a": fromA, "b": fromB} {
							<-p.Context().Done()
							took := time.Since(begin)
							t.Logf("%s noticed after %v: %v", name, took, p.Err())
							limit := profile.Idle()*11/10 + simRTT/2 // a packet may have been on its way
							if busy {
								// a sender whose window is full has to wait for its probe timer before it
								// sends the packet from which QUIC counts
								limit += profile.Idle() / 10
							}
							if took > limit {
								t.Errorf("%s noticed after %v, want at most %v", name, took, limit)
							}
							if !errors.Is(p.Err(), fedkv.ErrLost) || !strings.Contains(p.Err().Error(), "no sign of life") {
								t.Errorf("the cause is %v", p.Err())
							}
						}
						if busy {
							if err := <-failed; !errors.Is(err, fedkv.ErrLost) {
								t.Errorf("SendBlock: %v", err)
							}
						}
						if n.dropped.Load() == 0 {
							t.Error("INVALID: nothing was cut")
						}
					})
				})
			}
		}
	}
}

// A partition of half the idle time is survived, by a quiet connection and by a block on its way.
func TestSimShortPartition(t *testing.T) {
	for _, profile := range []Profile{LAN, WAN} {
		t.Run(profile.String(), func(t *testing.T) {
			simulate(t, 0, func(t *testing.T, n *network) {
				fromA, fromB := n.pair(t, Config{Profile: profile})
				cut := func() {
					n.cut.Store(true)
					time.Sleep(profile.Idle() / 2)
					n.cut.Store(false)
				}
				time.Sleep(777 * time.Millisecond)
				cut()
				time.Sleep(profile.Idle())

				const size = 8 << 20
				want := pattern(1, size)
				sent := make(chan error, 1)
				go func() { sent <- fromA.SendBlock(t.Context(), blockOf(0, size), want) }()
				time.AfterFunc(20*time.Millisecond, cut)
				begin := time.Now()
				_, buffer, err := fromB.AcceptBlock(t.Context(), anyBlock)
				if err != nil {
					t.Fatal(err)
				}
				defer buffer.Release()
				t.Logf("8 MiB with %v of partition: %v", profile.Idle()/2, time.Since(begin))
				if !bytes.Equal(buffer.Bytes(), want) {
					t.Error("the block arrived changed")
				}
				if n.dropped.Load() == 0 {
					t.Error("INVALID: nothing was cut")
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestSimUnreachable(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		a := n.endpoint(t, Config{})
		n.start(t)
		nobody := PeerAddress{ID: newIdentity(t).ID(), HostPort: "10.0.0.99:7000"}
		for _, limit := range []time.Duration{time.Minute, time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			begin := time.Now()
			_, err := a.Dial(ctx, nobody)
			took := time.Since(begin)
			cancel()
			t.Logf("after %v: %v", took, err)
			if !errors.Is(err, ErrUnreachable) || !errors.Is(err, fedkv.ErrLost) || !strings.Contains(err.Error(), "10.0.0.99:7000") {
				t.Errorf("error %v, want ErrUnreachable", err)
			}
			if want := min(limit, HandshakeTimeout); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
		}
		// A minute without anybody costs nothing: the place was given back.
		if a.total != 0 {
			t.Errorf("%d places are still taken", a.total)
		}
	})
}

// Many blocks at once into a receiver that takes one at a time.
func TestSimOneReaderManyWriters(t *testing.T) {
	for _, loss := range []float64{0, 0.02} {
		t.Run(fmt.Sprintf("%g%%", 100*loss), func(t *testing.T) {
			simulate(t, loss, func(t *testing.T, n *network) {
				fromA, fromB := n.pair(t, Config{})
				const blocks, size = MaxIncomingBlocks + 4, 1 << 20
				var writers sync.WaitGroup
				for i := range blocks {
					writers.Go(func() {
						if err := fromA.SendBlock(t.Context(), blockOf(i, size), pattern(i, size)); err != nil {
							t.Error(err)
						}
					})
				}
				begin := time.Now()
				for range blocks {
					header, buffer, err := fromB.AcceptBlock(t.Context(), anyBlock)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(buffer.Bytes(), pattern(header.Layer, size)) {
						t.Errorf("block %d arrived changed", header.Layer)
					}
					buffer.Release()
				}
				t.Logf("%d blocks of 1 MiB: %v", blocks, time.Since(begin))
				writers.Wait()
			})
		})
	}
}

// Control messages overtake a block that fills the link.
func TestSimMessagesOvertakeBlocks(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		fromA, fromB := n.pair(t, Config{})
		const size = 60 << 20
		go fromA.SendBlock(t.Context(), blockOf(0, size), make([]byte, size))
		go fromB.AcceptBlock(t.Context(), anyBlock)
		time.Sleep(20 * time.Millisecond)
		rtt, err := fromA.Ping(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a ping beside a block: %v", rtt)
		if rtt > 100*time.Millisecond {
			t.Errorf("a ping beside a block took %v", rtt)
		}
	})
}

// Payload memory is a budget: a block waits for it, and goes on when another is released.
func TestSimStagingBudget(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		fromA, fromB := n.pair(t, Config{MaxStaging: 3 << 20})
		const size = 1<<20 + 1 // takes 2 MiB
		for i := range 2 {
			go fromA.SendBlock(t.Context(), blockOf(i, size), pattern(i, size))
		}
		_, first, err := fromB.AcceptBlock(t.Context(), anyBlock)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		time.AfterFunc(time.Minute, first.Release)
		header, next, err := fromB.AcceptBlock(t.Context(), anyBlock)
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begin); waited < time.Minute {
			t.Errorf("a second block had memory after %v", waited)
		}
		if !bytes.Equal(next.Bytes(), pattern(header.Layer, size)) {
			t.Error("the block arrived changed")
		}
		next.Release()

		refused := make(chan error, 1)
		const tooLarge = 8 << 20
		go func() { refused <- fromA.SendBlock(t.Context(), blockOf(0, tooLarge), make([]byte, tooLarge)) }()
		if _, _, err := fromB.AcceptBlock(t.Context(), anyBlock); !errors.Is(err, fedkv.ErrMemory) {
			t.Errorf("a block larger than the budget: %v", err)
		}
		if err := <-refused; !errors.Is(err, fedkv.ErrMemory) {
			t.Errorf("its sender: %v", err)
		}
	})
}

// Closing while blocks are on their way in both directions leaves nothing behind: synctest fails the test
// if a goroutine remains.
func TestSimCloseInMidTransfer(t *testing.T) {
	simulate(t, 0.05, func(t *testing.T, n *network) {
		fromA, fromB := n.pair(t, Config{})
		const size = 30 << 20
		var tasks sync.WaitGroup
		for _, ends := range [][2]*Peer{{fromA, fromB}, {fromB, fromA}} {
			tasks.Go(func() {
				if err := ends[0].SendBlock(t.Context(), blockOf(0, size), make([]byte, size)); err == nil {
					t.Error("the block was sent")
				}
			})
			tasks.Go(func() {
				if _, _, err := ends[1].AcceptBlock(t.Context(), anyBlock); err == nil {
					t.Error("the block was received")
				}
			})
			tasks.Go(func() {
				if _, err := ends[1].Receive(t.Context()); err == nil {
					t.Error("a message was received")
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		fromA.Close(fedkv.CodeCancelled, "the user went away")
		tasks.Wait()
		if lent := fromA.endpoint.staging.lent.Load() + fromB.endpoint.staging.lent.Load(); lent != 0 {
			t.Errorf("%d bytes of buffers are still lent", lent)
		}
	})
}

// A quiet connection survives a bad network: keep-alives are repeated often enough within the idle time.
func TestSimQuietOnLossyNetwork(t *testing.T) {
	simulate(t, 0.1, func(t *testing.T, n *network) {
		fromA, fromB := n.pair(t, Config{})
		time.Sleep(time.Minute)
		if fromA.Err() != nil || fromB.Err() != nil {
			t.Errorf("the connection broke: %v, %v", fromA.Err(), fromB.Err())
		}
	})
}
