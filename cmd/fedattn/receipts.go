package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/receipt"
	"fedattn/transport"
)

func receiptsCommand() *cli.Command {
	return &cli.Command{
		Name:      "receipts",
		Usage:     "show what this device gave away, session by session",
		UsageText: "fedattn receipts [flags]",
		Description: "A node keeps a line for each session: when, to whom, which documents, tokens, layers and bytes; never the text. Lines are\n" +
			"signed with this device's key and chained, so that --verify finds what was changed, taken out or put in.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "verify", Usage: "check signatures and chain; a line that does not hold is an error", DisableDefaultText: true},
			&cli.BoolFlag{Name: "by-document", Usage: "sum up what went to whom of each document", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line", DisableDefaultText: true},
			configFlag(),
		},
		Action: runReceipts,
	}
}

func runReceipts(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	dir, err := configDir(c)
	if err != nil {
		return err
	}
	var device func(ed25519.PublicKey) string
	if c.Bool("verify") {
		device = transport.DeviceOf
	}
	rows := newTable(c.App.Writer, "when", "peer", "documents", "tokens", "layers", "wire", "bytes", "outcome")
	out := json.NewEncoder(c.App.Writer)
	out.SetEscapeHTML(false)
	broken, count := 0, 0
	var given byDocument
	err = receipt.Read(dir, device, func(e receipt.Entry) error {
		count++
		if e.Err != nil {
			broken++
			fmt.Fprintf(c.App.ErrWriter, "line %d: %v\n", e.Line, e.Err)
			return nil
		}
		if c.Bool("by-document") {
			given.add(e.Receipt)
			return nil
		}
		if c.Bool("json") {
			return out.Encode(e.Receipt)
		}
		outcome := e.Outcome
		if e.Error != "" {
			outcome += ": " + e.Error
		}
		rows.AppendRow(table.Row{e.Time.Local().Format(time.DateTime), fmt.Sprintf("%s (%s)", e.Name, transport.ID(e.Peer).Short()),
			strings.Join(e.Documents, ", "), e.Tokens, len(e.Layers), e.Wire, e.Bytes, outcome})
		return nil
	})
	if err != nil {
		return err
	}
	if err := given.print(c, out); err != nil {
		return err
	}
	if rows.Length() > 0 {
		rows.Render()
	}
	switch {
	case broken > 0:
		return fmt.Errorf("%d of %d receipts do not hold: the file was changed by somebody else than this device's node", broken, count)
	case c.Bool("verify"):
		fmt.Fprintf(c.App.ErrWriter, "%d receipts hold: signed by this device's key, without a gap\n", count)
	case count == 0:
		fmt.Fprintln(c.App.ErrWriter, "no receipts: this device has given nothing away")
	}
	return nil
}
