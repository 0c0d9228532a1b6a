package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

// lookout connects to other devices to see whether they are there. Nobody can connect to it. Only a session with the
// pinned key tells who is present: what is announced on the network does not.
type lookout struct {
	endpoint  *transport.Endpoint
	discovery discovery
}

func newLookout(c *cli.Context) (l lookout, err error) {
	if l.discovery, err = readDiscovery(c); err != nil {
		return l, err
	}
	identity, err := loadIdentity(c)
	if err != nil {
		return l, err
	}
	l.endpoint, err = transport.Listen(transport.Config{Identity: identity, Allow: func(transport.ID) error {
		return fedkv.Errorf(fedkv.CodeForbidden, "this device only looks who is there")
	}})
	return l, err
}

// reach connects to a device where it is known to be, or else where it is announced.
func (l lookout) reach(ctx context.Context, to transport.PeerAddress) (node.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, findTime+2*transport.HandshakeTimeout)
	defer cancel()
	return l.discovery.dial(ctx, peers{Endpoint: l.endpoint, called: func(transport.ID) string { return to.Name }}, to)
}

// reachOne connects to one device until hangUp is called.
func reachOne(c *cli.Context, to transport.PeerAddress) (link node.Link, hangUp func(), err error) {
	l, err := newLookout(c)
	if err != nil {
		return nil, nil, err
	}
	if link, err = l.reach(c.Context, to); err != nil {
		return nil, nil, errors.Join(err, l.endpoint.Close())
	}
	return link, func() { _, _ = link.Close(0, ""), l.endpoint.Close() }, nil
}

// echo is the time to a device and back.
func echo(ctx context.Context, at node.Link) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, transport.HandshakeTimeout)
	defer cancel()
	began := time.Now()
	err := at.Flush(ctx)
	return time.Since(began), err
}

// lookForAll fills in who of the known peers is there.
func lookForAll(c *cli.Context, known transport.KnownPeers, lines []peerLine) error {
	if len(known) == 0 {
		return nil
	}
	l, err := newLookout(c)
	if err != nil {
		return err
	}
	defer l.endpoint.Close()
	var looking sync.WaitGroup
	for i, p := range known {
		looking.Go(func() {
			lines[i].Present = new(bool)
			link, err := l.reach(c.Context, addressOf(p))
			if err == nil {
				defer link.Close(0, "")
				var rtt time.Duration
				if rtt, err = echo(c.Context, link); err == nil {
					*lines[i].Present, lines[i].At, lines[i].RTTMS = true, link.Addr(), milliseconds(rtt)
				}
			}
			if err != nil {
				lines[i].Error = err.Error()
			}
		})
	}
	looking.Wait()
	return c.Context.Err()
}

// peerOf is the device that a flag names.
func peerOf(c *cli.Context, flag string) (transport.PeerAddress, error) {
	to, err := peerNamed(c, c.String(flag))
	if err != nil {
		return to, usagef("--%s: %v", flag, err)
	}
	return to, nil
}

func peerNamed(c *cli.Context, name string) (transport.PeerAddress, error) {
	known, err := knownPeers(c)
	if err != nil {
		return transport.PeerAddress{}, err
	}
	return findPeer(name, known)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func pingCommand() *cli.Command {
	return &cli.Command{
		Name:      "ping",
		Usage:     "see whether a device is there, and how far away",
		UsageText: "fedattn ping [flags] NAME|ID@HOST:PORT",
		Description: "Connects as a question would, with the pinned key, and sends small messages that come back. Exit code 1 if the device is\n" +
			"not there, does not know this one, or shows another key.",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "count", Aliases: []string{"c"}, Value: 3, Usage: "`N` round trips"},
			&cli.BoolFlag{Name: "rate", Usage: "send a node 16 MiB and get as much, and show how fast that was", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line and round trip", DisableDefaultText: true},
			configFlag(),
		}, discoveryFlags("")...),
		Action: runPing,
	}
}

// pong is what ping --json prints.
type pong struct {
	Name  string       `json:"name,omitempty"`
	ID    transport.ID `json:"id"`
	At    string       `json:"at"`
	RTTMS float64      `json:"rtt_ms"`
}

// pingEvery is the time between two round trips.
const pingEvery = 200 * time.Millisecond

func runPing(c *cli.Context) error {
	args, err := words(c, "name")
	if err != nil {
		return err
	}
	if len(args) != 1 {
		return usagef("name one device: fedattn ping [flags] NAME, as in fedattn peers, or ID@HOST:PORT")
	}
	if err := atLeast(c, 1, "count"); err != nil {
		return err
	}
	to, err := peerNamed(c, args[0])
	if err != nil {
		return usagef("%v", err)
	}
	link, hangUp, err := reachOne(c, to)
	if err != nil {
		return err
	}
	defer hangUp()
	for i := range c.Int("count") {
		if i > 0 {
			select {
			case <-time.After(pingEvery):
			case <-c.Context.Done():
				return c.Context.Err()
			}
		}
		rtt, err := echo(c.Context, link)
		if err != nil {
			return err
		}
		p := pong{to.Name, to.ID, link.Addr(), milliseconds(rtt)}
		if c.Bool("json") {
			if err := json.NewEncoder(c.App.Writer).Encode(p); err != nil {
				return err
			}
			continue
		}
		name := p.Name
		if name == "" {
			name = p.ID.Short()
		}
		fmt.Fprintf(c.App.Writer, "%s at %s: %.1f ms\n", name, p.At, p.RTTMS)
	}
	if !c.Bool("rate") {
		return nil
	}
	r, err := measureLink(c.Context, link)
	if gone := link.Err(); err != nil && gone != nil {
		err = gone // which says why
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(r)
	}
	fmt.Fprintf(c.App.Writer, "%.0f Mbit/s from it, %.0f Mbit/s to it\n", r.From/1e6, r.To/1e6)
	return nil
}
