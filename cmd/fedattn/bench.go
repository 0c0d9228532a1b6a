package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/bench"
	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/llama"
	"fedattn/models"
	"fedattn/transport"
	"fedattn/transport/shaper"
)

const (
	singleCategory    = "Tests on one device, as llama-bench has them"
	federatedCategory = "Tests over several devices"
)

func benchCommand() *cli.Command {
	const measuring = "Measuring"
	return &cli.Command{
		Name:      "bench",
		Usage:     "measure how long prompts and answers take, on one device and over several",
		UsageText: "fedattn bench [flags]",
		Description: "fedattn bench -m model.gguf -p 512 -n 128 -fp 2048 --link loopback --link 100mbit/2ms\n\n" +
			"Tests are named as llama-bench names them: pp512 evaluates a prompt of 512 tokens, tg128 decodes 128, @ d2048 does it\n" +
			"behind 2048 others. fpp2048 is the time to the first token of a prompt of which every device holds a part, ftg32 @ d2048\n" +
			"are 32 tokens after it. Devices are processes of this program on this machine, reached over QUIC and links that are as\n" +
			"slow as --link says, each on --threads processors of its own; or nodes that run elsewhere, with --peer.\n\n" +
			"Numbers are lists such as 512,2048 or 512-8192*2. All combinations are measured, in turn, --repetitions times. The last\n" +
			"column is how many times as fast as the same tokens on one device: medians of ratios within turns.\n\n" +
			scheduleHelp,
		Flags: slices.Concat(slices.DeleteFunc(modelFlags(), func(f cli.Flag) bool { return f.Names()[0] == "threads" }), []cli.Flag{
			&cli.StringFlag{Name: "n-prompt", Aliases: []string{"p"}, Value: "512", Usage: "prompts of `N` tokens; 0: none", Category: singleCategory},
			&cli.StringFlag{Name: "n-gen", Aliases: []string{"n"}, Value: "128", Usage: "answers of `N` tokens; 0: none", Category: singleCategory},
			&cli.StringSliceFlag{Name: "pg", Usage: "a prompt and an answer together, `PP,TG` tokens", Category: singleCategory},
			&cli.StringFlag{Name: "n-depth", Aliases: []string{"d"}, Value: "0", Usage: "behind `N` tokens", Category: singleCategory},
			&cli.StringFlag{Name: "threads", Aliases: []string{"t"}, Usage: "`N` threads on each device", DefaultText: "one per physical core, shared out to the devices", Category: singleCategory},
			&cli.IntFlag{Name: "batch-size", Aliases: []string{"b"}, Value: 2048, Usage: "hand over `N` tokens at once", Category: singleCategory},
			&cli.IntFlag{Name: "ubatch-size", Aliases: []string{"ub"}, Value: 512, Usage: "evaluate `N` tokens together", Category: singleCategory},
			&cli.StringFlag{Name: "flash-attn", Aliases: []string{"fa"}, Value: "on", Usage: "taken for llama-bench's sake: it is always `on`", Category: singleCategory},

			&cli.StringFlag{Name: "fed-prompt", Aliases: []string{"fp"}, Value: "512", Usage: "prompts of `N` tokens, everybody's together; 0: none", Category: federatedCategory},
			&cli.StringFlag{Name: "fed-gen", Aliases: []string{"fn"}, Value: "0", Usage: "answers of `N` tokens after them; 0: none", Category: federatedCategory},
			&cli.StringFlag{Name: "nodes", Value: "2", Usage: "split over `N` devices, the asking one included", Category: federatedCategory},
			&cli.StringSliceFlag{Name: "schedule", Value: cli.NewStringSlice("gather"), KeepSpace: true, Usage: "`SCHEDULE` of sync layers, see above", Category: federatedCategory},
			&cli.StringFlag{Name: "wire", Usage: "`K/V` rows on the wire: " + wireTypes + "; without it those of --schedule", Category: federatedCategory},
			profileFlag(federatedCategory),
			&cli.StringFlag{Name: "kept", Value: "cold,warm", Usage: "`ROWS` that are there before a question: cold, none; warm, those of the documents", Category: federatedCategory},
			&cli.StringSliceFlag{Name: "link", Value: cli.NewStringSlice(shaper.Loopback), Usage: "`LINK` to the devices: loopback, or RATE/RTT[/LOSS] such as 1gbit/0.3ms", Category: federatedCategory},
			&cli.StringSliceFlag{Name: "peer", Usage: "ask nodes that run elsewhere for what they hold: `NAME` of a paired one, or ID@HOST:PORT", Category: federatedCategory},

			&cli.IntFlag{Name: "repetitions", Aliases: []string{"r", "reps"}, Value: 5, Usage: "measure `N` times", Category: measuring},
			&cli.BoolFlag{Name: "no-warmup", Usage: "count the first run, in which memory is new", DisableDefaultText: true, Category: measuring},
			&cli.DurationFlag{Name: "delay", Usage: "rest for this `TIME` before each run", Category: measuring},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Minute, Usage: "give up a run after this `TIME`", Category: measuring},
			&cli.BoolFlag{Name: "no-pin", Usage: "let all devices share the processors, as other programs' scheduling has it", DisableDefaultText: true, Category: measuring},
			&cli.StringFlag{Name: "llama-bench", Usage: "measure llama.cpp on one device beside, with this llama-bench, a `FILE`", Category: measuring},
			&cli.StringFlag{Name: "rpc-server", Usage: "and llama.cpp over as many devices, with this ggml-rpc-server, a `FILE`; --llama-bench has to be built with it", Category: measuring},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "md", Usage: "`FORMAT` on stdout: " + strings.Join(bench.Formats, ", "), Category: measuring},
			&cli.StringFlag{Name: "output-err", Aliases: []string{"oe"}, Usage: "`FORMAT` on stderr", DefaultText: "none", Category: measuring},
			&cli.StringFlag{Name: "results", Usage: "also write env.json, raw.jsonl and table.md to `FOLDER`", Category: measuring},
			&cli.BoolFlag{Name: "progress", Usage: "say on stderr what runs", DisableDefaultText: true, Category: measuring},
			nameFlag(), configFlag(),
		}, discoveryFlags(deviceCategory), logFlags("off", measuring)),
		Action: runBench,
	}
}

