package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/policy"
	"fedattn/transport"
)

func peersCommand() *cli.Command {
	return &cli.Command{
		Name:      "peers",
		Usage:     "list the devices that this one is paired with, and change what they may do",
		UsageText: "fedattn peers [list|remove|rename|set] [flags]",
		Description: "Pairing is done by fedattn invite and fedattn join. Changes take effect at once, in running nodes too: who is removed is\n" +
			"cut off in mid-session.",
		Flags:  peersListFlags(),
		Action: runPeersList,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "show who is known, and with --ping who is there", UsageText: "fedattn peers list [flags]",
				Flags: peersListFlags(), Action: runPeersList,
			},
			{
				Name: "remove", Usage: "forget a device: it may do nothing here any more", UsageText: "fedattn peers remove [flags] NAME|ID",
				Flags: []cli.Flag{configFlag()}, Action: runPeersRemove,
			},
			{
				Name: "rename", Usage: "give a device another name", UsageText: "fedattn peers rename [flags] NAME NEW-NAME",
				Flags: []cli.Flag{configFlag()}, Action: runPeersRename,
			},
			{
				Name: "set", Usage: "change what a device may do, or where it is", UsageText: "fedattn peers set [flags] NAME",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "rights", Usage: "`WHAT` it may do here: ask, contribute, both"},
					&cli.StringFlag{Name: "trust", Usage: "`WHAT` of this device's texts may go to it: home (nothing), rows"},
					&cli.StringFlag{Name: "address", Usage: "`HOST:PORT` of its node, several with commas; - for none"},
					configFlag(),
				},
				Action: runPeersSet,
			},
		},
	}
}

func peersListFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "ping", Usage: "connect to each and show its round-trip time", DisableDefaultText: true},
		&cli.BoolFlag{Name: "json", Usage: "one JSON object a line", DisableDefaultText: true},
		configFlag(),
	}, discoveryFlags("")...)
}

// peerLine is what peers list --json prints.
type peerLine struct {
	Name      string        `json:"name"`
	ID        transport.ID  `json:"id"`
	Rights    policy.Rights `json:"rights"`
	Trust     policy.Trust  `json:"trust"`
	Since     string        `json:"since"`
	Addresses []string      `json:"addresses"`
	Present   *bool         `json:"present,omitempty"` // with --ping
	At        string        `json:"at,omitempty"`      // where it answered
	RTTMS     float64       `json:"rtt_ms,omitempty"`
	Error     string        `json:"error,omitempty"`
}

// presence is what is known of a peer that was looked for.
func (l peerLine) presence() string {
	if !*l.Present {
		return l.Error
	}
	return fmt.Sprintf("here, %.1f ms", l.RTTMS)
}

func runPeersList(c *cli.Context) error {
	if c.Args().Present() && c.Command.Name == "peers" {
		return usagef("there is no command peers %q; see fedattn peers --help", c.Args().First())
	}
	if err := noArguments(c); err != nil {
		return err
	}
	known, err := knownPeers(c)
	if err != nil {
		return err
	}
	lines := peerLines(known)
	if c.Bool("ping") {
		if err := lookForAll(c, known, lines); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return jsonLines(c.App.Writer, lines)
	}
	if len(lines) == 0 {
		fmt.Fprintln(c.App.ErrWriter, "no peer is known: fedattn invite here and fedattn join on another device pair them")
		return nil
	}
	header := []string{"name", "rights", "trust", "since", "addresses", "id"}
	if c.Bool("ping") {
		header = append(header, "presence")
	}
	rows := newTable(c.App.Writer, header...)
	for _, l := range lines {
		row := table.Row{l.Name, l.Rights.String(), l.Trust.String(), l.Since, strings.Join(l.Addresses, ","), l.ID}
		if l.Present != nil {
			row = append(row, l.presence())
		}
		rows.AppendRow(row)
	}
	rows.Render()
	return nil
}

func peerLines(known transport.KnownPeers) []peerLine {
	lines := make([]peerLine, len(known))
	for i, p := range known {
		lines[i] = peerLine{Name: p.Name, ID: p.ID, Rights: p.Rights, Trust: p.Trust, Since: p.Since.Format(time.DateOnly), Addresses: p.Addresses}
	}
	return lines
}

// updatePeers changes the list of known peers, which has to be named by exactly these arguments.
func updatePeers(c *cli.Context, arguments string, update func(args []string, known *transport.KnownPeers) error) error {
	args, err := words(c, "name")
	if err != nil {
		return err
	}
	if len(args) != len(strings.Fields(arguments)) {
		return usagef("fedattn peers %s takes %s; see fedattn peers %s --help", c.Command.Name, arguments, c.Command.Name)
	}
	dir, err := configDir(c)
	if err != nil {
		return err
	}
	return transport.UpdateKnownPeers(dir, func(known *transport.KnownPeers) error { return update(args, known) })
}

