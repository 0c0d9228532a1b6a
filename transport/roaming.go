package transport

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// roamingSocket is a UDP socket that bears a gap between two networks: a device that changes its address has none for a
// moment, and the kernel refuses what is sent then. QUIC takes such an error for the end of a connection, though it bears
// the loss of packets; so for as long as connections live without a sign of life, refused packets count as lost. What was
// never reached is an error at once.
type roamingSocket struct {
	*net.UDPConn
	sent atomic.Int64 // when a packet was last taken, Unix nanoseconds
}

// WriteMsgUDP sends a packet with control data, as net.UDPConn's does.
func (s *roamingSocket) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	if n, oobn, err = s.UDPConn.WriteMsgUDP(b, oob, to); s.bears(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// WriteTo sends a packet, as net.UDPConn's does.
func (s *roamingSocket) WriteTo(b []byte, to net.Addr) (n int, err error) {
	if n, err = s.UDPConn.WriteTo(b, to); s.bears(err) {
		return len(b), nil
	}
	return n, err
}

// bears reports whether an error may pass for a lost packet.
func (s *roamingSocket) bears(err error) bool {
	if err == nil {
		s.sent.Store(time.Now().UnixNano())
		return false
	}
	return withoutNetwork(err) && time.Since(time.Unix(0, s.sent.Load())) < RoamingGap
}

// withoutNetwork reports whether the device itself has no way to the address now.
func withoutNetwork(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