// benchRun is what the command line says, as far as it can be known without the model.
type benchRun struct {
	bench.Matrix
	threads []int
	peers   []transport.PeerAddress
	search  discovery
}

func readBench(c *cli.Context) (r benchRun, err error) {
	if err := noArguments(c); err != nil {
		return r, err
	}
	err = first(checkModel(c), atLeast(c, 1, "batch-size", "ubatch-size", "repetitions"), checkBenchOutput(c), checkLog(c), checkPrograms(c))
	if err != nil {
		return r, err
	}
	for _, list := range []struct {
		flag  string
		least int
		most  int
		to    *[]int
	}{
		{"n-prompt", 0, fedkv.MaxTokens, &r.Prompts}, {"n-gen", 0, fedkv.MaxTokens, &r.Generates}, {"n-depth", 0, fedkv.MaxTokens, &r.Depths},
		{"fed-prompt", 0, fedkv.MaxTokens, &r.FedPrompts}, {"fed-gen", 0, fedkv.MaxTokens, &r.FedGenerates}, {"nodes", 1, fedkv.MaxParticipants - 1, &r.Nodes},
		{"threads", 1, 1024, &r.threads},
	} {
		if list.flag == "threads" && c.String("threads") == "" {
			continue
		}
		if *list.to, err = benchList(c, list.flag, list.least, list.most); err != nil {
			return r, err
		}
	}
	for _, pair := range c.StringSlice("pg") {
		n, err := bench.ParseList(pair)
		if err != nil || len(n) != 2 || strings.Contains(pair, "-") || max(n[0], n[1]) > fedkv.MaxTokens {
			return r, usagef("--pg %q: must be a prompt's and an answer's tokens, such as 512,128", pair)
		}
		r.Pairs = append(r.Pairs, [2]int{n[0], n[1]})
	}
	for kept := range strings.SplitSeq(c.String("kept"), ",") {
		if kept != bench.Cold && kept != bench.Warm {
			return r, usagef("--kept %q: known are cold, warm and cold,warm", c.String("kept"))
		}
		r.Kept = append(r.Kept, kept)
	}
	for _, text := range c.StringSlice("link") {
		link, err := shaper.ParseLink(text)
		if err != nil {
			return r, usagef("--link: %v", err)
		}
		r.Links = append(r.Links, link)
	}
	for _, spec := range c.StringSlice("schedule") {
		if err := checkSetting(spec, c.String("wire")); err != nil {
			return r, err
		}
	}
	if c.Duration("timeout") <= 0 || c.Duration("timeout") > fedkv.MaxDeadlineMS*time.Millisecond/2 {
		return r, usagef("--timeout %v: must be more than 0s and at most %v", c.Duration("timeout"), fedkv.MaxDeadlineMS*time.Millisecond/2)
	}
	return r, r.readPeers(c)
}

