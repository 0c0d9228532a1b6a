package main

import (
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
)

// localRowsFlag is a participant's own choice: nobody else's part of a session depends on it.
func localRowsFlag(category string) cli.Flag {
	return &cli.StringFlag{Name: "local-rows", Value: "all", Category: category,
		Usage: "`ROWS` of this device's own texts that they attend to at local layers: all, or a share such as random=0.5 or recent=0.5; costs quality"}
}

// localRows reads --local-rows.
func localRows(c *cli.Context) (fedkv.Selection, error) {
	p, err := fedkv.ParseLocalRows(c.String("local-rows"))
	switch {
	case err != nil:
		return fedkv.Selection{}, usagef("--local-rows: %v", err)
	case len(p.Shares) > 1:
		return fedkv.Selection{}, usagef("--local-rows %v: this device has one share, such as random=0.5", p)
	}
	return p.Of(0), nil
}
