package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
	"fedattn/fedkv/policy"
)

// Pairing pins two devices' keys to each other. The inviting device shows an Invitation, which its owner carries to the
// other one. That device joins:
//
//	joiner                                        inviter
//	  │ ── TLS 1.3, ALPN fedattn-pair/1 ───────────▶ │  both prove their keys; the joiner expects the invitation's ID
//	  │ ── Introduction, proof of the secret ──────▶ │  wrong: a try is spent
//	  │ ◀───────── Introduction, proof of the secret │  pinned here
//	  │ ── CONNECTION_CLOSE{0} ────────────────────▶ │  pinned there
//
// A proof is an HMAC under a key made of the secret and of the TLS session's exporter, over both IDs and the
// introduction: it is worth nothing in another session or for another key.

// Limits of pairing.
const (
	// InvitationLife is how long an invitation is good.
	InvitationLife = 10 * time.Minute

	// InvitationTries is how many wrong proofs end it.
	InvitationTries = 3

	// maxIntroduction bounds an introduction in bytes.
	maxIntroduction = 4096

	// maxPairing bounds the connections that an inviter listens to at once.
	maxPairing = 8
)

const (
	pairingALPN  = "fedattn-pair/1"
	pairingLabel = "EXPORTER-fedattn-pairing-1"
)

// What a pairing can fail with, for errors.Is.
var (
	ErrInvitationOver = errors.New("the invitation is over")
	ErrWrongSecret    = errors.New("the secret is wrong")
)

// Introduction is what a device says of itself when it is paired.
type Introduction struct {
	Name      string        `json:"name"`
	Addresses []string      `json:"addresses"` // host:port where its node is, or would be
	Rights    policy.Rights `json:"rights"`    // what it lets the other one do
	Trust     policy.Trust  `json:"trust"`     // what it trusts the other one with
}

func (i Introduction) validate() error {
	if len(i.Name) > fedkv.MaxName || fedkv.CleanText(i.Name) != i.Name {
		return errors.New("a name that cannot be printed")
	}
	if len(i.Addresses) > maxKnownAddresses {
		return fmt.Errorf("%d addresses, at most %d are kept", len(i.Addresses), maxKnownAddresses)
	}
	for _, a := range i.Addresses {
		if err := checkHostPort(a); err != nil {
			return err
		}
	}
	return nil
}

// Paired is the other side of a pairing: it has proved its key and that it has the secret.
type Paired struct {
	ID           ID
	Addr         string // where its packets came from
	Introduction        // what it says of itself
}

// Inviter waits for one device to join.
type Inviter struct {
	invitation Invitation
	self       Introduction
	keep       func(Paired) error
	socket     net.PacketConn
	transport  *quic.Transport
	listener   *quic.Listener
	expires    time.Time

	once   sync.Once
	done   chan struct{}
	paired Paired
	err    error

	mu    sync.Mutex
	tries int
	taken bool // a proof was right: nobody else may join
}

// Invite opens an invitation that lists these addresses, at a socket of its own. keep is called with the device that
// joined before it is told: its error, in words for both owners, ends the pairing.
func Invite(identity Identity, listen string, addresses func(net.Addr) []string, self Introduction, keep func(Paired) error) (*Inviter, error) {
	if err := self.validate(); err != nil {
		return nil, fedkv.Errorf(fedkv.CodeInternal, "this device cannot introduce itself: %v", err)
	}
	certificate, err := selfSigned(identity)
	if err != nil {
		return nil, err
	}
	socket, err := openSocket(listen)
	if err != nil {
		return nil, err
	}
	v := &Inviter{self: self, keep: keep, socket: socket, transport: &quic.Transport{Conn: socket}, done: make(chan struct{}), expires: time.Now().Add(InvitationLife)}
	if v.invitation, err = newInvitation(identity.ID(), rand.Reader, addresses(socket.LocalAddr())); err == nil {
		config := listenTLS(certificate, pairingALPN, identity.ID())
		v.listener, err = v.transport.Listen(config, pairingQUIC(1))
	}
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return v, nil
}

