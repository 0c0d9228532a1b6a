package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/llama"
	"fedattn/models"
	"fedattn/models/hub"
)

const modelCategory = "Model"

func modelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Aliases: []string{"m"}, Usage: "GGUF `MODEL`: a file, a name of fedattn models list, or user/repo[:quant]",
			EnvVars: []string{"FEDATTN_MODEL"}, Category: modelCategory},
		&cli.StringFlag{Name: "hf", Usage: "`MODEL` of a hub, user/repo[:quant]; brought if it is not here", EnvVars: []string{"FEDATTN_HF"},
			Category: modelCategory},
		offlineFlag(),
		&cli.BoolFlag{Name: "no-memory-check", Usage: "load a model that is larger than the free memory", DisableDefaultText: true,
			EnvVars: []string{"FEDATTN_NO_MEMORY_CHECK"}, Category: modelCategory},
		&cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "evaluate the model with `N` threads", DefaultText: "one per physical core",
			EnvVars: []string{"FEDATTN_THREADS"}, Category: modelCategory},
		&cli.IntFlag{Name: "gpu-layers", Aliases: []string{"ngl"}, Usage: "evaluate the last `N` layers on a GPU, 99 for all; needs a build for one",
			EnvVars: []string{"FEDATTN_GPU_LAYERS"}, Category: modelCategory},
		&cli.BoolFlag{Name: "mlock", Usage: "keep the model in memory: the system must not swap it out", DisableDefaultText: true,
			EnvVars: []string{"FEDATTN_MLOCK"}, Category: modelCategory},
		&cli.StringFlag{Name: "memory", Usage: "take at most `BYTES` for the model and a context, such as 3GB", DefaultText: "what is free",
			EnvVars: []string{"FEDATTN_MEMORY"}, Category: modelCategory},
	}
}

func contextFlag(usage string) cli.Flag {
	return &cli.IntFlag{Name: "context", Value: 8192, Usage: usage, DefaultText: "8192, or what the model was trained for",
		Category: modelCategory}
}

// checkModel finds the mistakes in the model's flags for which the model need not be read.
func checkModel(c *cli.Context) error {
	switch model, name := c.String("model"), c.String("hf"); {
	case model == "" && name == "":
		return usagef("no model: give one with --model FILE (make model brings a small one), or by name (see fedattn models list)")
	case model != "" && name != "" && c.IsSet("model") && c.IsSet("hf"):
		return usagef("--model and --hf both name a model: choose one")
	case name != "":
		if _, err := hub.ParseRef(name); err != nil {
			return usagef("--hf: %v", err)
		}
	}
	if _, err := memoryLimit(c); err != nil {
		return err
	}
	return atLeast(c, 0, "threads", "gpu-layers")
}

// memoryLimit is how many bytes --memory allows, 0 if it says nothing.
func memoryLimit(c *cli.Context) (int64, error) {
	text := c.String("memory")
	if text == "" {
		return 0, nil
	}
	n, err := parseBytes("memory", text)
	return int64(min(n, math.MaxInt64/2)), err
}

// modelSize is what the file of a loaded model says about memory; zero for one that says nothing.
func modelSize(engine *llama.Engine) fedkv.ModelSize {
	need, m, err := models.NeedOfFile(engine.Path())
	if err != nil {
		return fedkv.ModelSize{}
	}
	return models.SizeOf(m, need.File)
}

// sessionMemory is what --memory leaves for sessions beside the weights and the program; 0 is no limit.
func sessionMemory(c *cli.Context, size fedkv.ModelSize) int64 {
	limit, err := memoryLimit(c)
	if err != nil || limit == 0 {
		return 0
	}
	idle := fedkv.MemoryOf(size, fedkv.Shape{}, fedkv.CacheSpec{}, fedkv.Wire{}, 0)
	return max(limit-idle.Total(), 1)
}

// loadEngine loads the model that the flags name, and lets it evaluate the public words by which others tell whether it
// computes what they do.
func loadEngine(c *cli.Context) (*llama.Engine, error) {
	if err := checkModel(c); err != nil {
		return nil, err
	}
	path, err := locateModel(c, wantedModel(c))
	if err != nil {
		return nil, err
	}
	if err := checkMemory(c, path, held{}); err != nil {
		return nil, err
	}
	return loadWhole(c, path)
}

