package main

import (
	"net"
	"testing"
)

func TestReachable(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "192.0.2.7", "2001:db8::1"} {
		addr := &net.UDPAddr{IP: net.ParseIP(ip), Port: 7843}
		if got := reachable(addr); len(got) != 1 || got[0] != addr.String() {
			t.Errorf("a socket at %v is reached at %v", addr, got)
		}
	}
	for _, ip := range []net.IP{net.IPv4zero, net.IPv6unspecified} {
		got := reachable(&net.UDPAddr{IP: ip, Port: 7843})
		if len(got) == 0 {
			t.Errorf("a socket at %v is reached nowhere", ip)
		}
		for _, text := range got {
			addr, err := net.ResolveUDPAddr("udp", text)
			if err != nil || addr.Port != 7843 || addr.IP.IsUnspecified() {
				t.Errorf("a socket at %v is reached at %q: %v", ip, text, err)
			}
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:0": true, "127.1.2.3:7843": true, "[::1]:7843": true, "localhost:7843": true,
		":7843": false, "0.0.0.0:7843": false, "192.168.1.2:7843": false, "[::]:7843": false, "pi:7843": false, "127.0.0.1": false, "": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("isLoopback(%q) is %v", address, got)
		}
	}
}