// benchList reads a flag that is a list of numbers.
func benchList(c *cli.Context, flag string, least, most int) ([]int, error) {
	list, err := bench.ParseList(c.String(flag))
	if err != nil {
		return nil, usagef("--%s %v", flag, err)
	}
	if slices.Min(list) < least || slices.Max(list) > most {
		return nil, usagef("--%s %s: must be between %d and %d", flag, c.String(flag), least, most)
	}
	return list, nil
}

func checkBenchOutput(c *cli.Context) error {
	for _, flag := range []string{"output", "output-err"} {
		format := c.String(flag)
		if !slices.Contains(bench.Formats, format) && (flag == "output" || format != "" && format != "none") {
			return usagef("--%s %q is unknown; known are %s", flag, format, strings.Join(bench.Formats, ", "))
		}
	}
	if fa := c.String("flash-attn"); !slices.Contains([]string{"on", "1", "auto", "-1"}, fa) {
		return usagef("--flash-attn %s: rows are exchanged by caches that need it; leave it out", fa)
	}
	return nil
}

// checkPrograms finds out whether llama.cpp's programs are there.
func checkPrograms(c *cli.Context) error {
	if c.String("rpc-server") != "" && c.String("llama-bench") == "" {
		return usagef("--rpc-server is asked by llama-bench: name that too, with --llama-bench")
	}
	for _, flag := range []string{"llama-bench", "rpc-server"} {
		if file := c.String(flag); file != "" {
			if _, err := exec.LookPath(file); err != nil {
				return fmt.Errorf("--%s: %s cannot be run: make bench-peers builds it", flag, file)
			}
		}
	}
	return nil
}

func (r *benchRun) readPeers(c *cli.Context) (err error) {
	if r.peers, err = peerAddresses(c); err != nil || len(r.peers) == 0 {
		return err
	}
	for _, flag := range []string{"fed-prompt", "nodes", "link", "rpc-server"} {
		if c.IsSet(flag) {
			return usagef("--%s: nodes that are named with --peer hold what they hold, where they are; leave it out", flag)
		}
	}
	r.search, err = readDiscovery(c)
	return err
}

