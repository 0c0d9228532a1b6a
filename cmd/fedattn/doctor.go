package main

import (
	"encoding/json"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/doctor"
	"fedattn/models"
	"fedattn/transport"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look at this machine as a participant needs it, and say what to mend",
		Description: "Network interfaces, socket buffers with the sysctl line that raises them, processor, memory. Exit code 1 if something\n" +
			"will not work; what is only slow is said. A model is looked at by fedattn inspect, peers by fedattn peers --ping.",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print one JSON list", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			interfaces, err := transport.MulticastInterfaces(nil)
			if err != nil {
				interfaces = nil // which is a finding
			}
			found := doctor.Machine("/", interfaces, models.Available())
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
