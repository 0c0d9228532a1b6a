package transport

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fedattn/fedkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newIdentity(t testing.TB) Identity {
	t.Helper()
	identity, err := NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// listenLoopback starts an endpoint on a real socket that lives as long as the test.
func listenLoopback(t testing.TB, config Config) *Endpoint {
	t.Helper()
	if config.Identity.ID() == "" {
		config.Identity = newIdentity(t)
	}
	if config.Listen == "" {
		config.Listen = "127.0.0.1:0"
	}
	e, err := Listen(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func addressOf(e *Endpoint) PeerAddress {
	return PeerAddress{ID: e.ID(), HostPort: e.Addr().String()}
}

// connect dials from a to b and returns both ends.
func connect(t testing.TB, a, b *Endpoint) (fromA, fromB *Peer) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	fromA, err := a.Dial(ctx, addressOf(b))
	if err != nil {
		t.Fatal(err)
	}
	fromB, err = b.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return fromA, fromB
}

func within(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// blockOf is a valid header for length bytes.
func blockOf(layer, length int) fedkv.BlockHeader {
	return fedkv.BlockHeader{
		Session: fedkv.SessionID{1},
		Layer:   layer,
		Rows:    1,
		Types:   fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0},
		Length:  length,
	}
}

// pattern is bytes that differ from block to block and from place to place.
func pattern(seed, length int) []byte {
	data := make([]byte, length)
	state := uint32(seed)*2654435761 + 1
	for i := range data {
		state = state*1664525 + 1013904223
		data[i] = byte(state >> 24)
	}
	return data
}

// eventLog collects what an endpoint notifies.
type eventLog struct {
	mu   sync.Mutex
	list []Event
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

// events returns those so far, except about the socket: they depend on the machine.
func (l *eventLog) events() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Event
	for _, e := range l.list {
		if e.Kind != EventSocket {
			list = append(list, e)
		}
	}
	return list
}

func anyBlock(fedkv.BlockHeader) error { return nil }
