package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/api"
	"fedattn/cmd/fedattn/assistant"
	"fedattn/llama"
)

// shutdownTime is how long running answers have when the server is told to stop.
const shutdownTime = 2 * time.Second

func serveCommand() *cli.Command {
	const server = "Server"
	return &cli.Command{
		Name:      "serve",
		Usage:     "answer HTTP requests: the OpenAI API, metrics, and a web page",
		UsageText: "fedattn serve [flags]",
		Description: "fedattn serve -m model.gguf --peer all\n\n" +
			"Prints its address, http://HOST:PORT, when it listens. /v1/chat/completions, /v1/completions and /v1/models are as\n" +
			"OpenAI's, with a federation object at the end of each answer; /health is 503 while the model is loaded; /metrics is\n" +
			"for Prometheus; / is a page for people. Beyond this machine a key is needed, from a file or FEDATTN_API_KEY. Requests\n" +
			"are answered one after another; the rows of peers and documents stay between requests of one conversation.\n\n" +
			scheduleHelp + "\n" + presetHelp,
		Flags: slices.Concat(modelFlags(), []cli.Flag{contextFlag("hold at most `N` tokens of everything")}, exchangeFlags(), []cli.Flag{shareQuestionFlag(false)}, answerFlags(),
			[]cli.Flag{
				&cli.StringFlag{Name: "http", Value: "127.0.0.1:8080", Usage: "TCP `ADDRESS` to listen on", EnvVars: []string{"FEDATTN_HTTP"}, Category: server},
				&cli.StringFlag{Name: "api-key-file", Usage: "`FILE` with the key that clients have to know", EnvVars: []string{"FEDATTN_API_KEY_FILE"}, Category: server},
				&cli.StringFlag{Name: "alias", Usage: "`NAME` of the model for clients", DefaultText: "that of its file", EnvVars: []string{"FEDATTN_ALIAS"}, Category: server},
				alsoFlag(server),
				&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "a log of the sessions on stderr", DisableDefaultText: true, Category: server},
				drainFlag("requests under way", server), nameFlag(), configFlag(),
			}, logFlags(verboseLog, server)),
		Action: func(c *cli.Context) error {
			err := runServe(c)
			if c.Context.Err() != nil {
				return nil // it was told to stop, and did
			}
			return err
		},
	}
}

// apiKey is what clients have to know, from the environment or a file: never from the command line, which others see.
func apiKey(c *cli.Context) (string, error) {
	path := c.String("api-key-file")
	if path == "" {
		return strings.TrimSpace(os.Getenv("FEDATTN_API_KEY")), nil
	}
	text, err := readText("api-key-file", path)
	if err != nil {
		return "", err
	}
	if key := strings.TrimSpace(text); !strings.ContainsAny(key, " \n\r\t") {
		return key, nil
	}
	return "", fmt.Errorf("%s has more than one word in it: an API key is one", path)
}

func runServe(c *cli.Context) (err error) {
	if err := first(noArguments(c), checkDrain(c)); err != nil {
		return err
	}
	party, err := readParty(c)
	if err != nil {
		return err
	}
	models, err := alsoServed(c)
	if err != nil {
		return err
	}
	sampling, err := sampling(c)
	if err != nil {
		return err
	}
	key, err := apiKey(c)
	if err != nil {
		return err
	}
	address := c.String("http")
	if key == "" && !isLoopback(address) {
		return usagef("--http %s is reached from elsewhere: give a key with --api-key-file FILE or in FEDATTN_API_KEY, or listen at 127.0.0.1", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%w; give another address with --http", err)
	}
	server := api.New(api.Config{Key: key, Loopback: isLoopback(address), Version: version, Allocated: llama.Allocated})
	web := server.HTTP()
	web.BaseContext = func(net.Listener) context.Context { return c.Context }
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		if web.Shutdown(ctx) != nil {
			_ = web.Close()
		}
	}()
	finishFirst(c, func() {
		ctx, cancel := context.WithTimeout(c.Context, c.Duration("drain"))
		defer cancel()
		_ = web.Shutdown(ctx)
	})
	fmt.Fprintf(c.App.Writer, "http://%s\n", listener.Addr())

	if err := locate(c, models); err != nil {
		return err
	}
	b := &backend{
		cli: c, models: models, party: party, sampling: sampling, one: make(chan struct{}, 1),
		told: reporter{addresses: party.addresses, err: c.App.ErrWriter}, system: c.String("system"),
	}
	if b.dir, err = configDir(c); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.load(&b.models[0]); err != nil {
		return err
	}
	server.Ready(b)
	select {
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) { // requests under way are being finished
			<-c.Context.Done()
			return nil
		}
		return err
	case <-c.Context.Done():
		return nil
	}
}

