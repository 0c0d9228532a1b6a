package transport

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/brutella/dnssd"
)

func TestReadAnnouncement(t *testing.T) {
	id := newIdentity(t).ID()
	entry := func(change func(*dnssd.BrowseEntry)) dnssd.BrowseEntry {
		e := dnssd.BrowseEntry{
			IPs: []net.IP{net.ParseIP("fe80::1"), net.ParseIP("2001:db8::7"), net.ParseIP("192.0.2.7")}, Port: 7843, IfaceName: "eth0",
			Text: map[string]string{"id": string(id), "cluster": "home"},
		}
		change(&e)
		return e
	}
	got, hostPorts, ok := readAnnouncement(entry(func(*dnssd.BrowseEntry) {}), "home", []string{"eth0"})
	if !ok || got != id || !slices.Equal(hostPorts, []string{"192.0.2.7:7843", "[2001:db8::7]:7843"}) {
		t.Errorf("%v, %v, %v", got, hostPorts, ok)
	}
	for what, change := range map[string]func(*dnssd.BrowseEntry){
		"another cluster":   func(e *dnssd.BrowseEntry) { e.Text["cluster"] = "office" },
		"no ID":             func(e *dnssd.BrowseEntry) { delete(e.Text, "id") },
		"a broken ID":       func(e *dnssd.BrowseEntry) { e.Text["id"] = string(id)[1:] },
		"another interface": func(e *dnssd.BrowseEntry) { e.IfaceName = "docker0" },
		"port 0":            func(e *dnssd.BrowseEntry) { e.Port = 0 },
		"no address":        func(e *dnssd.BrowseEntry) { e.IPs = []net.IP{net.ParseIP("224.0.0.1"), nil} },
	} {
		if _, _, ok := readAnnouncement(entry(change), "home", []string{"eth0"}); ok {
			t.Errorf("%s was taken", what)
		}
	}
}

func TestFound(t *testing.T) {
	a, b := newIdentity(t).ID(), newIdentity(t).ID()
	f := NewFound()
	if twin := f.add(a, "one", []string{"192.0.2.1:1", "192.0.2.1:1"}); twin != "" {
		t.Errorf("a twin at %s", twin)
	}
	if twin := f.add(a, "one", []string{"192.0.2.2:1"}); twin != "" {
		t.Errorf("a device is its own twin at %s", twin)
	}
	if twin := f.add(a, "two", []string{"192.0.2.3:1"}); twin != "one" {
		t.Errorf("the twin is at %q", twin)
	}
	if got := f.Addresses(a); !slices.Equal(got, []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"}) {
		t.Errorf("%v", got)
	}
	for range 2 * maxFoundAddresses {
		f.add(b, "three", []string{net.JoinHostPort("192.0.2.9", string(rune('1'+len(f.Addresses(b)))))})
	}
	if got := f.Addresses(b); len(got) > maxFoundAddresses {
		t.Errorf("%d addresses of one device", len(got))
	}
	for range 2 * maxFound {
		f.add(newIdentity(t).ID(), "many", []string{"192.0.2.1:1"})
	}
	if len(f.addresses) > maxFound {
		t.Errorf("%d devices", len(f.addresses))
	}
	f.Await(t.Context(), []ID{a, b}) // both are there
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	f.Await(late, []ID{"nobody"})
	if late.Err() == nil {
		t.Error("nobody was found")
	}
}

func TestUsableInterface(t *testing.T) {
	for name, want := range map[string]bool{"eth0": true, "wlan0": true, "enp3s0": true, "bridge0": true, "docker0": false, "veth12ab": false, "br-1f2e": false} {
		if UsableInterface(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	if _, err := MulticastInterfaces([]string{"no-such-interface"}); err == nil {
		t.Error("an interface that does not exist")
	}
}

// One identity that comes from two addresses is two devices with one key, and that is said.
func TestTwins(t *testing.T) {
	var log eventLog
	b := listenLoopback(t, Config{Notify: log.add})
	a := listenLoopback(t, Config{})
	connect(t, a, b)
	twin := listenLoopback(t, Config{Identity: a.config.Identity, Listen: "127.0.0.2:0"})
	connect(t, twin, b)
	if events := log.events(); len(events) != 1 || events[0].Kind != EventTwin || events[0].Peer != a.ID() {
		t.Errorf("events %v, want one twin", events)
	}
}
