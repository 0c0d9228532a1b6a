package transport

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// PeerAddress says whom to reach and where: the ID pins the peer, the address only finds it.
type PeerAddress struct {
	ID       ID
	HostPort string // host:port, or several with commas; a host is a name or an IP address, IPv6 in brackets
	Name     string // what this device's owner calls it, for errors; may be empty
}

// called is how errors name the peer.
func (a PeerAddress) called() string {
	if a.Name != "" {
		return a.Name
	}
	return a.ID.Short()
}

// ParsePeerAddress reads ID@host:port.
func ParsePeerAddress(text string) (PeerAddress, error) {
	name, hostPort, found := strings.Cut(strings.TrimSpace(text), "@")
	if !found {
		return PeerAddress{}, fmt.Errorf("the peer address %q has no ID: write ID@host:port", text)
	}
	id, err := ParseID(name)
	if err != nil {
		return PeerAddress{}, err
	}
	if err := checkHostPorts(hostPort); err != nil {
		return PeerAddress{}, fmt.Errorf("the peer address of %s: %w", id.Short(), err)
	}
	return PeerAddress{ID: id, HostPort: hostPort}, nil
}

// String returns ID@host:port, which ParsePeerAddress reads back.
func (a PeerAddress) String() string { return string(a.ID) + "@" + a.HostPort }

// checkHostPorts holds every part of a list to checkHostPort.
func checkHostPorts(list string) error {
	for hostPort := range strings.SplitSeq(list, ",") {
		if err := checkHostPort(hostPort); err != nil {
			return err
		}
	}
	return nil
}

// checkHostPort refuses what net.Dial would complain about late or in other words.
func checkHostPort(hostPort string) error {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		var detail *net.AddrError
		if errors.As(err, &detail) {
			return fmt.Errorf("%q is not host:port (%s)", hostPort, detail.Err)
		}
		return fmt.Errorf("%q is not host:port", hostPort)
	}
	if host == "" {
		return fmt.Errorf("%q names no host", hostPort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is not a port: 1 to 65535", port)
	}
	return nil
}
