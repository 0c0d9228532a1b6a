package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// Endpoint is one UDP socket with an identity: it takes connections and makes them.
type Endpoint struct {
	config    Config
	socket    net.PacketConn
	transport *quic.Transport
	listener  *quic.Listener
	dialer    dialer
	staging   *staging
	events    limiter
	retries   limiter

	handshakes atomic.Int64  // incoming, in flight
	pending    chan struct{} // a place for each peer that Accept has not yet returned
	accepted   chan *Peer

	ctx   context.Context // ends with Close, or when the socket fails; its cause is the error to return
	end   context.CancelCauseFunc
	tasks sync.WaitGroup

	mu     sync.Mutex
	closed bool
	places map[ID]int // connections by peer, those being opened included
	total  int        // sum of places
	peers  map[*Peer]struct{}
}

// Listen opens the socket and starts to take connections.
func Listen(config Config) (*Endpoint, error) {
	e, err := listen(config)
	if err != nil && config.Conn != nil {
		config.Conn.Close()
	}
	return e, err
}

func listen(config Config) (*Endpoint, error) {
	if config.Identity.id == "" {
		return nil, fedkv.Errorf(fedkv.CodeInternal, "an endpoint needs an identity")
	}
	if config.MaxStaging <= 0 {
		config.MaxStaging = DefaultMaxStaging
	}
	certificate, err := selfSigned(config.Identity)
	if err != nil {
		return nil, err
	}
	socket := config.Conn
	if socket == nil {
		if socket, err = openSocket(config.Listen); err != nil {
			return nil, err
		}
	}
	resetKey, err := statelessResetKey(config.Identity, socket.LocalAddr())
	if err != nil {
		socket.Close()
		return nil, err
	}
	e := &Endpoint{
		config:   config,
		socket:   socket,
		staging:  newStaging(config.MaxStaging),
		events:   limiter{perSecond: eventRate},
		retries:  limiter{perSecond: RetryRate},
		pending:  make(chan struct{}, MaxPending),
		accepted: make(chan *Peer, MaxPending),
		places:   make(map[ID]int),
		peers:    make(map[*Peer]struct{}),
	}
	e.ctx, e.end = context.WithCancelCause(context.Background())
	e.transport = &quic.Transport{
		Conn:                socket,
		StatelessResetKey:   resetKey,
		VerifySourceAddress: func(net.Addr) bool { return !e.retries.allow(time.Now()) },
		ConnContext:         e.handshakeBegins,
	}
	e.dialer = dialer{transport: e.transport, certificate: certificate, config: config.dialQUIC(), local: socket.LocalAddr(), protocol: alpn}
	e.listener, err = e.transport.Listen(listenTLS(certificate, alpn, config.Identity.id), config.listenQUIC())
	if err != nil {
		e.end(err)
		e.transport.Close()
		socket.Close()
		return nil, listenError(err, config.Listen)
	}
	if text := smallBuffers(socket); text != "" {
		e.notify(Event{Kind: EventSocket, Text: text})
	}
	e.tasks.Go(e.acceptLoop)
	return e, nil
}

func openSocket(address string) (net.PacketConn, error) {
	if address == "" {
		address = ":0"
	}
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, listenError(err, address)
	}
	if udp, ok := socket.(*net.UDPConn); ok {
		return &roamingSocket{UDPConn: udp}, nil
	}
	return socket, nil
}

// statelessResetKey makes a restarted endpoint tell its old peers at once that their connections are gone.
// It needs no file of its own: it follows from the identity. The port is part of it, so that two endpoints
// of one identity cannot be played against each other (RFC 9000 21.11).
func statelessResetKey(identity Identity, local net.Addr) (*quic.StatelessResetKey, error) {
	_, port, err := net.SplitHostPort(local.String())
	if err != nil {
		return nil, fmt.Errorf("a socket without a port: %w", err)
	}
	secret, err := identity.derive("fedattn stateless reset, port " + port)
	if err != nil {
		return nil, err
	}
	key := quic.StatelessResetKey(secret)
	return &key, nil
}

// Addr is the address of the socket. Its host is unspecified if Config.Listen named none.
func (e *Endpoint) Addr() net.Addr { return e.socket.LocalAddr() }

// ID is this device's own.
func (e *Endpoint) ID() ID { return e.config.Identity.id }

// Accept returns the next incoming peer: its identity is proved and allowed, and its control stream is open.
// It must be called steadily: after MaxPending peers that nobody takes, further ones are refused as busy.
func (e *Endpoint) Accept(ctx context.Context) (*Peer, error) {
	for {
		select {
		case p := <-e.accepted:
			<-e.pending
			if p.Err() == nil {
				return p, nil
			}
		case <-e.ctx.Done():
			return nil, context.Cause(e.ctx)
		case <-ctx.Done():
			return nil, contextError(ctx, "waiting for a peer")
		}
	}
}

func errEndpointClosed() error {
	return coded(ErrClosed, fedkv.CodeCancelled, "the endpoint is closed")
}

