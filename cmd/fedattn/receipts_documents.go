package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/receipt"
	"fedattn/transport"
)

// documentLine is what receipts --by-document prints of one document and one peer.
type documentLine struct {
	Document string    `json:"document"`
	Peer     string    `json:"peer"`
	Name     string    `json:"name"`
	Sessions int       `json:"sessions"`
	Tokens   int       `json:"tokens"` // of the document, in all sessions together; 0 if older receipts do not say
	Last     time.Time `json:"last"`
}

// byDocument sums up receipts.
type byDocument []*documentLine

// add counts a session that may have given something away.
func (b *byDocument) add(r receipt.Receipt) {
	if r.Outcome == receipt.Refused {
		return
	}
	for i, name := range r.Documents {
		at := slices.IndexFunc(*b, func(l *documentLine) bool { return l.Document == name && l.Peer == r.Peer })
		if at < 0 {
			at = len(*b)
			*b = append(*b, &documentLine{Document: name, Peer: r.Peer})
		}
		line := (*b)[at]
		line.Name, line.Last = r.Name, r.Time
		line.Sessions++
		if i < len(r.Shares) {
			line.Tokens += r.Shares[i]
		}
	}
}

func (b byDocument) print(c *cli.Context, out *json.Encoder) error {
	slices.SortStableFunc(b, func(x, y *documentLine) int { return strings.Compare(x.Document, y.Document) })
	rows := newTable(c.App.Writer, "document", "peer", "sessions", "tokens", "last")
	for _, l := range b {
		if c.Bool("json") {
			if err := out.Encode(l); err != nil {
				return err
			}
			continue
		}
		rows.AppendRow(table.Row{l.Document, fmt.Sprintf("%s (%s)", l.Name, transport.ID(l.Peer).Short()), l.Sessions, l.Tokens, l.Last.Local().Format(time.DateTime)})
	}
	if rows.Length() > 0 {
		rows.Render()
	}
	return nil
}
