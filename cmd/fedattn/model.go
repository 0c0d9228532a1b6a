package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"fedattn/llama"
	"fedattn/models"
)

func modelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Aliases: []string{"m"}, Usage: "GGUF model `FILE`", EnvVars: []string{"FEDATTN_MODEL"}},
		&cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "threads for the model (default: one per core)",
			EnvVars: []string{"FEDATTN_THREADS"}},
	}
}

// loadEngine loads the model that the flags name.
func loadEngine(c *cli.Context) (*llama.Engine, error) {
	path := c.String("model")
	if path == "" {
		return nil, usagef("no model: give one with --model FILE (make model brings a small one)")
	}
	if c.Int("threads") < 0 {
		return nil, usagef("--threads %d: must not be negative", c.Int("threads"))
	}
	m, err := llama.Load(path, llama.ModelParams{Threads: c.Int("threads")})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("no such model: %s; give an existing GGUF file with --model", path)
	case errors.Is(err, llama.ErrNotGGUF):
		return nil, fmt.Errorf("%s is not a GGUF model; convert it or give another file with --model", path)
	case errors.Is(err, llama.ErrUnsupported):
		return nil, fmt.Errorf("%w; use a decoder with ordinary attention at every layer", err)
	case err != nil:
		return nil, err
	}
	digest, err := models.Digest(c.Context, path, cacheDir())
	if err != nil {
		m.Close()
		return nil, err
	}
	engine, err := llama.NewEngine(m, digest)
	if err != nil {
		m.Close()
		return nil, err
	}
	return engine, nil
}

// cacheDir is where things may be kept that can be had again; empty if the system has no such place.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "fedattn")
}

// configDir holds this device's identity.
func configDir(c *cli.Context) (string, error) {
	if dir := c.String("config"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place for this device's identity: %w; give one with --config DIR", err)
	}
	return filepath.Join(dir, "fedattn"), nil
}
