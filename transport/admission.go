package transport

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// handshake follows one incoming handshake from its first packet.
type handshake struct {
	complete atomic.Bool
}

type handshakeKey struct{}

// handshakeBegins counts a handshake in flight, or refuses it. quic-go calls it from its packet loop.
func (e *Endpoint) handshakeBegins(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
	if e.handshakes.Add(1) > MaxHandshakes {
		e.handshakes.Add(-1)
		return nil, errors.New("too many handshakes in flight")
	}
	h := new(handshake)
	addr := from.RemoteAddr.String()
	context.AfterFunc(ctx, func() {
		if h.complete.Swap(true) {
			return
		}
		e.handshakes.Add(-1)
		e.notify(Event{Kind: EventHandshake, Addr: addr, Text: fmt.Sprintf(
			"a connection attempt from %s failed: %s", addr, errorText(context.Cause(ctx)))})
	})
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// handshakeCompletes takes a handshake out of the count.
func (e *Endpoint) handshakeCompletes(conn *quic.Conn) {
	h := conn.Context().Value(handshakeKey{}).(*handshake)
	if !h.complete.Swap(true) {
		e.handshakes.Add(-1)
	}
}

func (e *Endpoint) acceptLoop() {
	for {
		conn, err := e.listener.Accept(e.ctx)
		if err != nil { // the endpoint is closing, or its socket failed, and every connection with it
			e.end(coded(err, fedkv.CodeInternal, "the network socket failed: %s; start again", fedkv.CleanText(err.Error())))
			return
		}
		e.handshakeCompletes(conn)
		e.tasks.Go(func() { e.admit(conn) })
	}
}

// admit judges a peer whose handshake is complete. Nothing it sends is looked at before it is allowed.
func (e *Endpoint) admit(conn *quic.Conn) {
	id := idOf(conn.ConnectionState().TLS.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
	refuse := func(err error) {
		conn.CloseWithError(quic.ApplicationErrorCode(fedkv.CodeOf(err)), errorText(err))
		addr := conn.RemoteAddr().String()
		e.notify(Event{Kind: EventRefused, Peer: id, Addr: addr, Text: fmt.Sprintf(
			"peer %s from %s was turned away: %v", id.Short(), addr, err)})
	}
	if err := e.allow(id); err != nil {
		refuse(err)
		return
	}
	if err := e.reserve(id); err != nil {
		refuse(err)
		return
	}
	select {
	case e.pending <- struct{}{}:
	default:
		e.release(id)
		refuse(fedkv.Errorf(fedkv.CodeBusy, "too many peers are waiting: try again shortly"))
		return
	}
	control, err := e.awaitControl(conn)
	if err != nil {
		<-e.pending
		e.release(id)
		if e.ctx.Err() != nil {
			conn.CloseWithError(0, textShutdown)
			return
		}
		refuse(err)
		return
	}
	peer, err := e.adopt(id, conn, control)
	if err != nil {
		<-e.pending
		return
	}
	e.accepted <- peer // never waits: it has as many places as pending
}

// allow asks Config.Allow. An error without a code is a matter of trust.
func (e *Endpoint) allow(id ID) error {
	if e.config.Allow == nil {
		return nil
	}
	err := e.config.Allow(id)
	if err != nil && fedkv.CodeOf(err) == fedkv.CodeInternal {
		return coded(err, fedkv.CodeForbidden, "%v", err)
	}
	return err
}

// awaitControl waits for the dialer's control stream and its opening Ping, and answers it: this is the
// verdict that Dial waits for.
func (e *Endpoint) awaitControl(conn *quic.Conn) (*quic.Stream, error) {
	ctx, cancel := context.WithTimeout(e.ctx, HandshakeTimeout)
	defer cancel()
	control, err := conn.AcceptStream(ctx)
	var ping fedkv.Ping
	if err == nil {
		ping, err = openingPing(ctx, control)
	}
	if ctx.Err() != nil {
		return nil, fedkv.Errorf(fedkv.CodeDeadline, "no control stream within %v", HandshakeTimeout)
	}
	if err != nil {
		var malformed *fedkv.Error
		if errors.As(err, &malformed) {
			return nil, err
		}
		return nil, coded(err, fedkv.CodeProtocol, "no control stream: %s", errorText(err))
	}
	if ping.Reply {
		return nil, fedkv.Errorf(fedkv.CodeProtocol, "the peer did not begin with a ping")
	}
	frame, err := fedkv.AppendMessage(nil, fedkv.Ping{Nonce: ping.Nonce, Reply: true})
	if err != nil {
		return nil, err
	}
	if err := control.SetWriteDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return nil, err
	}
	if _, err := control.Write(frame); err != nil {
		return nil, coded(err, fedkv.CodeProtocol, "no control stream: %s", errorText(err))
	}
	return control, control.SetWriteDeadline(time.Time{})
}
