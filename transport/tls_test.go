package transport

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// forged makes a certificate as an attacker or a faulty program would: for any key, signed by any key, valid
// at any time.
func forged(t *testing.T, key, signer crypto.Signer, from, to time.Time) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "fedattn"},
		NotBefore:    from,
		NotAfter:     to,
	}
	// A parent without the signer's public key is enough: x509 checks the pair only if it is there.
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func ed25519Key(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func always() (from, to time.Time) {
	return time.Unix(0, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
}

// attacks are T13's bad TLS configurations. Each is tried as a client against our listener and as a server
// against our dialer; want is a part of the reason that our side reports.
func attacks(t *testing.T) map[string]struct {
	config *tls.Config
	want   string
} {
	t.Helper()
	from, to := always()
	good, other := ed25519Key(t), ed25519Key(t)
	config := func(change func(*tls.Config)) *tls.Config {
		c := &tls.Config{
			NextProtos:         []string{alpn},
			ServerName:         serverName,
			InsecureSkipVerify: true,
			Certificates:       []tls.Certificate{forged(t, good, good, from, to)},
		}
		change(c)
		return c
	}
	withKey := func(key crypto.Signer) *tls.Config {
		return config(func(c *tls.Config) { c.Certificates = []tls.Certificate{forged(t, key, key, from, to)} })
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]struct {
		config *tls.Config
		want   string
	}{
		"two certificates": {config(func(c *tls.Config) {
			second := forged(t, other, other, from, to)
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, second.Certificate[0])
		}), "2 certificates where one is the rule"},
		"RSA key":   {withKey(rsaKey), "key of type RSA, not Ed25519"},
		"ECDSA key": {withKey(ecdsaKey), "key of type ECDSA, not Ed25519"},
		"signed by another key": {config(func(c *tls.Config) {
			c.Certificates = []tls.Certificate{forged(t, good, other, from, to)}
		}), "not signed by its own key"},
		"signed by an ECDSA key": {config(func(c *tls.Config) {
			c.Certificates = []tls.Certificate{forged(t, good, ecdsaKey, from, to)}
		}), "signed with ECDSA-SHA256, not Ed25519"},
		"expired": {config(func(c *tls.Config) {
			c.Certificates = []tls.Certificate{forged(t, good, good, from, time.Now().Add(-time.Hour))}
		}), "not today"},
		"not yet valid": {config(func(c *tls.Config) {
			c.Certificates = []tls.Certificate{forged(t, good, good, time.Now().Add(time.Hour), to)}
		}), "not today"},
		"another ALPN": {config(func(c *tls.Config) { c.NextProtos = []string{"h3"} }), "unsupported application protocols"},
		"TLS 1.2":      {config(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), ""},
	}
}

// bareTransport is quic-go without any of this package's rules.
func bareTransport(t *testing.T) *quic.Transport {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() {
		transport.Close()
		socket.Close()
	})
	return transport
}

// sayHello does what a careless client does after Dial: it talks at once.
func sayHello(conn *quic.Conn) {
	if stream, err := conn.OpenStream(); err == nil {
		frame, _ := fedkv.AppendMessage(nil, fedkv.Ping{Nonce: 1})
		frame, _ = fedkv.AppendMessage(frame, fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 1})
		stream.Write(frame)
	}
	if stream, err := conn.OpenUniStream(); err == nil {
		stream.Write(make([]byte, 1000))
		stream.Close()
	}
}

// mustRefuse dials with a bare client and checks that the endpoint ends the connection and that no peer and
// so no message comes out of it.
func mustRefuse(t *testing.T, e *Endpoint, config *tls.Config) error {
	t.Helper()
	ctx := within(t, 10*time.Second)
	conn, err := bareTransport(t).Dial(ctx, e.Addr(), config, &quic.Config{})
	if err == nil {
		sayHello(conn)
		select {
		case <-conn.Context().Done():
			err = context.Cause(conn.Context())
		case <-ctx.Done():
			t.Error("the connection was not ended")
		}
	}
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if p, err := e.Accept(soon); err == nil {
		t.Errorf("peer %s was accepted", p.ID())
	}
	return err
}

func TestListenerRefusesBadClients(t *testing.T) {
	cases := attacks(t)
	none := cases["expired"]
	none.config = none.config.Clone()
	none.config.Certificates = nil
	none.want = "client didn't provide a certificate"
	cases["no certificate"] = none
	for name, attack := range cases {
		t.Run(name, func(t *testing.T) {
			var allowed atomic.Int32
			events := make(chan Event, 10)
			e := listenLoopback(t, Config{
				Allow:  func(ID) error { allowed.Add(1); return nil },
				Notify: func(e Event) { events <- e },
			})
			err := mustRefuse(t, e, attack.config)
			t.Logf("the client saw: %v", err)
			if allowed.Load() != 0 {
				t.Error("Allow was asked about a peer without an identity")
			}
			if attack.want == "" {
				return // such a client does not even begin
			}
			for {
				select {
				case event := <-events:
					if event.Kind == EventSocket {
						continue
					}
					if event.Kind != EventHandshake || !strings.Contains(event.Text, attack.want) {
						t.Errorf("event %q, want %q in it", event.Text, attack.want)
					}
				case <-time.After(5 * time.Second):
					t.Error("no event")
				}
				break
			}
			if n := e.handshakes.Load(); n != 0 {
				t.Errorf("%d handshakes are still counted", n)
			}
			// An honest client still gets in.
			connect(t, listenLoopback(t, Config{}), e)
		})
	}
}

