package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv/node"
)

// queued tells the user where a question stands in the queue of a peer that serves others first.
func queued(c *cli.Context) func(node.InQueue) {
	return func(q node.InQueue) { fmt.Fprintln(c.App.ErrWriter, q) }
}
