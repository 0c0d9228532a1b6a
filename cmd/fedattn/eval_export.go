package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv/node/lab"
)

// checkExport refuses --logits-out and --tokens-out where it is not plain whose logits are meant, or where they cannot
// be written.
func checkExport(c *cli.Context, cases int) error {
	for _, flag := range []string{"logits-out", "tokens-out"} {
		path := c.String(flag)
		if path == "" {
			continue
		}
		if cases != 1 {
			return usagef("--%s takes one case, these are %d: give one of --participants, --schedule, --wire, --rows and --local-rows each", flag, cases)
		}
		if n := c.Int("windows"); n != 1 {
			return usagef("--%s takes one window, these are %d: leave --windows out", flag, n)
		}
		if path == c.String("logits-out") && path == c.String("tokens-out") {
			return usagef("--logits-out and --tokens-out are both %s: name two files", path)
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return usagef("--%s %s: there is no folder %s; make it first", flag, path, filepath.Dir(path))
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return usagef("--%s %s is a folder: name a file in it", flag, path)
		}
	}
	return nil
}

// export writes what --logits-out and --tokens-out ask for.
func export(c *cli.Context, e lab.Engine, of lab.Case, p lab.Prompt, logits []float32) error {
	if path := c.String("logits-out"); path != "" {
		err := writeWhole(path, func(w io.Writer) error { return lab.WriteNPY(w, logits, e.Vocabulary()) })
		if err != nil {
			return fmt.Errorf("the logits cannot be written: %w; give another file with --logits-out", err)
		}
	}
	if path := c.String("tokens-out"); path != "" {
		description, err := of.Export(p, len(e.Shape().Layers))
		if err != nil {
			return err
		}
		err = writeWhole(path, func(w io.Writer) error { return json.NewEncoder(w).Encode(description) })
		if err != nil {
			return fmt.Errorf("the tokens cannot be written: %w; give another file with --tokens-out", err)
		}
	}
	return nil
}

// writeWhole writes a file that is there whole or, as before, not at all.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	partial := fmt.Sprintf("%s.%d.partial", path, os.Getpid())
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(partial)
		}
	}()
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(partial, path)
}
