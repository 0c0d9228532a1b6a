package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv/policy"
	"fedattn/transport"
)

// defaultListen is where a node listens, and inviteListen where an invitation waits, while a node may run.
const (
	defaultListen = ":7843"
	inviteListen  = ":7844"
)

const pairingCategory = "Pairing"

// pairingFlags are what invite and join have in common.
func pairingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "rights", Value: policy.Both.String(), Usage: "`WHAT` the other device may do here: ask, contribute, both", Category: pairingCategory},
		&cli.StringFlag{Name: "trust", Value: policy.Home.String(), Usage: "`WHAT` of this device's texts may go to it: home (nothing), rows (from which it could recover them)",
			Category: pairingCategory},
		&cli.StringFlag{Name: "as", Usage: "`NAME` under which this device knows the other one", DefaultText: "what it calls itself", Category: pairingCategory},
		&cli.StringFlag{Name: "node", Value: defaultListen, Usage: "`ADDRESS` at which a node of this device listens", EnvVars: []string{"FEDATTN_LISTEN"}, Category: deviceCategory},
		&cli.StringFlag{Name: "host", Usage: "`HOST` under which others reach this device", DefaultText: "all of its addresses", Category: deviceCategory},
		nameFlag(), configFlag(),
	}
}

func inviteCommand() *cli.Command {
	return &cli.Command{
		Name:      "invite",
		Usage:     "pair this device with another one: prints the line for fedattn join",
		UsageText: "fedattn invite [flags]",
		Description: "Prints an invitation, one line with this device's addresses, its identity and a secret, and waits until a device joins\n" +
			"with it. It is good for one device, 10 minutes and 3 tries; carry it over a way that you trust. Both devices then know\n" +
			"each other's key. What the other device may do here is decided here, what this one may do there is decided there.",
		Flags: append(pairingFlags(),
			&cli.StringFlag{Name: "listen", Value: inviteListen, Usage: "UDP `ADDRESS` to wait at", EnvVars: []string{"FEDATTN_INVITE_LISTEN"}, Category: deviceCategory},
		),
		Action: runInvite,
	}
}

func joinCommand() *cli.Command {
	return &cli.Command{
		Name:      "join",
		Usage:     "pair this device with the one that printed an invitation",
		UsageText: "fedattn join [flags] [LINE]   (without LINE, or with -, it is read from stdin)",
		Description: "Reads an invitation from stdin or --file, so that its secret is not in the list of processes and not in the shell's\n" +
			"history; as an argument it works too.",
		Flags: append(pairingFlags(),
			&cli.StringFlag{Name: "file", Usage: "read the invitation from `FILE`", EnvVars: []string{"FEDATTN_INVITATION"}, Category: pairingCategory},
		),
		Action: runJoin,
	}
}

// pairing is what the flags of invite and join say.
type pairing struct {
	dir      string
	identity transport.Identity
	rights   policy.Rights
	trust    policy.Trust
	as       string
	self     transport.Introduction
}

func readPairing(c *cli.Context) (p pairing, err error) {
	if p.rights, err = policy.ParseRights(c.String("rights")); err != nil {
		return p, usagef("--rights: %v", err)
	}
	if p.trust, err = policy.ParseTrust(c.String("trust")); err != nil {
		return p, usagef("--trust: %v", err)
	}
	if p.as = c.String("as"); p.as != "" {
		if err := transport.CheckPeerName(p.as); err != nil {
			return p, usagef("--as: %v", err)
		}
	}
	address, err := net.ResolveUDPAddr("udp", c.String("node"))
	if err != nil || address.Port == 0 {
		return p, usagef("--node %q is not an address to listen at: write host:port or :port", c.String("node"))
	}
	if p.dir, err = configDir(c); err != nil {
		return p, err
	}
	if p.identity, err = loadIdentity(c); err != nil {
		return p, err
	}
	p.self = transport.Introduction{Name: deviceName(c), Addresses: hosted(c, address), Rights: p.rights, Trust: p.trust}
	return p, nil
}

