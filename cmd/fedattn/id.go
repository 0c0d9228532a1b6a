package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/transport"
)

const deviceCategory = "This device"

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "`DIR` of this device's identity and of whom it knows", DefaultText: "fedattn in the user's configuration directory",
		EnvVars: []string{"FEDATTN_CONFIG"}, Category: deviceCategory}
}

func nameFlag() cli.Flag {
	return &cli.StringFlag{Name: "name", Usage: "`NAME` of this device in answers and logs", DefaultText: "the host's name",
		EnvVars: []string{"FEDATTN_NAME"}, Category: deviceCategory}
}

func idCommand() *cli.Command {
	return &cli.Command{
		Name:        "id",
		Usage:       "print this device's identity",
		Description: "Owners of other devices allow this one by it: fedattn node --allow ID. It is made on first use.",
		Flags:       []cli.Flag{configFlag()},
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

// elsewhere ends errors about the configuration directory.
const elsewhere = "give another directory with --config"

// configDir is where this device's identity, known peers, policy and receipts are.
func configDir(c *cli.Context) (string, error) {
	dir := c.String("config")
	if dir == "" {
		dir = os.Getenv(variablePrefix + "CONFIG") // for commands without the flag
	}
	if dir != "" {
		return dir, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place for this device's identity: %w; %s", err, elsewhere)
	}
	return filepath.Join(base, "fedattn"), nil
}

// loadIdentity reads this device's identity, or makes it on first use.
func loadIdentity(c *cli.Context) (transport.Identity, error) {
	dir, err := configDir(c)
	if err != nil {
		return transport.Identity{}, err
	}
	identity, _, err := transport.LoadOrCreateIdentity(dir)
	// an error of the file system; those about the file's content say themselves what to do
	var file *fs.PathError
	if errors.As(err, &file) {
		err = fmt.Errorf("%w; %s", err, elsewhere)
	}
	return identity, err
}

// deviceName is what this device is called in answers.
func deviceName(c *cli.Context) string {
	name := c.String("name")
	if name == "" {
		name, _ = os.Hostname()
	}
	var clean strings.Builder
	for _, r := range name {
		if unicode.IsPrint(r) && clean.Len()+utf8.RuneLen(r) <= fedkv.MaxName {
			clean.WriteRune(r)
		}
	}
	if clean.Len() == 0 {
		return "device"
	}
	return clean.String()
}
