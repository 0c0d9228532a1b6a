package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

// findTime is how long a question waits for a peer of which no address is known, or none that answers.
const findTime = 2 * time.Second

// discoveryFlags say where devices look for each other.
func discoveryFlags(category string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "cluster", Value: "home", Usage: "`NAME` of the devices that look for each other by mDNS; it keeps nobody out",
			EnvVars: []string{"FEDATTN_CLUSTER"}, Category: category},
		&cli.StringSliceFlag{Name: "interface", Usage: "`NAME` of a network interface for mDNS", DefaultText: "all but those of containers", Category: category},
		&cli.BoolFlag{Name: "no-mdns", Usage: "neither announce this device nor look for others", DisableDefaultText: true,
			EnvVars: []string{"FEDATTN_NO_MDNS"}, Category: category},
	}
}

// discovery is what the flags say; on is false where there is nobody to find.
type discovery struct {
	on         bool
	cluster    string
	interfaces []string
}

func readDiscovery(c *cli.Context) (d discovery, err error) {
	d.cluster = c.String("cluster")
	if err := transport.CheckCluster(d.cluster); err != nil {
		return d, usagef("--cluster: %v", err)
	}
	if c.Bool("no-mdns") {
		return d, nil
	}
	if d.interfaces, err = transport.MulticastInterfaces(c.StringSlice("interface")); err != nil {
		return d, usagef("--interface: %v", err)
	}
	d.on = len(d.interfaces) > 0
	return d, nil
}

// announce tells the network about a node until the context ends, and watches for others with its key. That it does not
// work is no reason not to serve.
func (d discovery) announce(ctx context.Context, name string, id transport.ID, addr net.Addr, log zerolog.Logger) {
	udp, ok := addr.(*net.UDPAddr)
	if !d.on || !ok || udp.IP.IsLoopback() {
		return
	}
	go func() {
		err := transport.Announce(ctx, transport.Announcement{Name: name, ID: id, Cluster: d.cluster, Port: udp.Port, Interfaces: d.interfaces})
		if err != nil {
			log.Warn().Err(err).Msg("others find this node by its address only")
		}
	}()
	go func() {
		_ = transport.Browse(ctx, d.cluster, d.interfaces, transport.NewFound(), func(e transport.Event) {
			log.Warn().Str("peer", string(e.Peer)).Stringer("kind", e.Kind).Msg(e.Text)
		})
	}()
}

// dial reaches a peer at the addresses that are known, or where it is announced now.
func (d discovery) dial(ctx context.Context, reach peers, to transport.PeerAddress) (node.Link, error) {
	m := meeting{known: to.HostPort, dial: func(ctx context.Context, hostPorts string) (node.Link, error) {
		return reach.Dial(ctx, node.Address{ID: string(to.ID), HostPort: hostPorts})
	}}
	if d.on && (to.Name != "" || to.HostPort == "") {
		m.find = func(ctx context.Context) string { return d.find(ctx, to.ID) }
	}
	link, err := m.meet(ctx)
	if errors.Is(err, errNowhere) {
		return nil, fedkv.Errorf(fedkv.CodeLost, "no address of %s is known and it is not announced here: write %s@HOST:PORT, or keep one with "+
			"fedattn peers set --address HOST:PORT %s", to.Name, to.Name, to.Name)
	}
	return link, err
}

// find lists the addresses under which a device is announced, with commas; none if it is not heard of before the context ends.
func (d discovery) find(ctx context.Context, id transport.ID) string {
	if !d.on {
		return ""
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := transport.NewFound()
	browsed := make(chan struct{})
	go func() {
		defer close(browsed)
		_ = transport.Browse(ctx, d.cluster, d.interfaces, found, nil)
	}()
	found.Await(ctx, []transport.ID{id})
	cancel()
	<-browsed
	return strings.Join(found.Addresses(id), ",")
}