func runBench(c *cli.Context) (err error) {
	r, err := readBench(c)
	if err != nil {
		return err
	}
	path, err := locateModel(c, wantedModel(c))
	if err != nil {
		return err
	}
	if err := checkMemory(c, path, held{}); err != nil {
		return err
	}
	here := bench.Here()
	devices := 1
	if len(r.peers) == 0 && slices.Max(r.FedPrompts) > 0 {
		devices = slices.Max(r.Nodes)
	}
	if len(r.threads) == 0 {
		r.threads = []int{max(1, llama.DefaultThreads()/devices)}
	}
	identity, err := transport.NewIdentity(rand.Reader)
	if len(r.peers) > 0 { // whom they know
		identity, err = loadIdentity(c)
	}
	if err != nil {
		return err
	}
	endpoint, err := transport.Listen(transport.Config{Identity: identity, MaxStaging: memoryShare(), Allow: func(transport.ID) error {
		return fedkv.Errorf(fedkv.CodeForbidden, "this device measures and serves nobody")
	}})
	if err != nil {
		return err
	}
	defer endpoint.Close()
	var rows []*bench.Row
	keep := func(more []*bench.Row, power string) error { // after each turn: a measurement takes long, and may be ended
		here.Power = power
		return keepBench(c, slices.Concat(rows, more), here)
	}
	for _, threads := range r.threads {
		var cores bench.Cores
		if !c.Bool("no-pin") && len(r.peers) == 0 {
			if cores = bench.Assign(here.CPUs, devices, threads); cores == nil && devices > 1 {
				fmt.Fprintf(c.App.ErrWriter, "note: %d devices with %s share %s: what is measured is less than they would do apart\n",
					devices, count(threads, "thread"), count(len(here.CPUs), "processor"))
			}
		}
		here.Cores = cores
		var more []*bench.Row
		more, err = benchThreads(c, r, path, threads, cores, endpoint, identity, keep)
		if rows = append(rows, more...); err != nil {
			break
		}
	}
	if len(rows) == 0 {
		return err
	}
	return errors.Join(err, writeBench(c, rows))
}

// benchThreads measures everything with so many threads on each device; keep has what was measured so far, and by which
// power sensor, after each turn.
func benchThreads(c *cli.Context, r benchRun, path string, threads int, cores bench.Cores, endpoint *transport.Endpoint,
	identity transport.Identity, keep func(rows []*bench.Row, power string) error) ([]*bench.Row, error) {
	if cores != nil { // before the model's threads begin
		if err := bench.Pin(cores[0]); err != nil {
			return nil, err
		}
	}
	engine, err := loadWith(c.Context, path, llama.ModelParams{Threads: threads, GPULayers: c.Int("gpu-layers"), MLock: c.Bool("mlock")})
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	if _, err := engine.Canary(); err != nil {
		return nil, fmt.Errorf("%s: %s", filepath.Base(path), engineText(err))
	}
	matrix := r.Matrix
	if matrix.Exchanges, err = benchExchanges(c, engine); err != nil {
		return nil, err
	}
	if err := fitsTraining(matrix, engine.ContextTrain()); err != nil {
		return nil, err
	}
	cfg := bench.Config{
		Matrix: matrix, Engine: engine, Size: modelSize(engine), Reps: c.Int("repetitions"), NoWarmUp: c.Bool("no-warmup"), Pause: c.Duration("delay"),
		Subject: bench.Subject{
			Build: llama.Commit(), CPU: bench.CPUName(), ModelFile: path, ModelType: engine.Description(), ModelSize: engine.Size(),
			Parameters: engine.Parameters(), Threads: threads, Batch: c.Int("batch-size"), MicroBatch: c.Int("ubatch-size"),
			GPULayers: c.Int("gpu-layers"), CPUMask: cores.Mask(0),
		},
		Timeout: c.Duration("timeout"), Cores: cores,
		Self: self(engine, deviceName(c), fedkv.RolePublisher), ID: string(identity.ID()), Device: transport.DeviceOf,
		Dial: benchDial(endpoint, r), MaxStaging: memoryShare() / 2, Log: newLogger(c, zerolog.Disabled),
		Node: func(p bench.NodeProcess) *exec.Cmd {
			return benchNode(p, path, threads, c.Int("gpu-layers"), engine.ContextTrain())
		},
		LlamaBench: c.String("llama-bench"), RPCServer: c.String("rpc-server"),
	}
	for _, p := range r.peers {
		cfg.Peers = append(cfg.Peers, string(p.ID)+"@"+p.HostPort)
	}
	if c.Bool("progress") {
		cfg.Say = func(text string) { fmt.Fprintf(c.App.ErrWriter, "%s\n", text) }
	}
	var b *bench.Bench
	cfg.AfterTurn = func(rows []*bench.Row) error { return keep(rows, b.PowerSensor()) }
	b, err = bench.New(c.Context, cfg)
	if err != nil {
		return nil, errors.New(engineText(err))
	}
	defer b.Close()
	return b.Run(c.Context)
}

