package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fedattn/fedkv"
)

func TestLoopback(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, fromB := connect(t, a, b)
	ctx := within(t, 10*time.Second)

	if fromA.ID() != b.ID() || fromB.ID() != a.ID() {
		t.Errorf("IDs %s and %s, want %s and %s", fromA.ID(), fromB.ID(), b.ID(), a.ID())
	}
	if fromA.Addr() != b.Addr().String() || fromB.Addr() != a.Addr().String() {
		t.Errorf("addresses %s and %s, want %s and %s", fromA.Addr(), fromB.Addr(), b.Addr(), a.Addr())
	}

	session := fedkv.SessionID{1}
	messages := []fedkv.Message{
		fedkv.Ready{Session: session, Tokens: 7},
		fedkv.Done{Session: session, Rows: 3, Bytes: 1 << 40, PrefillMS: 1.5},
		fedkv.Abort{Session: session, Code: fedkv.CodeBusy, Text: "later"},
	}
	for _, ends := range [][2]*Peer{{fromA, fromB}, {fromB, fromA}} {
		for _, m := range messages {
			if err := ends[0].Send(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range messages {
			got, err := ends[1].Receive(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		}
		for i, length := range []int{1, 31, 4096, 4097, 3<<20 + 1} {
			want := pattern(i, length)
			sent := make(chan error, 1)
			go func() { sent <- ends[0].SendBlock(ctx, blockOf(i, length), want[:length/3], nil, want[length/3:]) }()
			header, buffer, err := ends[1].AcceptBlock(ctx, anyBlock)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(blockOf(i, length), header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if !bytes.Equal(buffer.Bytes(), want) {
				t.Errorf("a block of %d bytes arrived changed", length)
			}
			buffer.Release()
			buffer.Release()
			if buffer.Bytes() != nil {
				t.Error("a released buffer still has bytes")
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
	}
	if rtt, err := fromA.Ping(ctx); err != nil || rtt <= 0 {
		t.Errorf("ping: %v, %v", rtt, err)
	}
	stats := fromA.Stats()
	if stats.BytesSent < 3<<20 || stats.BytesReceived < 3<<20 || stats.RTT <= 0 ||
		stats.MessagesReceived != 3 || stats.MessagesSent < 4 {
		t.Errorf("implausible stats %+v", stats)
	}
	for _, e := range []*Endpoint{a, b} {
		if lent := e.staging.lent.Load(); lent != 0 {
			t.Errorf("%d bytes of buffers are still lent", lent)
		}
	}
}

func TestConcurrentBlocks(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, fromB := connect(t, a, b)
	ctx := within(t, 20*time.Second)
	const blocks, length = 64, 100_001
	var tasks sync.WaitGroup
	for i := range blocks {
		tasks.Go(func() {
			if err := fromA.SendBlock(ctx, blockOf(i, length), pattern(i, length)); err != nil {
				t.Error(err)
			}
		})
	}
	var mu sync.Mutex
	seen := map[int]bool{}
	for range 4 {
		tasks.Go(func() {
			for range blocks / 4 {
				header, buffer, err := fromB.AcceptBlock(ctx, anyBlock)
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(buffer.Bytes(), pattern(header.Layer, length)) {
					t.Errorf("block %d arrived changed", header.Layer)
				}
				buffer.Release()
				mu.Lock()
				seen[header.Layer] = true
				mu.Unlock()
			}
		})
	}
	tasks.Wait()
	if len(seen) != blocks {
		t.Errorf("%d different blocks arrived, want %d", len(seen), blocks)
	}
}

func TestClose(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, fromB := connect(t, a, b)
	ctx := within(t, 10*time.Second)
	if err := fromA.Err(); err != nil {
		t.Fatalf("a live connection has the error %v", err)
	}
	var tasks sync.WaitGroup
	for range 3 {
		tasks.Go(func() { fromA.Close(fedkv.CodeBusy, "no room\x1b[31m\nfor you") })
	}
	tasks.Wait()

	var local, remote *CloseError
	if !errors.As(fromA.Err(), &local) || local.Remote || !errors.Is(local, ErrClosed) {
		t.Errorf("own close: %v", fromA.Err())
	}
	_, err := fromB.Receive(ctx)
	if !errors.As(err, &remote) || !remote.Remote || remote.Peer != a.ID() ||
		remote.Code != fedkv.CodeBusy || remote.Text != "no room [31m for you" ||
		!errors.Is(err, fedkv.ErrBusy) || errors.Is(err, ErrClosed) || fedkv.CodeOf(err) != fedkv.CodeBusy {
		t.Errorf("the peer's close: %#v", err)
	}
	<-fromB.Context().Done()
	if cause := context.Cause(fromB.Context()); cause != fromB.Err() {
		t.Errorf("the context's cause is %v, Err is %v", cause, fromB.Err())
	}
	for what, err := range map[string]error{
		"Send":      fromB.Send(ctx, fedkv.Ping{}),
		"SendBlock": fromB.SendBlock(ctx, blockOf(0, 1), []byte{1}),
		"Ping":      second(fromB.Ping(ctx)),
		"AcceptBlock": func() error {
			_, _, err := fromB.AcceptBlock(ctx, anyBlock)
			return err
		}(),
	} {
		if !errors.Is(err, fedkv.ErrBusy) {
			t.Errorf("%s on a closed connection: %v", what, err)
		}
	}
	if err := fromB.Close(0, ""); err != nil || !errors.Is(fromB.Err(), fedkv.ErrBusy) {
		t.Errorf("a later Close changed the cause: %v, %v", err, fromB.Err())
	}
	// Both places are free again.
	for range MaxConnectionsPerPeer {
		connect(t, a, b)
	}
}

func second[A, B any](_ A, b B) B { return b }

func TestEndpointCloseTellsPeers(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, fromB := connect(t, a, b)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Second)
	_, err := fromB.Receive(ctx)
	var closed *CloseError
	if !errors.As(err, &closed) || !closed.Remote || closed.Code != 0 || !errors.Is(err, fedkv.ErrLost) {
		t.Errorf("the other side saw %v", err)
	}
	if !errors.Is(fromA.Err(), ErrClosed) {
		t.Errorf("this side saw %v", fromA.Err())
	}
	if _, err := a.Accept(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("Accept on a closed endpoint: %v", err)
	}
	if _, err := a.Dial(ctx, addressOf(b)); !errors.Is(err, ErrClosed) {
		t.Errorf("Dial on a closed endpoint: %v", err)
	}
}

func TestContexts(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, fromB := connect(t, a, b)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Now())
	defer cancel()
	for what, call := range map[string]func(context.Context) error{
		"Receive": func(ctx context.Context) error { return second(fromA.Receive(ctx)) },
		"Accept":  func(ctx context.Context) error { return second(a.Accept(ctx)) },
		"AcceptBlock": func(ctx context.Context) error {
			_, _, err := fromA.AcceptBlock(ctx, anyBlock)
			return err
		},
		"SendBlock": func(ctx context.Context) error {
			return fromA.SendBlock(ctx, blockOf(0, 64<<20), make([]byte, 64<<20))
		},
	} {
		if err := call(cancelled); !errors.Is(err, context.Canceled) || !errors.Is(err, fedkv.ErrCancelled) {
			t.Errorf("%s, cancelled: %v", what, err)
		}
		if err := call(late); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fedkv.ErrDeadline) {
			t.Errorf("%s, late: %v", what, err)
		}
	}
	if err := second(a.Dial(cancelled, addressOf(b))); !errors.Is(err, fedkv.ErrCancelled) {
		t.Errorf("Dial, cancelled: %v", err)
	}
	if fromA.Err() != nil || fromB.Err() != nil {
		t.Errorf("the connection did not survive: %v, %v", fromA.Err(), fromB.Err())
	}
}

func TestReceiveAfterClose(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, fromB := connect(t, a, b)
	ctx := within(t, 10*time.Second)
	last := fedkv.Ready{Session: fedkv.SessionID{9}, Tokens: 1}
	if err := fromA.Send(ctx, last); err != nil {
		t.Fatal(err)
	}
	if _, err := fromA.Ping(ctx); err != nil { // the message is in b's hands now
		t.Fatal(err)
	}
	fromA.Close(0, "")
	<-fromB.Context().Done()
	if m, err := fromB.Receive(ctx); err != nil || m != fedkv.Message(last) {
		t.Errorf("the last message: %v, %v", m, err)
	}
	if _, err := fromB.Receive(ctx); err != fromB.Err() {
		t.Errorf("after the last message: %v", err)
	}
}

func TestConnectionsPerPeer(t *testing.T) {
	var log eventLog
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{Notify: log.add})
	for range MaxConnectionsPerPeer {
		connect(t, a, b)
	}
	ctx := within(t, 10*time.Second)
	if _, err := a.Dial(ctx, addressOf(b)); !errors.Is(err, fedkv.ErrBusy) {
		t.Errorf("one more Dial: %v", err)
	}
	// The acceptor holds the line on its own: the same identity from elsewhere.
	clone := listenLoopback(t, Config{Identity: a.config.Identity})
	_, err := clone.Dial(ctx, addressOf(b))
	if !errors.Is(err, ErrRefused) || !errors.Is(err, fedkv.ErrBusy) {
		t.Errorf("one more connection from a copy: %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		events := log.events() // the peer hears of it first
		if len(events) == 1 && events[0].Kind == EventRefused && events[0].Peer == a.ID() &&
			strings.Contains(events[0].Text, "already 2 connections") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("events %v, want one refusal", events)
		}
	}
}

func TestPendingPeersAreBounded(t *testing.T) {
	b := listenLoopback(t, Config{})
	ctx := within(t, 20*time.Second)
	for i := range MaxPending + 1 {
		a := listenLoopback(t, Config{})
		p, err := a.Dial(ctx, addressOf(b))
		if i < MaxPending && err != nil {
			t.Fatal(err)
		}
		if i == MaxPending && !errors.Is(err, fedkv.ErrBusy) {
			t.Errorf("one too many: %v, %v", p, err)
		}
	}
	if _, err := b.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	a := listenLoopback(t, Config{})
	if _, err := a.Dial(ctx, addressOf(b)); err != nil {
		t.Errorf("after an Accept there is room again, but: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	a := listenLoopback(t, Config{})
	_, port, _ := net.SplitHostPort(a.Addr().String())
	_, err := Listen(Config{Identity: newIdentity(t), Listen: a.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), port) || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("a port in use: %v", err)
	}
	for _, listen := range []string{"nonsense", "192.0.2.1:0", "127.0.0.1:99999"} {
		if _, err := Listen(Config{Identity: newIdentity(t), Listen: listen}); err == nil || !strings.Contains(err.Error(), "--listen") {
			t.Errorf("%s: %v", listen, err)
		}
	}
	if _, err := Listen(Config{Listen: "127.0.0.1:0"}); err == nil {
		t.Error("an endpoint without an identity")
	}
}

func TestDialByName(t *testing.T) {
	a := listenLoopback(t, Config{})
	b := listenLoopback(t, Config{})
	_, port, _ := net.SplitHostPort(b.Addr().String())
	ctx := within(t, 10*time.Second)
	p, err := a.Dial(ctx, PeerAddress{ID: b.ID(), HostPort: "localhost:" + port})
	if err != nil {
		t.Fatal(err)
	}
	if p.Addr() != b.Addr().String() {
		t.Errorf("reached %s, want %s", p.Addr(), b.Addr())
	}
	for _, where := range []string{"no-such-host.invalid:7", "[::1]:7"} {
		_, err = a.Dial(ctx, PeerAddress{ID: b.ID(), HostPort: where})
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, fedkv.ErrLost) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v", where, err)
		}
	}
}

func TestRestartIsNoticedAtOnce(t *testing.T) {
	a := listenLoopback(t, Config{Profile: WAN})
	b := listenLoopback(t, Config{Profile: WAN})
	fromA, _ := connect(t, a, b)
	// b vanishes without a word, as with kill -9, and comes back at the same port.
	listen := b.Addr().String()
	b.transport.Conn.Close()
	b.Close()
	again := listenLoopback(t, Config{Identity: b.config.Identity, Listen: listen, Profile: WAN})
	begin := time.Now()
	<-fromA.Context().Done()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := fromA.Err(); !errors.Is(err, fedkv.ErrLost) || !strings.Contains(err.Error(), "restarted") {
		t.Errorf("the cause is %v", err)
	}
	connect(t, a, again)
}

func TestSmallBuffersAreReportedOnce(t *testing.T) {
	var events []Event
	e := listenLoopback(t, Config{Notify: func(e Event) { events = append(events, e) }})
	text := smallBuffers(e.socket)
	t.Log(text)
	if text == "" && len(events) == 0 {
		t.Skip("this machine grants all that was asked for")
	}
	if len(events) != 1 || events[0].Kind != EventSocket || events[0].Text != text {
		t.Errorf("events %v, want one with %q", events, text)
	}
}

func ExampleParsePeerAddress() {
	_, err := ParsePeerAddress("raspberrypi:7000")
	fmt.Println(err)
	// Output: the peer address "raspberrypi:7000" has no ID: write ID@host:port
}

// The default socket has both families, and dials and accepts with either.
func TestBothFamilies(t *testing.T) {
	a, b := listenLoopback(t, Config{Listen: ":0"}), listenLoopback(t, Config{Listen: ":0"})
	_, port, _ := net.SplitHostPort(b.Addr().String())
	ctx := within(t, 10*time.Second)
	for _, host := range []string{"127.0.0.1", "::1"} {
		if probe, err := net.ListenPacket("udp", net.JoinHostPort(host, "0")); err != nil {
			t.Logf("this machine has no %s", host)
			continue
		} else {
			probe.Close()
		}
		p, err := a.Dial(ctx, PeerAddress{ID: b.ID(), HostPort: net.JoinHostPort(host, port)})
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		other, err := b.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := net.SplitHostPort(other.Addr()); got != host {
			t.Errorf("the peer came from %s, want %s", got, host)
		}
		p.Close(0, "")
	}
}
