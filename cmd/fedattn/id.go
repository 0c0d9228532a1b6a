package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"fedattn/transport"
)

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "`DIR` of this device's identity", EnvVars: []string{"FEDATTN_CONFIG"}}
}

func idCommand() *cli.Command {
	return &cli.Command{
		Name:  "id",
		Usage: "print this device's identity; other devices' owners allow it by this",
		Flags: []cli.Flag{configFlag()},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			identity, err := loadIdentity(c)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, identity.ID())
			return nil
		},
	}
}

// loadIdentity reads this device's identity, or makes it on first use.
func loadIdentity(c *cli.Context) (transport.Identity, error) {
	dir, err := configDir(c)
	if err != nil {
		return transport.Identity{}, err
	}
	identity, _, err := transport.LoadOrCreateIdentity(dir)
	return identity, err
}