// Dial connects to a peer within HandshakeTimeout or what ctx leaves of it, and returns after the peer has
// accepted. The error is a *DialError: ErrUnreachable, ErrWrongID, ErrRefused (with the peer's code and
// words) or ErrSelf; or the end of ctx, or a limit of this side.
func (e *Endpoint) Dial(ctx context.Context, to PeerAddress) (*Peer, error) {
	if !to.ID.valid() {
		return nil, fedkv.Errorf(fedkv.CodeInternal, "the address %s has no valid ID: write ID@host:port", to.HostPort)
	}
	if to.ID == e.ID() {
		return nil, &DialError{Peer: to, Reason: ErrSelf, Code: fedkv.CodeForbidden,
			Text: fmt.Sprintf("%s is this device's own ID: name another device", to.ID.Short())}
	}
	if err := checkHostPorts(to.HostPort); err != nil {
		return nil, &DialError{Peer: to, Reason: ErrUnreachable, Code: fedkv.CodeLost, Text: err.Error(), Cause: err}
	}
	if err := e.reserve(to.ID); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(e.ctx, cancel)
	defer stop()
	conn, err := e.dialer.dial(limited, to)
	if err != nil {
		e.release(to.ID)
		return nil, e.dialError(ctx, to, err)
	}
	control, err := openControl(limited, conn)
	if err != nil {
		if cause := context.Cause(conn.Context()); cause != nil {
			err = cause
		}
		conn.CloseWithError(quic.ApplicationErrorCode(fedkv.CodeDeadline), "no answer to the opening")
		e.release(to.ID)
		return nil, e.dialError(ctx, to, err)
	}
	return e.adopt(to.ID, conn, control)
}

func (e *Endpoint) dialError(ctx context.Context, to PeerAddress, err error) error {
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	return dialError(ctx, to, err)
}

// reserve takes a place for one more connection with id.
func (e *Endpoint) reserve(id ID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return errEndpointClosed()
	case e.places[id] >= MaxConnectionsPerPeer:
		return fedkv.Errorf(fedkv.CodeBusy, "there are already %d connections with peer %s", MaxConnectionsPerPeer, id.Short())
	case e.total >= MaxPeers:
		return fedkv.Errorf(fedkv.CodeBusy, "there are already %d connections", MaxPeers)
	}
	e.places[id]++
	e.total++
	return nil
}

// release gives a place back.
func (e *Endpoint) release(id ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total--
	if e.places[id]--; e.places[id] == 0 {
		delete(e.places, id)
	}
}

// adopt makes a peer of an open connection; the place reserved for it becomes the peer's.
func (e *Endpoint) adopt(id ID, conn *quic.Conn, control *quic.Stream) (*Peer, error) {
	p := newPeer(e, id, conn, control)
	e.mu.Lock()
	closed := e.closed
	twin := ""
	if !closed {
		twin = e.elsewhere(p)
		e.peers[p] = struct{}{}
		p.start() // under the lock: Close waits for these goroutines only after it set closed
	}
	e.mu.Unlock()
	if closed {
		conn.CloseWithError(0, textShutdown)
		e.release(id)
		return nil, errEndpointClosed()
	}
	if twin != "" {
		e.notify(Event{Kind: EventTwin, Peer: id, Addr: p.Addr(), Text: fmt.Sprintf("peer %s is connected from %s and from %s: "+
			"it may have moved, or its key is on two devices; if that was not you, remove the peer", id.Short(), twin, p.Addr())})
	}
	return p, nil
}

// elsewhere is another address from which the device of p is connected, empty if there is none; under the lock.
func (e *Endpoint) elsewhere(p *Peer) string {
	host := hostOf(p.conn.RemoteAddr())
	for other := range e.peers {
		if other.id == p.id && hostOf(other.conn.RemoteAddr()) != host && other.Err() == nil {
			return other.Addr()
		}
	}
	return ""
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// forget ends a dead peer's place here.
func (e *Endpoint) forget(p *Peer) {
	e.mu.Lock()
	delete(e.peers, p)
	e.mu.Unlock()
	e.release(p.id)
}

// Disconnect ends all connections with a peer, and tells it why. Whoever must not come back has to be refused by
// Config.Allow before.
func (e *Endpoint) Disconnect(id ID, code fedkv.Code, text string) {
	e.mu.Lock()
	var peers []*Peer
	for p := range e.peers {
		if p.id == id {
			peers = append(peers, p)
		}
	}
	e.mu.Unlock()
	for _, p := range peers {
		p.Close(code, text)
	}
}

const textShutdown = "shutting down"

// Close tells all peers, closes the socket and returns when nothing of the endpoint runs any more. Only the
// first call does anything.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.tasks.Wait()
		return nil
	}
	e.closed = true
	peers := make([]*Peer, 0, len(e.peers))
	for p := range e.peers {
		peers = append(peers, p)
	}
	e.mu.Unlock()

	e.end(errEndpointClosed())
	var told sync.WaitGroup
	for _, p := range peers {
		told.Go(func() { p.close(0, textShutdown) })
	}
	told.Wait()
	e.listener.Close()
	err := errors.Join(e.transport.Close(), e.socket.Close())
	e.tasks.Wait()
	return err
}

// notify reports an event. What strangers cause is limited in rate.
func (e *Endpoint) notify(event Event) {
	if e.config.Notify == nil || e.ctx.Err() != nil {
		return
	}
	if event.Kind != EventSocket && !e.events.allow(time.Now()) {
		return
	}
	e.config.Notify(event)
}