func pairingQUIC(streams int64) *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           HandshakeTimeout,
		MaxIdleTimeout:                 HandshakeTimeout,
		MaxIncomingStreams:             streams,
		MaxIncomingUniStreams:          -1,
		InitialStreamReceiveWindow:     2 * maxIntroduction,
		MaxStreamReceiveWindow:         2 * maxIntroduction,
		InitialConnectionReceiveWindow: 2 * maxIntroduction,
		MaxConnectionReceiveWindow:     2 * maxIntroduction,
	}
}

// Invitation is what the other device needs.
func (v *Inviter) Invitation() Invitation { return v.invitation }

// Wait returns the device that joined. The invitation is over then, and its socket closed.
func (v *Inviter) Wait(ctx context.Context) (Paired, error) {
	limited, cancel := context.WithDeadline(ctx, v.expires)
	defer cancel()
	var pairing sync.WaitGroup
	places := make(chan struct{}, maxPairing)
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := v.listener.Accept(limited)
			if err != nil {
				v.end(Paired{}, fmt.Errorf("%w: %w", ErrInvitationOver, err))
				return
			}
			select {
			case places <- struct{}{}:
				pairing.Go(func() { v.admit(limited, conn); <-places })
			default:
				conn.CloseWithError(quic.ApplicationErrorCode(fedkv.CodeBusy), fedkv.CodeBusy.Text())
			}
		}
	}()
	select {
	case <-v.done:
	case <-limited.Done():
	}
	cancel()
	<-accepting
	pairing.Wait()
	v.listener.Close()
	closed := errors.Join(v.transport.Close(), v.socket.Close())
	<-v.done
	switch {
	case v.err == nil:
		return v.paired, closed
	case ctx.Err() != nil:
		return Paired{}, contextError(ctx, "waiting for a device to join")
	case errors.Is(v.err, context.DeadlineExceeded):
		return Paired{}, coded(ErrInvitationOver, fedkv.CodeDeadline, "nobody joined within %v: run fedattn invite again when the other device is at hand", InvitationLife)
	}
	return v.paired, v.err
}

func (v *Inviter) end(p Paired, err error) {
	v.once.Do(func() {
		v.paired, v.err = p, err
		close(v.done)
	})
}

// admit hears one device out.
func (v *Inviter) admit(ctx context.Context, conn *quic.Conn) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	refuse := func(err error) {
		conn.CloseWithError(quic.ApplicationErrorCode(fedkv.CodeOf(err)), fedkv.CleanText(err.Error()))
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		refuse(fedkv.Errorf(fedkv.CodeDeadline, "no introduction came"))
		return
	}
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline)
	session, err := newPairingSession(conn, v.invitation, "")
	if err != nil {
		refuse(err)
		return
	}
	them, err := session.receive(stream)
	if err == nil {
		err = v.take()
	} else if errors.Is(err, ErrWrongSecret) {
		err = v.spend()
	}
	if err != nil {
		refuse(err)
		return
	}
	p := Paired{ID: session.joiner, Addr: conn.RemoteAddr().String(), Introduction: them}
	if err := v.keep(p); err != nil {
		refuse(fedkv.Errorf(fedkv.CodeForbidden, "%v", err))
		v.end(p, err)
		return
	}
	if err := session.send(stream, v.self); err == nil {
		select {
		case <-conn.Context().Done(): // the other device says that it has pinned this one
			var closed *quic.ApplicationError
			if errors.As(context.Cause(conn.Context()), &closed) && closed.Remote && closed.ErrorCode == 0 {
				v.end(p, nil)
				return
			}
			if closed != nil && closed.Remote {
				v.end(p, fedkv.Errorf(wireCode(closed.ErrorCode), "this device has pinned %s, but that one has not pinned this one: %s", p.ID.Short(), fedkv.CleanText(closed.ErrorMessage)))
				return
			}
		case <-ctx.Done():
		}
	}
	refuse(fedkv.Errorf(fedkv.CodeLost, "the pairing was not finished"))
	v.end(p, fedkv.Errorf(fedkv.CodeLost, "this device has pinned %s, but that one did not confirm: if it does not know this one, "+
		"run fedattn peers remove here and pair again", p.ID.Short()))
}

