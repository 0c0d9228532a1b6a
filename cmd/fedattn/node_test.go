package main

import (
	"net"
	"slices"
	"testing"

	"github.com/urfave/cli/v2"
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

func TestAdvertised(t *testing.T) {
	read := func(list ...string) (got advertised, err error) {
		app := &cli.App{Flags: []cli.Flag{advertiseFlag()}, Action: func(c *cli.Context) error {
			got, err = readAdvertised(c)
			return nil
		}}
		args := []string{"fedattn"}
		for _, a := range list {
			args = append(args, "--advertise", a)
		}
		if err := app.Run(args); err != nil {
			t.Fatal(err)
		}
		return got, err
	}
	socket := &net.UDPAddr{IP: net.IPv4zero, Port: 7843}
	for given, want := range map[string]string{
		"192.0.2.7": "192.0.2.7:7843", "192.0.2.7:9000": "192.0.2.7:9000", "pi.example": "pi.example:7843",
		"2001:db8::1": "[2001:db8::1]:7843", "[2001:db8::1]:9000": "[2001:db8::1]:9000",
	} {
		list, err := read(given)
		if got := list.of(socket); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s is told as %v, want %s (%v)", given, got, want, err)
		}
	}
	if list, err := read("a", "b:1"); err != nil || !slices.Equal(list.of(socket), []string{"a:7843", "b:1"}) {
		t.Errorf("two of them: %v, %v", list, err)
	}
	if list, err := read(); err != nil || !slices.Equal(list.of(socket), reachable(socket)) {
		t.Errorf("none: %v, %v", list, err)
	}
	for _, given := range []string{"pi:0", "pi:65536", "pi:x", ":7843", "a:b:c", "[2001:db8::1"} {
		if list, err := read(given); err == nil {
			t.Errorf("%s is %v", given, list)
		}
	}
}
