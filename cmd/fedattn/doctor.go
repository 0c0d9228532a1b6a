package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/doctor"
	"fedattn/fedkv"
	"fedattn/models"
	"fedattn/models/gguf"
	"fedattn/transport"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look at this machine as a participant needs it, and say what to mend",
		Description: "Network interfaces, socket buffers with the sysctl line that raises them, processor, memory; with --model what has to be\n" +
			"equal on all devices, with --peer how far away a node is and how much the link carries. Exit code 1 if something will\n" +
			"not work; what is only slow is said.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "model", Aliases: []string{"m"}, Usage: "look at this `MODEL` too: a file, or a name", Category: modelCategory},
			&cli.StringSliceFlag{Name: "peer", Usage: "look for this `PEER` too: NAME of a paired one, all, or ID@HOST:PORT", Category: deviceCategory},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON list", DisableDefaultText: true}, configFlag(),
		}, discoveryFlags("")...),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			interfaces, err := transport.MulticastInterfaces(nil)
			if err != nil {
				interfaces = nil // which is a finding
			}
			found := doctor.Machine("/", interfaces, models.Available())
			if name := c.String("model"); name != "" {
				found = append(found, lookAtModel(c, name))
			}
			more, err := lookAtPeers(c)
			if err != nil {
				return err
			}
			found = append(found, more...)
			if c.Bool("json") {
				out := json.NewEncoder(c.App.Writer)
				out.SetEscapeHTML(false)
				return out.Encode(found)
			}
			rows := newTable(c.App.Writer, "", "", "found")
			bad := 0
			for _, f := range found {
				rows.AppendRow(table.Row{f.About, string(f.Level), f.Found})
				if f.Remedy != "" {
					rows.AppendRow(table.Row{"", "", "→ " + f.Remedy})
				}
				if f.Level == doctor.Bad {
					bad++
				}
			}
			rows.Render()
			if bad > 0 {
				return fmt.Errorf("%s will not do: do what the arrows say", count(bad, "thing"))
			}
			return nil
		},
	}
}

// lookAtModel finds what of a model all devices have to have alike. It is not loaded.
func lookAtModel(c *cli.Context, name string) doctor.Finding {
	f := doctor.Finding{About: "model", Level: doctor.Bad}
	source, done, err := modelSource(c)
	if err == nil {
		defer done()
		source.Hub.Offline = true
		name, err = source.Find(c.Context, name)
	}
	var m gguf.Model
	if err == nil {
		_, m, err = models.NeedOfFile(name)
	}
	var digest fedkv.Digest
	if err == nil {
		digest, err = models.Digest(c.Context, name, cacheDir())
	}
	if err != nil {
		f.Found, f.Remedy = err.Error(), "name a GGUF file with --model; fedattn models list shows what is here"
		return f
	}
	template := "none: only raw completions, no questions"
	if m.Template != "" {
		hash := sha256.Sum256([]byte(m.Template))
		f.Level, template = doctor.Fine, hex.EncodeToString(hash[:4])
	}
	f.Found = fmt.Sprintf("%s, SHA-256 %s, chat template %s: the same on all devices", m.Architecture, digest, template)
	return f
}

// lookAtPeers connects to the named peers and measures the links.
func lookAtPeers(c *cli.Context) (found []doctor.Finding, err error) {
	list, err := namedPeers(c)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	l, err := newLookout(c)
	if err != nil {
		return nil, err
	}
	defer l.endpoint.Close()
	for _, to := range list { // one after the other: they may share a link
		name := to.Name
		if name == "" {
			name = to.ID.Short()
		}
		f := doctor.Finding{About: name}
		if f.Found, err = look(c.Context, l, to); err != nil {
			f.Level, f.Found, f.Remedy = doctor.Bad, err.Error(), "start its node, pair the devices, and open its UDP port in firewalls between them"
		} else {
			f.Level = doctor.Fine
		}
		found = append(found, f)
	}
	return found, c.Context.Err()
}

func look(ctx context.Context, l lookout, to transport.PeerAddress) (string, error) {
	link, err := l.reach(ctx, to)
	if err != nil {
		return "", err
	}
	defer link.Close(0, "")
	rtt, err := echo(ctx, link)
	if err != nil {
		return "", err
	}
	r, err := measureLink(ctx, link)
	if err != nil { // its owner may keep the model, and with it this
		return fmt.Sprintf("%.1f ms away, rate not measured", milliseconds(rtt)), nil
	}
	return fmt.Sprintf("%.1f ms away, %.0f Mbit/s from it, %.0f Mbit/s to it", milliseconds(rtt), r.From/1e6, r.To/1e6), nil
}