// take makes sure that one device joins.
func (v *Inviter) take() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.taken || v.tries >= InvitationTries {
		return coded(ErrInvitationOver, fedkv.CodeForbidden, "this invitation is used up: ask for another one")
	}
	v.taken = true
	return nil
}

// spend counts a wrong proof.
func (v *Inviter) spend() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.taken || v.tries >= InvitationTries {
		return coded(ErrInvitationOver, fedkv.CodeForbidden, "this invitation is used up: ask for another one")
	}
	if v.tries++; v.tries == InvitationTries {
		v.end(Paired{}, coded(ErrInvitationOver, fedkv.CodeForbidden,
			"%d devices tried wrong secrets, so the invitation is void: somebody may be guessing; run fedattn invite again", InvitationTries))
	}
	return coded(ErrWrongSecret, fedkv.CodeForbidden, "the secret is wrong: copy the whole line of the invitation, or ask for another one")
}

// Join pins the inviting device. keep is called with it before it is told that this succeeded.
func Join(ctx context.Context, identity Identity, invitation Invitation, self Introduction, keep func(Paired) error) (Paired, error) {
	if err := self.validate(); err != nil {
		return Paired{}, fedkv.Errorf(fedkv.CodeInternal, "this device cannot introduce itself: %v", err)
	}
	if invitation.ID == identity.ID() {
		return Paired{}, fedkv.Errorf(fedkv.CodeForbidden, "the invitation is this device's own: join with another device")
	}
	certificate, err := selfSigned(identity)
	if err != nil {
		return Paired{}, err
	}
	socket, err := openSocket("")
	if err != nil {
		return Paired{}, err
	}
	transport := &quic.Transport{Conn: socket}
	defer func() {
		transport.Close()
		socket.Close()
	}()
	d := dialer{transport: transport, certificate: certificate, config: pairingQUIC(-1), local: socket.LocalAddr(), protocol: pairingALPN}
	for i, address := range invitation.Addresses {
		var conn *quic.Conn
		attempt, cancel := context.WithTimeout(ctx, HandshakeTimeout)
		if conn, err = d.dial(attempt, PeerAddress{ID: invitation.ID, HostPort: address}); err == nil {
			p, err := join(attempt, conn, identity.ID(), invitation, self, keep)
			cancel()
			return p, err
		}
		cancel()
		err = dialError(ctx, PeerAddress{ID: invitation.ID, HostPort: address}, err)
		if i == len(invitation.Addresses)-1 || errors.Is(err, context.Canceled) {
			break
		}
	}
	if errors.Is(err, ErrUnreachable) {
		return Paired{}, coded(err, fedkv.CodeLost, "the inviting device does not answer at %s: its invitation may be over "+
			"(it is good for %v and one device), or its firewall keeps the port closed", strings.Join(invitation.Addresses, ", "), InvitationLife)
	}
	return Paired{}, err
}

func join(ctx context.Context, conn *quic.Conn, own ID, invitation Invitation, self Introduction, keep func(Paired) error) (Paired, error) {
	abandon := func(err error) (Paired, error) {
		conn.CloseWithError(quic.ApplicationErrorCode(fedkv.CodeOf(err)), fedkv.CleanText(err.Error()))
		return Paired{}, err
	}
	session, err := newPairingSession(conn, invitation, own)
	if err != nil {
		return abandon(err)
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return abandon(pairingError(conn, err))
	}
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline)
	if err := session.send(stream, self); err != nil {
		return abandon(pairingError(conn, err))
	}
	them, err := session.receive(stream)
	if err != nil {
		return abandon(pairingError(conn, err))
	}
	p := Paired{ID: invitation.ID, Addr: conn.RemoteAddr().String(), Introduction: them}
	if err := keep(p); err != nil {
		return abandon(fedkv.Errorf(fedkv.CodeForbidden, "%v", err))
	}
	conn.CloseWithError(0, "paired")
	return p, nil
}

