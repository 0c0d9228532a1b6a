package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// What a Dial can fail with, for errors.Is; the error itself is a *DialError.
var (
	ErrUnreachable = errors.New("the peer does not answer")
	ErrWrongID     = errors.New("another device answers at this address")
	ErrRefused     = errors.New("the peer refused this device")
	ErrSelf        = errors.New("the address is this device's own")
)

// ErrClosed is the error of everything that was closed on this side.
var ErrClosed = errors.New("closed")

// DialError says why there is no connection to a peer. errors.Is finds its Reason, and a fedkv.Error with
// the code to report.
type DialError struct {
	Peer   PeerAddress
	Reason error // ErrUnreachable, ErrWrongID, ErrRefused or ErrSelf
	Code   fedkv.Code
	Text   string // what happened and what to do next
	Got    ID     // who answered instead; only with ErrWrongID
	Cause  error  // may be nil
}

func (e *DialError) Error() string { return e.Text }

// Unwrap makes the reason, the code and the cause visible to errors.Is and errors.As.
func (e *DialError) Unwrap() []error {
	chain := []error{e.Reason, &fedkv.Error{Code: e.Code, Text: e.Text}}
	if e.Cause != nil {
		chain = append(chain, e.Cause)
	}
	return chain
}

// CloseError is the end of a connection that one side closed. errors.Is finds the sentinel of its code, and
// ErrClosed if it was this side.
type CloseError struct {
	Peer   ID
	Remote bool       // the peer closed it
	Code   fedkv.Code // 0: no error
	Text   string     // the closing side's sentence, printable; may be empty
}

func (e *CloseError) Error() string {
	text := ""
	switch {
	case e.Text != "":
		text = ": " + e.Text
	case e.Code != 0: // its name only: its sentence is worded for the side that found the fault
		text = fmt.Sprintf(" (%v)", e.Code)
	}
	if e.Remote {
		return fmt.Sprintf("peer %s closed the connection%s", e.Peer.Short(), text)
	}
	return fmt.Sprintf("the connection to peer %s is closed%s", e.Peer.Short(), text)
}

// Unwrap gives the code; a connection closed without one counts as lost for whoever still needed it.
func (e *CloseError) Unwrap() []error {
	code := e.Code
	if code == 0 {
		code = fedkv.CodeLost
	}
	chain := []error{&fedkv.Error{Code: code, Text: e.Error()}}
	if !e.Remote {
		chain = append(chain, ErrClosed)
	}
	return chain
}

// codedError is a fedkv.Error that keeps its cause.
type codedError struct {
	coded *fedkv.Error
	cause error
}

func (e *codedError) Error() string   { return e.coded.Error() }
func (e *codedError) Unwrap() []error { return []error{e.coded, e.cause} }

func coded(cause error, code fedkv.Code, format string, args ...any) error {
	return &codedError{&fedkv.Error{Code: code, Text: fmt.Sprintf(format, args...)}, cause}
}

// idleError is the end of a connection with a peer that fell silent.
type idleError struct {
	error
	idle time.Duration
}

func (e idleError) Unwrap() error { return e.error }

// Silent is how long the peer had given no sign of life.
func (e idleError) Silent() time.Duration { return e.idle }

// contextError is the error of a call whose context ended.
func contextError(ctx context.Context, doing string) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return coded(cause, fedkv.CodeDeadline, "no time left for %s", doing)
	}
	return coded(cause, fedkv.CodeCancelled, "%s was cancelled", doing)
}

// wireCode reads a code from a QUIC error number, which is wider than ours.
func wireCode[N ~uint64](n N) fedkv.Code {
	if n > math.MaxUint16 {
		return fedkv.CodeProtocol
	}
	return fedkv.Code(n)
}

// connectionError says why a connection with a peer ended. err is what quic-go gives as the cause.
func connectionError(err error, peer ID, idle time.Duration) error {
	var (
		application *quic.ApplicationError
		transport   *quic.TransportError
		timeout     *quic.IdleTimeoutError
		reset       *quic.StatelessResetError
	)
	switch {
	case errors.As(err, &application):
		return &CloseError{
			Peer:   peer,
			Remote: application.Remote,
			Code:   wireCode(application.ErrorCode),
			Text:   fedkv.CleanText(application.ErrorMessage),
		}
	case errors.As(err, &timeout):
		return idleError{coded(err, fedkv.CodeLost, "peer %s has given no sign of life for %v: it stopped, or its network did", peer.Short(), idle), idle}
	case errors.As(err, &reset):
		return coded(err, fedkv.CodeLost, "peer %s was restarted", peer.Short())
	case errors.As(err, &transport):
		if transport.Remote {
			return coded(err, fedkv.CodeProtocol, "peer %s broke off: %s", peer.Short(), errorText(transport))
		}
		return coded(err, fedkv.CodeProtocol, "peer %s broke the rules of QUIC and was cut off: %s", peer.Short(), errorText(transport))
	case errors.Is(err, quic.ErrTransportClosed):
		return &CloseError{Peer: peer}
	default:
		return coded(err, fedkv.CodeLost, "the connection to peer %s broke: %s", peer.Short(), errorText(err))
	}
}