// loadWhole loads a file, and evaluates the canary.
func loadWhole(c *cli.Context, path string) (*llama.Engine, error) {
	engine, err := loadFile(c, path)
	if err != nil {
		return nil, err
	}
	if _, err := engine.Canary(); err != nil {
		engine.Close()
		return nil, fmt.Errorf("%s: %s", filepath.Base(path), engineText(err))
	}
	return engine, nil
}

// wantedModel is the model that the flags name: a file, or a name that locateModel knows.
func wantedModel(c *cli.Context) string {
	name := c.String("hf")
	if name == "" {
		return c.String("model")
	}
	if ref, err := hub.ParseRef(name); err == nil {
		return ref.String()
	}
	return name
}

// locateModel is the file of a model; one that is named by its place on a hub is brought.
func locateModel(c *cli.Context, name string) (string, error) {
	if _, named := models.Named(name); !named {
		return name, nil
	}
	source, done, err := modelSource(c)
	if err != nil {
		return "", err
	}
	defer done()
	return source.Find(c.Context, name)
}

// held is the memory of models that are loaded.
type held struct {
	weights int64 // bytes of their files
	all     int64 // with contexts
}

// needOf is what a file takes with the context that it is loaded with, and false if it is no model.
func needOf(c *cli.Context, path string) (need models.Need, context int, ok bool) {
	need, m, err := models.NeedOfFile(path)
	if err != nil {
		return need, 0, false
	}
	context = max(1, c.Int("context"))
	if m.Context > 0 {
		context = min(context, m.Context)
	}
	return need, context, true
}

// checkMemory refuses a model that does not fit into the free memory, or what --memory allows of it, beside others. What
// is wrong with the file is said by whoever loads it.
func checkMemory(c *cli.Context, path string, others held) error {
	limit, err := memoryLimit(c)
	if err != nil {
		return err
	}
	need, context, ok := needOf(c, path)
	if !ok {
		return nil
	}
	if limit > 0 {
		if at := need.At(context); at+others.all > limit {
			return fmt.Errorf("%s with %d tokens takes %s, --memory allows %s: give a smaller --context, more --memory, or a smaller model",
				filepath.Base(path), context, bytesText(at), bytesText(limit))
		}
	}
	if c.Bool("no-memory-check") {
		return nil
	}
	free := models.Available()
	if free > 0 { // weights are pages of files, which the system calls available even while they are in use
		free = max(1, free-others.weights)
	}
	if _, err := need.Check(free, max(1, c.Int("context"))); err != nil {
		return fmt.Errorf("%s: %w, or say --no-memory-check", filepath.Base(path), err)
	}
	return nil
}

func loadFile(c *cli.Context, path string) (*llama.Engine, error) {
	return loadWith(c.Context, path, llama.ModelParams{
		Threads: c.Int("threads"), GPULayers: c.Int("gpu-layers"), MLock: c.Bool("mlock"),
	})
}

func loadWith(ctx context.Context, path string, params llama.ModelParams) (*llama.Engine, error) {
	m, err := llama.Load(path, params)
	if err != nil {
		return nil, modelError(path, err)
	}
	digest, err := models.Digest(ctx, path, cacheDir())
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
	case errors.Is(err, llama.ErrNoGPU):
		return errors.New("--gpu-layers: this fedattn has no code for a GPU, or there is none: leave it out, or build with LLAMA_CMAKE=-DGGML_CUDA=ON")
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
	if c.IsSet("context") && len(c.StringSlice("also")) == 0 { // of several models each one takes what it can
		return 0, usagef("--context %d: the model was trained for %d tokens; give at most those", most, trained)
	}
	return trained, nil
}

// self is what this device says of itself.
func self(engine *llama.Engine, name string, role fedkv.Role) fedkv.Hello {
	canary, _ := engine.Canary() // loadEngine has seen it
	return fedkv.Hello{
		Protocol: fedkv.Protocol, Name: name, Engine: llama.Commit(), Model: engine.Fingerprint(), Canary: canary,
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