// modelName is what clients call the model: its file's name without the ending, or the name under which it was brought.
func modelName(c *cli.Context) string {
	name := c.String("hf")
	if name == "" {
		name = c.String("model")
	}
	return strings.TrimSuffix(filepath.Base(name), ".gguf")
}

// backend answers for the API, one request at a time. It keeps each model's last conversation: a request that continues it
// finds everything that was evaluated still there, and the rows of peers and documents stay for the next one.
type backend struct {
	cli      *cli.Context // flags of every model
	party    party
	sampling assistant.Sampling
	told     reporter
	dir      string // of receipts
	system   string // where a request has none

	one      chan struct{} // held by the request that runs; models are its own but for reading engine, which takes mu too
	models   []served      // the first is the default
	requests int           // that needed a model so far

	mu       sync.Mutex
	last     string      // model of the last answer
	overview *federation // of the last answer
}

// Answer implements api.Backend.
func (b *backend) Answer(ctx context.Context, r api.Request, emit func(string) error) (result api.Result, err error) {
	select {
	case b.one <- struct{}{}:
		defer func() { <-b.one }()
	case <-ctx.Done():
		return result, ctx.Err()
	}
	sampling, err := b.sampled(r.Sampling)
	if err != nil {
		return result, err
	}
	m := b.modelNamed(r.Model)
	if err := b.load(m); err != nil {
		return result, notLoaded(m, err)
	}
	talk, done, err := b.conversation(m, r)
	if err != nil {
		return result, asked(err)
	}
	defer done()
	reply, err := talk.Say(ctx, r.Prompt, sampling, func(piece []byte) error { return emit(string(piece)) })
	report := reply.Report
	remember(m.engine, b.party.addresses, report)
	if err != nil {
		return result, asked(err)
	}
	if b.party.somebody && b.present(report.Peers) == 0 {
		return result, fmt.Errorf("no peer took part")
	}
	reporter := b.told
	reporter.wire = m.cfg.Setting.Wire
	told := reporter.federation(report)
	b.mu.Lock()
	b.last, b.overview = m.name, &told
	b.mu.Unlock()
	total := report.Layout.Total()
	result = api.Result{
		Finish: reply.Stopped, PromptTokens: total, CachedTokens: total - report.Own, CompletionTokens: report.Decoded,
		PromptMS: report.PrefillMS, CompletionMS: report.DecodeMS, TTFTMS: report.TTFTMS, SyncMS: report.WaitMS + report.SyncMS,
		ReceivedBytes: b.told.received(report), Federation: told,
	}
	for _, p := range report.Peers {
		if p.Missing != nil {
			result.Missing++
		}
	}
	return result, nil
}

// conversation is the one of a model that a request continues.
func (b *backend) conversation(m *served, r api.Request) (talk *assistant.Assistant, done func(), err error) {
	if r.Raw {
		cfg := m.cfg
		cfg.Raw = true
		talk, err := assistant.Open(b.cli.Context, cfg, "", b.party.docs...)
		if err != nil {
			return nil, nil, err
		}
		return talk, func() { _ = talk.Close() }, nil
	}
	system := r.System
	if system == "" {
		system = b.system
	}
	if m.talk == nil {
		if m.talk, err = assistant.Open(b.cli.Context, m.cfg, system, b.party.docs...); err != nil {
			return nil, nil, err
		}
	}
	var turns []assistant.Turn
	for _, t := range r.Turns {
		turns = append(turns, assistant.Turn{User: t.User, Answer: t.Answer})
	}
	if err := m.talk.Take(system, turns); err != nil {
		return nil, nil, errors.Join(err, m.forget()) // begun anew by the next request
	}
	return m.talk, func() {}, nil
}

// close waits for the request that runs, whose context has ended, and frees every model. One that does not end, in the
// middle of loading a model, ends with the process.
func (b *backend) close() (err error) {
	select {
	case b.one <- struct{}{}:
	case <-time.After(shutdownTime):
		return nil
	}
	for i := range b.models {
		err = errors.Join(err, b.unload(&b.models[i]))
	}
	return err
}
