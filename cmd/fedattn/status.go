package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/node/status"
	"fedattn/transport"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show this device, its nodes, and which of its peers are there",
		UsageText: "fedattn status [flags]",
		Description: "Connects to every paired device. Exit code 0 whatever it finds; fedattn health is for health checks, fedattn ping for\n" +
			"one device, fedattn doctor for what could be better.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "one JSON object", DisableDefaultText: true},
			nameFlag(), configFlag(), statusFlag(),
		}, discoveryFlags("")...),
		Action: runStatus,
	}
}

// overview is what status --json prints.
type overview struct {
	Name    string          `json:"name"`
	ID      transport.ID    `json:"id"`
	Version string          `json:"version"`
	Nodes   []status.Report `json:"nodes"`
	Peers   []peerLine      `json:"peers"`
}

func runStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	identity, err := loadIdentity(c)
	if err != nil {
		return err
	}
	known, err := knownPeers(c)
	if err != nil {
		return err
	}
	o := overview{Name: deviceName(c), ID: identity.ID(), Version: version, Nodes: []status.Report{}, Peers: peerLines(known)}
	nodes, err := status.All(c.Context, statusDir(c))
	if err != nil && !errors.Is(err, status.ErrNoNode) {
		return err
	}
	o.Nodes = append(o.Nodes, nodes...)
	if err := lookForAll(c, known, o.Peers); err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(o)
	}
	fmt.Fprintf(c.App.Writer, "%s, %s\n", o.Name, o.ID)
	for _, n := range o.Nodes {
		fmt.Fprintf(c.App.Writer, "node at %s: %s\n", n.Address, healthText(n))
	}
	if len(o.Nodes) == 0 {
		fmt.Fprintln(c.App.Writer, "no node runs here: this device asks, and contributes nothing to others")
	}
	if len(o.Peers) == 0 {
		fmt.Fprintln(c.App.Writer, "no peer is known: fedattn invite here and fedattn join on another device pair them")
		return nil
	}
	rows := newTable(c.App.Writer, "peer", "rights", "trust", "at", "presence")
	for _, p := range o.Peers {
		rows.AppendRow(table.Row{p.Name, p.Rights.String(), p.Trust.String(), p.At, p.presence()})
	}
	rows.Render()
	return nil
}
