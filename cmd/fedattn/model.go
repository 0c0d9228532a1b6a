package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/llama"
	"fedattn/models"
)

const modelCategory = "Model"

func modelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Aliases: []string{"m"}, Usage: "GGUF model `FILE`", EnvVars: []string{"FEDATTN_MODEL"},
			Category: modelCategory},
		&cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "evaluate the model with `N` threads", DefaultText: "one per core",
			EnvVars: []string{"FEDATTN_THREADS"}, Category: modelCategory},
	}
}

func contextFlag(usage string) cli.Flag {
	return &cli.IntFlag{Name: "context", Value: 8192, Usage: usage, DefaultText: "8192, or what the model was trained for",
		Category: modelCategory}
}

// checkModel finds the mistakes in the model's flags for which the model need not be read.
func checkModel(c *cli.Context) error {
	if c.String("model") == "" {
		return usagef("no model: give one with --model FILE (make model brings a small one)")
	}
	return atLeast(c, 0, "threads")
}

// loadEngine loads the model that the flags name.
func loadEngine(c *cli.Context) (*llama.Engine, error) {
	if err := checkModel(c); err != nil {
		return nil, err
	}
	return loadFile(c, c.String("model"))
}

func loadFile(c *cli.Context, path string) (*llama.Engine, error) {
	m, err := llama.Load(path, llama.ModelParams{Threads: c.Int("threads")})
	if err != nil {
		return nil, modelError(path, err)
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

// modelError says what is wrong with a model file and what to do about it.
func modelError(path string, err error) error {
	const other = "give another file with --model"
	info, statErr := os.Stat(path)
	switch {
	case errors.Is(err, llama.ErrNoEngine):
		return errors.New("this fedattn was built without an engine: build it with CGO_ENABLED=1")
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no such model: %s; %s (make model brings a small one)", path, other)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the model %s may not be read: change its permissions, or %s", path, other)
	case statErr == nil && info.IsDir():
		return fmt.Errorf("%s is a directory, not a model: name the GGUF file in it with --model", path)
	case errors.Is(err, llama.ErrNotGGUF):
		return fmt.Errorf("%s is not a GGUF model; convert it, or %s", path, other)
	case errors.Is(err, llama.ErrUnsupported):
		return fmt.Errorf("%w; use a decoder with ordinary attention at every layer", err)
	}
	return fmt.Errorf("%w; bring the file anew, or %s", err, other)
}

// contextSize is the longest token stream to hold: what --context says, but not more than the model was trained for.
func contextSize(c *cli.Context, engine *llama.Engine) (int, error) {
	most, trained := c.Int("context"), engine.ContextTrain()
	if trained <= 0 || most <= trained {
		return most, nil
	}
	if c.IsSet("context") {
		return 0, usagef("--context %d: the model was trained for %d tokens; give at most those", most, trained)
	}
	return trained, nil
}

// self is what this device says of itself.
func self(engine *llama.Engine, name string, role fedkv.Role) fedkv.Hello {
	return fedkv.Hello{
		Protocol: fedkv.Protocol, Name: name, Engine: llama.Commit(), Model: engine.Fingerprint(),
		Types: []fedkv.Type{fedkv.Q8_0, fedkv.Q4_0, fedkv.F16, fedkv.Q5_1, fedkv.Q4_1, fedkv.NF3}, Role: role,
	}
}

// engineText is an engine's error without the name of the Go package that says it.
func engineText(err error) string { return strings.TrimPrefix(err.Error(), "llama: ") }

// cacheDir is where things may be kept that can be had again; empty if the system has no such place.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "fedattn")
}