func runPeersRemove(c *cli.Context) error {
	return updatePeers(c, "NAME", func(args []string, known *transport.KnownPeers) error {
		removed, err := known.Remove(args[0])
		if err == nil {
			fmt.Fprintf(c.App.ErrWriter, "removed %s, %s\n", removed.Name, removed.ID)
		}
		return err
	})
}

func runPeersRename(c *cli.Context) error {
	return updatePeers(c, "NAME NEW-NAME", func(args []string, known *transport.KnownPeers) error {
		return known.Change(args[0], func(p *transport.KnownPeer) { p.Name = args[1] })
	})
}

func runPeersSet(c *cli.Context) error {
	if !c.IsSet("rights") && !c.IsSet("trust") && !c.IsSet("address") {
		return usagef("nothing to change: give --rights, --trust or --address")
	}
	var rights policy.Rights
	var trust policy.Trust
	var err error
	if c.IsSet("rights") {
		if rights, err = policy.ParseRights(c.String("rights")); err != nil {
			return usagef("--rights: %v", err)
		}
	}
	if c.IsSet("trust") {
		if trust, err = policy.ParseTrust(c.String("trust")); err != nil {
			return usagef("--trust: %v", err)
		}
	}
	return updatePeers(c, "NAME", func(args []string, known *transport.KnownPeers) error {
		var now transport.KnownPeer
		err := known.Change(args[0], func(p *transport.KnownPeer) {
			if c.IsSet("rights") {
				p.Rights = rights
			}
			if c.IsSet("trust") {
				p.Trust = trust
			}
			if a := c.String("address"); a == "-" {
				p.Addresses = nil
			} else if a != "" {
				p.Addresses = strings.Split(a, ",")
			}
			now = *p
		})
		if err == nil {
			fmt.Fprintf(c.App.ErrWriter, "%s %s\n", now.Name, describe(now.Rights, now.Trust))
		}
		return err
	})
}

// allPeers is what --peer says for every paired device that may contribute.
const allPeers = "all"

// namedPeers are the devices that --peer names.
func namedPeers(c *cli.Context) (list []transport.PeerAddress, err error) {
	var known transport.KnownPeers
	for _, text := range c.StringSlice("peer") {
		if known == nil {
			if known, err = knownPeers(c); err != nil {
				return nil, err
			}
		}
		if text != allPeers {
			a, err := namedPeer(text, known)
			if err != nil {
				return nil, usagef("--peer: %v", err)
			}
			list = append(list, a)
			continue
		}
		before := len(list)
		for _, p := range known {
			if p.Rights&policy.Contribute != 0 {
				list = append(list, addressOf(p))
			}
		}
		if len(list) == before {
			return nil, usagef("--peer all: no paired device may contribute; see fedattn peers")
		}
	}
	return list, nil
}

// namedPeer is the address of a peer that --peer names: see findPeer.
func namedPeer(text string, known transport.KnownPeers) (transport.PeerAddress, error) {
	name, _, _ := strings.Cut(text, "@")
	if p, found := known.Named(name); found && p.Rights&policy.Contribute == 0 {
		return transport.PeerAddress{}, fmt.Errorf("%s may ask this device, but not contribute: fedattn peers set --rights both %s lets it", name, name)
	}
	return findPeer(text, known)
}

// findPeer is the address of a device: ID@HOST:PORT, NAME of a known one, or NAME@HOST:PORT for one that is elsewhere than
// usual.
func findPeer(text string, known transport.KnownPeers) (transport.PeerAddress, error) {
	name, hostPort, elsewhere := strings.Cut(text, "@")
	p, found := known.Named(name)
	switch {
	case found && elsewhere:
		a, err := transport.ParsePeerAddress(string(p.ID) + "@" + hostPort)
		a.Name = p.Name
		return a, err
	case found:
		return addressOf(p), nil
	case elsewhere || strings.Contains(text, ":"):
		a, err := transport.ParsePeerAddress(text)
		if known, found := known.ByID(a.ID); err == nil && found {
			a.Name = known.Name
		}
		return a, err
	}
	return transport.PeerAddress{}, fmt.Errorf("no paired device is named %q: see fedattn peers, or write ID@HOST:PORT", text)
}

func addressOf(p transport.KnownPeer) transport.PeerAddress {
	return transport.PeerAddress{ID: p.ID, HostPort: strings.Join(p.Addresses, ","), Name: p.Name}
}

func knownPeers(c *cli.Context) (transport.KnownPeers, error) {
	dir, err := configDir(c)
	if err != nil {
		return nil, err
	}
	return transport.LoadKnownPeers(dir)
}