func TestDialerRefusesBadServers(t *testing.T) {
	for name, attack := range attacks(t) {
		t.Run(name, func(t *testing.T) {
			config := attack.config
			transport := bareTransport(t)
			listener, err := transport.Listen(config, &quic.Config{})
			if err != nil {
				t.Fatal(err)
			}
			e := listenLoopback(t, Config{})
			// Even the ID that the server's own key gives does not help it.
			id := newIdentity(t).ID()
			if key, ok := config.Certificates[0].PrivateKey.(ed25519.PrivateKey); ok {
				id = idOf(key.Public().(ed25519.PublicKey))
			}
			_, err = e.Dial(within(t, 10*time.Second), PeerAddress{ID: id, HostPort: listener.Addr().String()})
			t.Log(err)
			var failed *DialError
			if !errors.As(err, &failed) {
				t.Fatalf("error %v, want a *DialError", err)
			}
		})
	}
}

func TestWrongID(t *testing.T) {
	a, b := listenLoopback(t, Config{}), listenLoopback(t, Config{})
	expected := newIdentity(t).ID()
	_, err := a.Dial(within(t, 10*time.Second), PeerAddress{ID: expected, HostPort: b.Addr().String()})
	t.Log(err)
	var failed *DialError
	if !errors.As(err, &failed) || !errors.Is(err, ErrWrongID) || failed.Got != b.ID() ||
		!strings.Contains(err.Error(), expected.String()) || !strings.Contains(err.Error(), b.ID().String()) ||
		fedkv.CodeOf(err) != fedkv.CodeForbidden {
		t.Errorf("error %v, want ErrWrongID with both IDs", err)
	}
	soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if p, err := b.Accept(soon); err == nil {
		t.Errorf("%s was accepted although it had turned away", p.ID())
	}
}

func TestSelf(t *testing.T) {
	a := listenLoopback(t, Config{})
	ctx := within(t, 10*time.Second)
	_, err := a.Dial(ctx, addressOf(a))
	t.Log(err)
	if !errors.Is(err, ErrSelf) {
		t.Errorf("dialling oneself: %v", err)
	}
	// A copy of the identity on another device, reached under a wrong name so that it gets to a handshake.
	certificate, err := selfSigned(a.config.Identity)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(mustRefuse(t, a, baseTLS(certificate, alpn)))
}

func TestNotAllowed(t *testing.T) {
	a := listenLoopback(t, Config{})
	var asked atomic.Pointer[ID]
	b := listenLoopback(t, Config{Allow: func(id ID) error {
		asked.Store(&id)
		return errors.New("this device is not on the list: run `pair` on the other side")
	}})
	ctx := within(t, 10*time.Second)
	_, err := a.Dial(ctx, addressOf(b))
	t.Log(err)
	var failed *DialError
	if !errors.As(err, &failed) || !errors.Is(err, ErrRefused) || !errors.Is(err, fedkv.ErrForbidden) ||
		!strings.Contains(err.Error(), "not on the list") {
		t.Errorf("error %v, want ErrRefused with the other side's words", err)
	}
	if id := asked.Load(); id == nil || *id != a.ID() {
		t.Errorf("Allow was asked about %v, want %s", id, a.ID())
	}
	certificate, err := selfSigned(a.config.Identity)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(mustRefuse(t, b, baseTLS(certificate, alpn)))
	if p, err := b.Dial(ctx, addressOf(a)); err != nil {
		t.Errorf("Allow is for incoming peers only, but: %v", err)
	} else {
		p.Close(0, "")
	}
}

// A peer that was allowed once gets no ticket with which it could come back after it was struck off.
func TestNoResumption(t *testing.T) {
	var forbidden atomic.Bool
	e := listenLoopback(t, Config{Allow: func(ID) error {
		if forbidden.Load() {
			return fedkv.ErrForbidden
		}
		return nil
	}})
	certificate, err := selfSigned(newIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	config := baseTLS(certificate, alpn)
	config.SessionTicketsDisabled = false
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	client := bareTransport(t)
	ctx := within(t, 10*time.Second)
	for i := range 2 {
		forbidden.Store(i == 1)
		conn, err := client.DialEarly(ctx, e.Addr(), config, &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		<-conn.HandshakeComplete()
		sayHello(conn)
		if i == 0 {
			if _, err := e.Accept(ctx); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // time for a ticket
		}
		if state := conn.ConnectionState(); state.Used0RTT || state.TLS.DidResume {
			t.Errorf("connection %d: 0-RTT %t, resumed %t", i, state.Used0RTT, state.TLS.DidResume)
		}
		if i == 0 {
			conn.CloseWithError(0, "")
			continue
		}
		<-conn.Context().Done()
		var closed *quic.ApplicationError
		if err := context.Cause(conn.Context()); !errors.As(err, &closed) || fedkv.Code(closed.ErrorCode) != fedkv.CodeForbidden {
			t.Errorf("after it was struck off: %v", err)
		}
	}
	if _, ok := config.ClientSessionCache.Get(serverName); ok {
		t.Error("the listener gave a ticket")
	}
}
