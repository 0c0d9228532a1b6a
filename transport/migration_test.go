package transport

import (
	"bytes"
	"testing"
	"time"

	"fedattn/transport/shaper"
)

// through starts a proxy before an endpoint and returns the address to dial.
func through(t testing.TB, e *Endpoint, path shaper.Path) (*shaper.Proxy, PeerAddress) {
	t.Helper()
	p, err := shaper.Start("127.0.0.1:0", e.Addr().String(), path, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, PeerAddress{ID: e.ID(), HostPort: p.Addr()}
}

// A device that dialled keeps its connection when its address changes: in the middle of blocks in both directions, and
// again while nothing is under way but keep-alives.
func TestADiallersAddressMayChange(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	proxy, at := through(t, b, shaper.Path{Rate: 20 << 20})
	ctx := within(t, 30*time.Second)
	fromA, err := a.Dial(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	fromB, err := b.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := fromB.Addr()
	const blocks, length = 12, 1 << 20
	sent := make(chan error, 2)
	for i, peers := range [][2]*Peer{{fromA, fromB}, {fromB, fromA}} {
		go func() {
			var err error
			for n := range blocks {
				if err == nil {
					err = peers[0].SendBlock(ctx, blockOf(n, length), pattern(i+n, length))
				}
			}
			sent <- err
		}()
	}
	for n := range blocks {
		if n == 3 || n == 7 {
			proxy.Rebind()
		}
		for i, to := range []*Peer{fromB, fromA} {
			h, buffer, err := to.AcceptBlock(ctx, anyBlock)
			if err != nil {
				t.Fatalf("block %d towards %d: %v", n, i, err)
			}
			if !bytes.Equal(buffer.Bytes(), pattern(i+h.Layer, length)) {
				t.Errorf("block %d towards %d is another one", n, i)
			}
			buffer.Release()
		}
	}
	for range 2 {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	if fromB.Addr() == before {
		t.Error("the acceptor does not see the new address")
	}
	proxy.Rebind()
	time.Sleep(2 * a.config.Profile.KeepAlive()) // a keep-alive is what tells the acceptor where to answer
	if _, err := fromB.Ping(ctx); err != nil {
		t.Errorf("after a change in silence: %v", err)
	}
	if c := proxy.Counts(); c.Rebinds != 3 {
		t.Errorf("%d changes of address, want 3", c.Rebinds)
	}
}