// errorText is what an error says, fit for a terminal: of a handshake that this side ended, the reason
// without QUIC's number for it.
func errorText(err error) string {
	if err == nil {
		return "unknown cause"
	}
	var transport *quic.TransportError
	if errors.As(err, &transport) && !transport.Remote {
		for _, inner := range transport.Unwrap() {
			if inner != nil && inner != net.ErrClosed {
				err = inner
			}
		}
	}
	return fedkv.CleanText(err.Error())
}

// isTimeout reports whether a stream's deadline, and nothing worse, ended a call.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// dialError says why an attempt to reach a peer failed. ctx is the caller's; err is what quic-go or the
// resolver gave, or the end of the connection during the opening.
func dialError(ctx context.Context, peer PeerAddress, err error) error {
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return contextError(ctx, "dialling "+peer.ID.Short())
	}
	var (
		wrong       *wrongIDError
		application *quic.ApplicationError
		transport   *quic.TransportError
		lookup      *net.DNSError
		network     *net.OpError
	)
	result := &DialError{Peer: peer, Cause: err}
	reason := func(reason error, code fedkv.Code, format string, args ...any) error {
		result.Reason, result.Code, result.Text = reason, code, fmt.Sprintf(format, args...)
		return result
	}
	name, where := peer.called(), peer.HostPort
	switch {
	case errors.As(err, &wrong):
		result.Got = wrong.got
		return reason(ErrWrongID, fedkv.CodeForbidden,
			"another device answers at %s: expected %s, got %s; if the device was set up anew, read its new ID from the device itself, otherwise do not trust this address",
			where, peer.ID, wrong.got)
	case errors.As(err, &application) && application.Remote:
		code, text := wireCode(application.ErrorCode), fedkv.CleanText(application.ErrorMessage)
		if code == 0 {
			return reason(ErrUnreachable, fedkv.CodeLost, "peer %s at %s is shutting down: try again when it is back", name, where)
		}
		if text == "" {
			text = code.Text()
		}
		return reason(ErrRefused, code, "peer %s at %s refused this device: %s", name, where, text)
	case errors.As(err, &transport):
		return transportDialError(transport, reason, name, where)
	case errors.As(err, &lookup):
		return reason(ErrUnreachable, fedkv.CodeLost, "no address is known for %s: check the name, or write the IP address instead", where)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return reason(ErrUnreachable, fedkv.CodeLost, "this device has no route to %s: check its network, and that both devices are in the same one", where)
	case errors.As(err, &network):
		return reason(ErrUnreachable, fedkv.CodeLost, "cannot send to %s: %s", where, errorText(network.Err))
	default: // silence, in one of quic-go's several forms
		port := where[strings.LastIndexByte(where, ':')+1:]
		return reason(ErrUnreachable, fedkv.CodeLost,
			"no answer from peer %s at %s: check that it is running, that the address is right and that its firewall lets UDP port %s in",
			name, where, port)
	}
}

// TLS alerts appear in QUIC as 0x100 plus the alert's number (RFC 9001 4.8).
const (
	firstTLSAlert    = 0x100
	lastTLSAlert     = firstTLSAlert + 0xff
	alertUnknownALPN = firstTLSAlert + 120
)

func transportDialError(err *quic.TransportError, reason func(error, fedkv.Code, string, ...any) error, name, where string) error {
	alert := err.ErrorCode >= firstTLSAlert && err.ErrorCode <= lastTLSAlert
	switch {
	case err.ErrorCode == quic.ConnectionRefused:
		return reason(ErrRefused, fedkv.CodeBusy, "peer %s at %s takes no more connections now: try again shortly", name, where)
	case err.ErrorCode == alertUnknownALPN:
		return reason(ErrRefused, fedkv.CodeVersion, "another program, or another version of fedattn, answers at %s: check the port, and install the same release on both devices", where)
	case alert && err.Remote:
		return reason(ErrRefused, fedkv.CodeForbidden, "what answers at %s does not accept this device's key (%s): install the same release of fedattn on both devices", where, errorText(err))
	case alert:
		return reason(ErrWrongID, fedkv.CodeForbidden, "what answers at %s is not a fedattn device (%s): check the address", where, errorText(err))
	default:
		return reason(ErrUnreachable, fedkv.CodeProtocol, "no connection to peer %s at %s: %s", name, where, errorText(err))
	}
}

// listenError says why there is no socket at an address.
func listenError(err error, listen string) error {
	_, port, splitErr := net.SplitHostPort(listen)
	switch {
	case splitErr != nil:
		return coded(err, fedkv.CodeInternal, "%q is not an address to listen at: write host:port or :port with --listen", listen)
	case errors.Is(err, syscall.EADDRINUSE):
		return coded(err, fedkv.CodeInternal, "UDP port %s is in use, perhaps by another fedattn: stop it, or choose another port with --listen", port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return coded(err, fedkv.CodeInternal, "this device does not have the address %s: choose one of its own, or only :%s, with --listen", listen, port)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return coded(err, fedkv.CodeInternal, "no permission to listen at UDP port %s: choose a port above 1023 with --listen", port)
	default:
		return coded(err, fedkv.CodeInternal, "cannot listen at %s: %v; choose another address with --listen", listen, err)
	}
}
