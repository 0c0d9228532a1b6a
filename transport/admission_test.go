package transport

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// A client may pass the handshake and then say nothing, open a stream without a word, or talk nonsense. It
// is turned away in time, and takes no place from others.
func TestStalledOpenings(t *testing.T) {
	for name, c := range map[string]struct {
		open   []byte
		code   fedkv.Code
		within time.Duration // virtual
	}{
		"silent":         {nil, fedkv.CodeDeadline, HandshakeTimeout + 10*simRTT},
		"half a header":  {[]byte{0, 0}, fedkv.CodeDeadline, HandshakeTimeout + 10*simRTT},
		"another first":  {frame(t, fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 1}), fedkv.CodeProtocol, 10 * simRTT},
		"a reply first":  {frame(t, fedkv.Ping{Nonce: 1, Reply: true}), fedkv.CodeProtocol, 10 * simRTT},
		"a huge message": {[]byte{0xff, 0xff, 0xff, 0xff, 0, 1}, fedkv.CodeProtocol, 10 * simRTT},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, 0, func(t *testing.T, n *network) {
				certificate, err := selfSigned(newIdentity(t))
				if err != nil {
					t.Fatal(err)
				}
				var log eventLog
				socket := n.conn()
				e := n.endpoint(t, Config{Notify: log.add})
				n.start(t)
				transport := &quic.Transport{Conn: socket}
				defer func() {
					transport.Close()
					socket.Close()
				}()
				begin := time.Now()
				conn, err := transport.Dial(t.Context(), e.Addr(), baseTLS(certificate, alpn), &quic.Config{KeepAlivePeriod: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				stream, err := conn.OpenStream()
				if err != nil {
					t.Fatal(err)
				}
				if c.open != nil {
					stream.Write(c.open)
				}
				<-conn.Context().Done()
				if took := time.Since(begin); took > c.within {
					t.Errorf("it was turned away after %v, want at most %v", took, c.within)
				}
				var closed *quic.ApplicationError
				if err := context.Cause(conn.Context()); !errors.As(err, &closed) || fedkv.Code(closed.ErrorCode) != c.code {
					t.Errorf("closed with %v, want code %v", err, c.code)
				}
				synctest.Wait()
				if len(e.accepted) != 0 || e.total != 0 || len(e.places) != 0 || len(e.pending) != 0 {
					t.Errorf("%d accepted, %d places, %d pending are still taken", len(e.accepted), e.total, len(e.pending))
				}
				if events := log.events(); len(events) != 1 || events[0].Kind != EventRefused {
					t.Errorf("events %v, want one refusal", events)
				}
			})
		})
	}
}

// A handshake that is begun and left alone is forgotten.
func TestStalledHandshake(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		var log eventLog
		a, b := n.endpoint(t, Config{}), n.endpoint(t, Config{Notify: log.add})
		n.start(t)
		dialled := make(chan error, 1)
		go func() {
			_, err := a.Dial(t.Context(), addressOf(b))
			dialled <- err
		}()
		time.Sleep(simRTT * 3 / 4) // the first packets have arrived, the answer is on its way
		n.cut.Store(true)
		if got := b.handshakes.Load(); got != 1 {
			t.Errorf("%d handshakes are in flight, want 1", got)
		}
		if err := <-dialled; !errors.Is(err, ErrUnreachable) {
			t.Errorf("Dial: %v", err)
		}
		time.Sleep(HandshakeTimeout)
		synctest.Wait()
		if got := b.handshakes.Load(); got != 0 {
			t.Errorf("%d handshakes are still in flight", got)
		}
		if events := log.events(); len(events) != 1 || events[0].Kind != EventHandshake || !strings.Contains(events[0].Text, "10.0.0.1:7000") {
			t.Errorf("events %v, want one failed handshake", events)
		}
	})
}

func TestHandshakesAreBounded(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		a, b := n.endpoint(t, Config{}), n.endpoint(t, Config{})
		n.start(t)
		b.handshakes.Store(MaxHandshakes)
		_, err := a.Dial(t.Context(), addressOf(b))
		t.Log(err)
		if !errors.Is(err, ErrRefused) || !errors.Is(err, fedkv.ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		b.handshakes.Store(MaxHandshakes - 1)
		if _, err := a.Dial(t.Context(), addressOf(b)); err != nil {
			t.Error(err)
		}
		if got := b.handshakes.Load(); got != MaxHandshakes-1 {
			t.Errorf("%d handshakes are counted, want %d", got, MaxHandshakes-1)
		}
	})
}

// Strangers cannot fill a log.
func TestEventsAreLimited(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		var log eventLog
		a := n.endpoint(t, Config{})
		b := n.endpoint(t, Config{
			Allow:  func(ID) error { return fedkv.ErrForbidden },
			Notify: log.add,
		})
		n.start(t)
		for range 4 * eventRate {
			if _, err := a.Dial(t.Context(), addressOf(b)); !errors.Is(err, ErrRefused) {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if events := len(log.events()); events < eventRate || events > eventRate+1 {
			t.Errorf("%d events, want %d", events, eventRate)
		}
	})
}