// pairingError is the inviter's own word if it closed the connection.
func pairingError(conn *quic.Conn, err error) error {
	var closed *quic.ApplicationError
	if errors.As(context.Cause(conn.Context()), &closed) && closed.Remote || errors.As(err, &closed) && closed.Remote {
		code, text := wireCode(closed.ErrorCode), fedkv.CleanText(closed.ErrorMessage)
		if text == "" {
			text = code.Text()
		}
		return coded(err, code, "the inviting device refused: %s", text)
	}
	var known *fedkv.Error
	if errors.As(err, &known) {
		return err
	}
	return coded(err, fedkv.CodeLost, "the inviting device went away in mid-pairing: try again with a new invitation")
}

// pairingSession makes and checks the proofs of one TLS session.
type pairingSession struct {
	key             []byte
	inviter, joiner ID
	isInviter       bool
}

// newPairingSession is the joiner's side, or the inviter's if joiner is empty: then it is whoever is connected.
func newPairingSession(conn *quic.Conn, invitation Invitation, joiner ID) (*pairingSession, error) {
	state := conn.ConnectionState().TLS
	s := &pairingSession{inviter: invitation.ID, joiner: joiner, isInviter: joiner == ""}
	if s.isInviter {
		s.joiner = idOf(state.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
	}
	exported, err := state.ExportKeyingMaterial(pairingLabel, nil, sha256.Size)
	if err != nil {
		return nil, fedkv.Errorf(fedkv.CodeInternal, "the TLS session exports no key: %v", err)
	}
	shared := invitation.secret()
	s.key, err = hkdf.Key(sha256.New, shared[:], exported, pairingLabel, sha256.Size)
	return s, err
}

// proof is over who says it, both IDs and what is said.
func (s *pairingSession) proof(byInviter bool, said []byte) []byte {
	mac := hmac.New(sha256.New, s.key)
	role := "joiner"
	if byInviter {
		role = "inviter"
	}
	for _, part := range []string{role, string(s.inviter), string(s.joiner), string(said)} {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		mac.Write(length[:])
		io.WriteString(mac, part)
	}
	return mac.Sum(nil)
}

// send writes length (2 bytes), introduction as JSON, proof (32 bytes).
func (s *pairingSession) send(to io.Writer, self Introduction) error {
	said, err := json.Marshal(self)
	if err != nil || len(said) > maxIntroduction {
		return fedkv.Errorf(fedkv.CodeInternal, "this device's introduction is too long")
	}
	frame := binary.BigEndian.AppendUint16(nil, uint16(len(said)))
	frame = append(append(frame, said...), s.proof(s.isInviter, said)...)
	_, err = to.Write(frame)
	return err
}

// receive reads the other side's. Nothing of it is parsed before its proof is right.
func (s *pairingSession) receive(from io.Reader) (Introduction, error) {
	var length [2]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return Introduction{}, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > maxIntroduction {
		return Introduction{}, fedkv.Errorf(fedkv.CodeProtocol, "an introduction of %d bytes, at most %d are taken", n, maxIntroduction)
	}
	frame := make([]byte, n+sha256.Size)
	if _, err := io.ReadFull(from, frame); err != nil {
		return Introduction{}, err
	}
	said, proof := frame[:n], frame[n:]
	if !hmac.Equal(proof, s.proof(!s.isInviter, said)) {
		return Introduction{}, coded(ErrWrongSecret, fedkv.CodeForbidden, "the other device does not have the secret of this invitation")
	}
	var them Introduction
	if err := json.Unmarshal(said, &them); err != nil {
		return Introduction{}, fedkv.Errorf(fedkv.CodeProtocol, "an introduction that cannot be read: install the same release of fedattn on both devices")
	}
	if err := them.validate(); err != nil {
		return Introduction{}, fedkv.Errorf(fedkv.CodeProtocol, "the other device introduces itself with %v", err)
	}
	return them, nil
}
