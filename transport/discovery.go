package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/brutella/dnssd"
	dnssdlog "github.com/brutella/dnssd/log"

	"fedattn/fedkv"
)

// Discovery finds addresses of devices on the same network by mDNS (RFC 6762, 6763). It finds addresses and nothing
// else: anybody may announce anything, so what is found is dialled with the pinned key, and only the session that
// follows says who is there.

const (
	serviceType   = "_fedattn._udp"
	serviceDomain = "local"

	// browseAgain is the time between two questions to the network: packets get lost.
	browseAgain = time.Second

	// maxFound bounds the devices, and maxFoundAddresses the addresses of each, that strangers can make this one keep.
	maxFound          = 256
	maxFoundAddresses = 8
)

// MaxCluster bounds a cluster's name in bytes.
const MaxCluster = 63

func init() { dnssdlog.Info.Disable() } // it would write to standard output, which belongs to the program

// Announcement is what a node tells its network.
type Announcement struct {
	Name       string // of the device, for people
	ID         ID
	Cluster    string   // devices of other clusters do not look; it keeps nobody out
	Port       int      // UDP
	Interfaces []string // by name, see MulticastInterfaces
}

// CheckCluster refuses what cannot stand in an announcement.
func CheckCluster(name string) error {
	if name == "" || len(name) > MaxCluster || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == '=' }) {
		return fmt.Errorf("%q is not the name of a cluster: 1 to %d printable characters without =", name, MaxCluster)
	}
	return nil
}

// Announce tells the network about a node until the context ends.
func Announce(ctx context.Context, a Announcement) error {
	name := a.Name + " " + a.ID.Short() // two devices may have one name
	if len(name) > 63 {
		name = strings.ToValidUTF8(name[:63-idGroup-1], "") + " " + a.ID.Short()
	}
	service, err := dnssd.NewService(dnssd.Config{
		Name: name, Type: serviceType, Domain: serviceDomain, Port: a.Port, Ifaces: a.Interfaces,
		Host: "fedattn-" + strings.ToLower(a.ID.Short()),
		Text: map[string]string{"v": "1", "id": string(a.ID), "cluster": a.Cluster},
	})
	if err != nil {
		return fmt.Errorf("this device cannot be announced by mDNS: %w", err)
	}
	responder, err := dnssd.NewResponder()
	if err != nil {
		return fmt.Errorf("this device cannot be announced by mDNS: %w", err)
	}
	if _, err := responder.Add(service); err != nil {
		return fmt.Errorf("this device cannot be announced by mDNS: %w", err)
	}
	if err := responder.Respond(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("this device is no longer announced by mDNS: %w", err)
	}
	return nil
}

// Found collects what announcements say. Its methods may be called from several goroutines.
type Found struct {
	mu        sync.Mutex
	addresses map[ID][]string
	hosts     map[ID]string // where an ID was seen first
	changed   chan struct{}
}

// NewFound has found nothing.
func NewFound() *Found {
	return &Found{addresses: map[ID][]string{}, hosts: map[ID]string{}, changed: make(chan struct{})}
}

// Addresses of a device, host:port, in the order in which they were heard.
func (f *Found) Addresses(id ID) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.addresses[id])
}

// Await returns when every one of these devices was found, or when the context ends.
func (f *Found) Await(ctx context.Context, ids []ID) {
	for {
		f.mu.Lock()
		missing := slices.ContainsFunc(ids, func(id ID) bool { return len(f.addresses[id]) == 0 })
		changed := f.changed
		f.mu.Unlock()
		if !missing {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// add takes one announcement. twin is where else the same ID was announced from, if it was.
func (f *Found) add(id ID, host string, hostPorts []string) (twin string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.addresses[id]; !known && len(f.addresses) >= maxFound {
		return ""
	}
	if first := f.hosts[id]; first == "" {
		f.hosts[id] = host
	} else if first != host {
		twin = first
	}
	list := f.addresses[id]
	for _, hp := range hostPorts {
		if !slices.Contains(list, hp) && len(list) < maxFoundAddresses {
			list = append(list, hp)
		}
	}
	f.addresses[id] = list
	close(f.changed)
	f.changed = make(chan struct{})
	return twin
}

// Browse adds to found what devices of a cluster announce on these interfaces, until the context ends. notify hears of
// an ID that is announced by two devices: one key has been copied.
func Browse(ctx context.Context, cluster string, interfaces []string, found *Found, notify func(Event)) error {
	add := func(e dnssd.BrowseEntry) {
		id, hostPorts, ok := readAnnouncement(e, cluster, interfaces)
		if !ok {
			return
		}
		if twin := found.add(id, e.Host, hostPorts); twin != "" && notify != nil {
			notify(Event{Kind: EventTwin, Peer: id, Addr: e.Host, Text: fmt.Sprintf("%s and %s both announce the identity of peer %s: "+
				"one key is on two devices; if that was not you, remove the peer", fedkv.CleanText(twin), fedkv.CleanText(e.Host), id.Short())})
		}
	}
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, browseAgain)
		err := dnssd.LookupType(once, serviceType+"."+serviceDomain+".", add, func(dnssd.BrowseEntry) {})
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no mDNS on this device: %w", err)
		}
	}
	return nil
}

// readAnnouncement is what an entry says, if it is meant for this cluster and came over one of the interfaces.
func readAnnouncement(e dnssd.BrowseEntry, cluster string, interfaces []string) (id ID, hostPorts []string, ok bool) {
	id, err := ParseID(e.Text["id"])
	if err != nil || e.Text["cluster"] != cluster || e.Port < 1 || e.Port > 65535 || !slices.Contains(interfaces, e.IfaceName) {
		return "", nil, false
	}
	ips := slices.Clone(e.IPs)
	slices.SortStableFunc(ips, func(a, b net.IP) int { return cmp.Compare(len(a.To4()), len(b.To4())) * -1 }) // IPv4 first
	for _, ip := range ips {
		if !ip.IsGlobalUnicast() && !ip.IsLoopback() { // link-local ones need a zone, which peers do not share
			continue
		}
		hostPorts = append(hostPorts, net.JoinHostPort(ip.String(), strconv.Itoa(e.Port)))
	}
	return id, hostPorts, len(hostPorts) > 0
}

// UsableInterface reports whether other devices may be behind an interface: bridges of container engines and their ends
// lead nowhere from another device.
func UsableInterface(name string) bool {
	return !slices.ContainsFunc([]string{"docker", "veth", "br-", "virbr", "cni", "flannel", "podman"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// MulticastInterfaces lists the interfaces for mDNS by name: those in only, or if it is empty all that are usable.
func MulticastInterfaces(only []string) ([]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range list {
		able := i.Flags&net.FlagUp != 0 && i.Flags&net.FlagMulticast != 0
		switch {
		case slices.Contains(only, i.Name) && !able:
			return nil, fmt.Errorf("the interface %s is down, or knows no multicast", i.Name)
		case slices.Contains(only, i.Name), len(only) == 0 && able && i.Flags&net.FlagLoopback == 0 && UsableInterface(i.Name):
			names = append(names, i.Name)
		}
	}
	for _, name := range only {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("there is no interface %s", name)
		}
	}
	return names, nil
}