// fitsTraining refuses prompts that are longer than what the model was trained for.
func fitsTraining(m bench.Matrix, trained int) error {
	if longest := slices.Max(m.FedPrompts); trained > 0 && longest > trained {
		return usagef("--fed-prompt %d: the model was trained for %d tokens; give at most those", longest, trained)
	}
	return nil
}

// benchExchanges are what --schedule and --wire come to for the model.
func benchExchanges(c *cli.Context, engine *llama.Engine) (list []bench.Exchange, err error) {
	known, err := profileOf(c, engine.Fingerprint())
	if err != nil {
		return nil, err
	}
	for _, name := range c.StringSlice("schedule") {
		spec, home, err := cutHome(name)
		if err != nil {
			return nil, err
		}
		setting, err := resolve(spec, c.String("wire"), engine.Layers(), known)
		if err != nil {
			return nil, err
		}
		x := bench.Exchange{Name: name, Schedules: setting.Schedules, Wire: setting.Wire, Positions: fedkv.Canonical, Home: home}
		if home != 0 {
			x.Wire = unsent(engine.Layers())
		}
		if x.Schedules.Regime() == fedkv.Lockstep {
			x.Positions = fedkv.InPlace
		}
		list = append(list, x)
	}
	return list, nil
}

// benchDial reaches nodes by their addresses; those of devices that this one is paired with may also be announced.
func benchDial(endpoint *transport.Endpoint, r benchRun) func(context.Context, string) (node.Link, error) {
	return func(ctx context.Context, address string) (node.Link, error) {
		for _, p := range r.peers {
			if string(p.ID)+"@"+p.HostPort == address {
				return r.search.dial(ctx, peers{Endpoint: endpoint}, p)
			}
		}
		id, hostPort, _ := strings.Cut(address, "@")
		return peers{Endpoint: endpoint}.Dial(ctx, node.Address{ID: id, HostPort: hostPort})
	}
}

// benchNode is a node of this program that finds nothing of its user's, keeps nothing on disk, and is reached on this machine
// only: what it contributes is nobody's text.
func benchNode(p bench.NodeProcess, model string, threads, gpuLayers, trained int) *exec.Cmd {
	args := []string{os.Args[0], "node", "--model", model, "--threads", strconv.Itoa(threads), "--gpu-layers", strconv.Itoa(gpuLayers),
		"--doc", p.Document, "--name", p.Name, "--config", p.Dir, "--status", p.Dir, "--cache-dir", p.Dir, "--cache-size", "0",
		"--listen", "127.0.0.1:0", "--allow-any", "--no-mdns", "--no-share-model", "--log-format", "json"}
	if trained > 0 {
		args = append(args, "--context", strconv.Itoa(min(trained, p.Context)))
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return &exec.Cmd{Path: self, Args: args, Env: slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, variablePrefix) })}
}

// writeBench prints the rows.
func writeBench(c *cli.Context, rows []*bench.Row) error {
	if format := c.String("output-err"); format != "" && format != "none" {
		if err := bench.Write(c.App.ErrWriter, format, rows); err != nil {
			return err
		}
	}
	return bench.Write(c.App.Writer, c.String("output"), rows)
}

// keepBench writes the rows, and what they were measured on, to the folder that --results names.
func keepBench(c *cli.Context, rows []*bench.Row, here bench.Environment) error {
	folder := c.String("results")
	if folder == "" || len(rows) == 0 {
		return nil
	}
	here.Version, here.Memory = version, models.Total()
	here.Arguments, _ = c.App.Metadata[rawArguments].([]string)
	here.About(*rows[0].Subject)
	env, err := json.MarshalIndent(here, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("%w; give another folder with --results", err)
	}
	files := map[string][]byte{"env.json": append(env, '\n')}
	for name, format := range map[string]string{"raw.jsonl": "jsonl", "table.md": "md"} {
		var text bytes.Buffer
		if err := bench.Write(&text, format, rows); err != nil {
			return err
		}
		files[name] = text.Bytes()
	}
	for name, content := range files {
		err := writeWhole(filepath.Join(folder, name), func(w io.Writer) error { _, err := w.Write(content); return err })
		if err != nil {
			return err
		}
	}
	return nil
}
