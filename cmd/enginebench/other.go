//go:build !cgo || !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "enginebench: it needs the engine and Linux's clocks; build it there, with cgo")
	os.Exit(2)
}
