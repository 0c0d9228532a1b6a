package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// dialer makes outgoing connections from the endpoint's socket.
type dialer struct {
	transport   *quic.Transport
	certificate tls.Certificate
	config      *quic.Config
	local       net.Addr
	protocol    string
}

// dial tries the peer's addresses one after the other, each for its share of the time that ctx leaves. It
// goes on to the next only when nothing answers.
func (d dialer) dial(ctx context.Context, to PeerAddress) (*quic.Conn, error) {
	var addresses []net.Addr
	var err error
	for hostPort := range strings.SplitSeq(to.HostPort, ",") {
		found, failed := d.resolve(ctx, hostPort)
		addresses, err = append(addresses, found...), errors.Join(err, failed)
	}
	if len(addresses) == 0 {
		return nil, err
	}
	config := dialTLS(d.certificate, d.protocol, to.ID)
	for i, address := range addresses {
		attempt, cancel := shareOf(ctx, len(addresses)-i)
		var conn *quic.Conn
		conn, err = d.transport.Dial(attempt, address, config, d.config)
		cancel()
		if err == nil || isAnswer(err) {
			return conn, err
		}
	}
	return nil, err
}

// isAnswer reports whether a failed dial reached somebody.
func isAnswer(err error) bool {
	var transport *quic.TransportError
	var application *quic.ApplicationError
	return errors.As(err, &transport) || errors.As(err, &application)
}

// shareOf ends after the time that ctx leaves divided by n.
func shareOf(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n <= 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

// resolve lists the addresses of host:port that the socket can reach, IPv4 first: in a home network that is
// the one that works, while names there often carry IPv6 addresses that do not.
func (d dialer) resolve(ctx context.Context, hostPort string) ([]net.Addr, error) {
	host, portText, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	var found []net.Addr
	for _, ip := range ips {
		if ip = ip.Unmap(); d.reaches(ip) {
			found = append(found, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port))))
		}
	}
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "no address of a family that the socket has", Name: host, IsNotFound: true}
	}
	slices.SortStableFunc(found, func(a, b net.Addr) int {
		return family(a) - family(b)
	})
	return found, nil
}

// family is 4 or 6.
func family(a net.Addr) int {
	if a.(*net.UDPAddr).IP.To4() != nil {
		return 4
	}
	return 6
}

// reaches reports whether the socket can send to ip: one bound to an IPv4 address has no IPv6, and one bound
// to a certain IPv6 address has no IPv4.
func (d dialer) reaches(ip netip.Addr) bool {
	local, ok := d.local.(*net.UDPAddr)
	if !ok {
		return true
	}
	if local.IP.To4() != nil {
		return ip.Is4()
	}
	return !ip.Is4() || len(local.IP) == 0 || local.IP.IsUnspecified()
}

// openControl opens the control stream and waits for the peer's verdict on this device.
func openControl(ctx context.Context, conn *quic.Conn) (*quic.Stream, error) {
	control, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	nonce := rand.Uint64()
	frame, err := fedkv.AppendMessage(nil, fedkv.Ping{Nonce: nonce})
	if err != nil {
		return nil, err
	}
	if _, err := control.Write(frame); err != nil {
		return nil, err
	}
	answer, err := openingPing(ctx, control)
	if err != nil {
		return nil, err
	}
	if !answer.Reply || answer.Nonce != nonce {
		return nil, fedkv.Errorf(fedkv.CodeProtocol, "the peer answered something else than it was asked")
	}
	return control, nil
}

// openingPing reads the first message of a control stream, which must be a Ping.
func openingPing(ctx context.Context, control *quic.Stream) (fedkv.Ping, error) {
	stop := context.AfterFunc(ctx, func() { control.SetReadDeadline(time.Unix(1, 0)) })
	frames := frameReader{from: control}
	first, err := frames.next()
	if !stop() { // the deadline stays behind in the past
		return fedkv.Ping{}, context.Cause(ctx)
	}
	if err != nil {
		return fedkv.Ping{}, err
	}
	ping, ok := first.(fedkv.Ping)
	if !ok {
		return fedkv.Ping{}, fedkv.Errorf(fedkv.CodeProtocol, "the peer did not begin with a ping")
	}
	return ping, nil
}