// hosted lists the addresses of a socket, with --host in place of this device's own.
func hosted(c *cli.Context, addr net.Addr) []string {
	if host := c.String("host"); host != "" {
		_, port, _ := net.SplitHostPort(addr.String())
		return []string{net.JoinHostPort(host, port)}
	}
	list := reachable(addr)
	return list[:min(len(list), 4)]
}

// keep pins the other device.
func (p pairing) keep(paired transport.Paired, name *string) error {
	*name = p.as
	if *name == "" {
		*name = transport.PeerNameOf(paired.Name)
	}
	return transport.UpdateKnownPeers(p.dir, func(known *transport.KnownPeers) error {
		return known.Pin(transport.KnownPeer{
			Name: *name, ID: paired.ID, Rights: p.rights, Trust: p.trust, Since: time.Now(), Addresses: paired.Addresses,
		})
	})
}

// tell says on stderr what was agreed.
func (p pairing) tell(w io.Writer, name string, paired transport.Paired) {
	fmt.Fprintf(w, "paired with %s, %s\n", name, paired.ID)
	fmt.Fprintf(w, "here, %s %s\n", name, describe(p.rights, p.trust))
	fmt.Fprintf(w, "there, this device %s\n", describe(paired.Rights, paired.Trust))
	if p.trust == policy.Home {
		fmt.Fprintf(w, "if rows may go to it, because it is yours or you trust it with your texts: fedattn peers set --trust rows %s\n", name)
	}
}

func runInvite(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	p, err := readPairing(c)
	if err != nil {
		return err
	}
	var name string
	inviter, err := transport.Invite(p.identity, c.String("listen"), func(a net.Addr) []string { return hosted(c, a) }, p.self,
		func(paired transport.Paired) error { return p.keep(paired, &name) })
	if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, inviter.Invitation().Line())
	fmt.Fprintf(c.App.ErrWriter, "on the other device, within %v: fedattn join, and give it this line\n", transport.InvitationLife)
	paired, err := inviter.Wait(c.Context)
	if err != nil {
		return err
	}
	p.tell(c.App.ErrWriter, name, paired)
	return nil
}

func runJoin(c *cli.Context) error {
	line, err := invitationLine(c)
	if err != nil {
		return err
	}
	invitation, err := transport.ParseInvitation(line)
	if err != nil {
		return usageError{err}
	}
	p, err := readPairing(c)
	if err != nil {
		return err
	}
	var name string
	paired, err := transport.Join(c.Context, p.identity, invitation, p.self,
		func(paired transport.Paired) error { return p.keep(paired, &name) })
	if err != nil {
		return err
	}
	p.tell(c.App.ErrWriter, name, paired)
	return nil
}

// invitationLine is the argument, the file, or the first line of stdin.
func invitationLine(c *cli.Context) (string, error) {
	const most = 4096
	args, err := words(c, "invitation")
	if err != nil {
		return "", err
	}
	var from io.Reader = c.App.Reader
	switch path := c.String("file"); {
	case path != "" && len(args) > 0 || len(args) > 1:
		return "", usagef("more than one invitation: give one line, from stdin, --file or as the argument")
	case path != "":
		file, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("%w; give the file of an invitation with --file", err)
		}
		defer file.Close()
		from = file
	case len(args) == 1 && args[0] != "-":
		return args[0], nil
	default:
		if onTerminal(c.App.Reader) {
			fmt.Fprint(c.App.ErrWriter, "invitation: ")
		}
	}
	var line strings.Builder
	for b := make([]byte, 1); line.Len() < most; { // no byte beyond the line, which may be somebody else's
		n, err := from.Read(b)
		if n == 1 && b[0] == '\n' && strings.TrimSpace(line.String()) != "" {
			break
		}
		line.Write(b[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
	}
	if strings.TrimSpace(line.String()) == "" {
		return "", usagef("no invitation: fedattn invite prints one on the other device")
	}
	return line.String(), nil
}
