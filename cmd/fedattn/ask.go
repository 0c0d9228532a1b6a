package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/llama"
	"fedattn/transport"
)

func askCommand() *cli.Command {
	return &cli.Command{
		Name:      "ask",
		Usage:     "ask one question over other devices' texts; the answer goes to stdout, everything else to stderr",
		ArgsUsage: "QUESTION (or - for stdin)",
		Flags: append(modelFlags(),
			&cli.StringSliceFlag{Name: "peer", Usage: "device to ask, `ID@HOST:PORT` as its node prints it, may be given several times"},
			&cli.StringSliceFlag{Name: "doc", Usage: "text `FILE` of this device's own, may be given several times"},
			&cli.StringFlag{Name: "schedule", Value: "gather", Usage: "gather, lockstep, H=4, 'contributors=2-;publisher=all', …"},
			&cli.StringFlag{Name: "wire", Value: "q8_0/q4_0", Usage: "types of K and V rows on the wire: f16, q8_0, q5_1, q4_1, q4_0"},
			&cli.StringFlag{Name: "positions", Usage: "canonical or inplace (default: canonical in gather, inplace in lockstep)"},
			&cli.IntFlag{Name: "min-layer", Usage: "exchange no rows of layers before this one; costs quality and protects nothing against a peer with the model"},
			&cli.StringFlag{Name: "system", Usage: "system prompt; every device evaluates it"},
			&cli.IntFlag{Name: "context", Value: 8192, Usage: "longest token stream, answer included"},
			&cli.IntFlag{Name: "predict", Aliases: []string{"n"}, Value: 256, Usage: "longest answer, in tokens"},
			&cli.Float64Flag{Name: "temp", Usage: "temperature; 0 always takes the most likely token"},
			&cli.IntFlag{Name: "top-k", Value: 40, Usage: "sample from the k most likely tokens"},
			&cli.Float64Flag{Name: "top-p", Value: 0.95, Usage: "sample from the most likely tokens with this share of probability"},
			&cli.Float64Flag{Name: "min-p", Value: 0.05, Usage: "sample from tokens at least this likely, relative to the most likely one"},
			&cli.Float64Flag{Name: "repeat-penalty", Value: 1, Usage: "penalty of repeated tokens; 1 is none"},
			&cli.IntFlag{Name: "seed", Value: -1, Usage: "seed of sampling; -1 is another one each time"},
			&cli.DurationFlag{Name: "setup-timeout", Value: 10 * time.Second, Usage: "who is not ready by then is left out"},
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "whose rows are not here by then is left out"},
			&cli.BoolFlag{Name: "require-all", Usage: "fail rather than answer without somebody"},
			&cli.IntFlag{Name: "min-peers", Usage: "fail with fewer peers than this"},
			&cli.StringFlag{Name: "record", Usage: "write everything that crosses this device's links to `FILE`, as fedattn inspect reads it"},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object: answer, stop, federation"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "a table of the peers on stderr"},
			&cli.StringFlag{Name: "name", Usage: "what this device is called (default: the host's name)", EnvVars: []string{"FEDATTN_NAME"}},
			configFlag(),
		),
		Action: runAsk,
	}
}

// answer is what --json prints.
type answer struct {
	Answer     string     `json:"answer"`
	Stop       string     `json:"stop"`
	Federation federation `json:"federation"`
}

type federation struct {
	Session   string     `json:"session"`
	Regime    string     `json:"regime"`
	Wire      string     `json:"wire"`
	Tokens    int        `json:"tokens"`
	Peers     []peerJSON `json:"peers"`
	Bytes     int64      `json:"bytes"`
	SetupMS   float64    `json:"setup_ms"`
	WaitMS    float64    `json:"wait_ms"`
	SyncMS    float64    `json:"sync_ms"`
	PrefillMS float64    `json:"prefill_ms"`
	TTFTMS    float64    `json:"ttft_ms"`
	DecodeMS  float64    `json:"decode_ms"`
	Decoded   int        `json:"decoded"`
	Notes     []string   `json:"notes,omitempty"`
}

type peerJSON struct {
	Name       string  `json:"name"`
	ID         string  `json:"id,omitempty"`
	Tokens     int     `json:"tokens"`
	Rows       int     `json:"rows"`
	Bytes      int64   `json:"bytes"`
	PrefillMS  float64 `json:"prefill_ms"`
	TransferMS float64 `json:"transfer_ms"`
	Missing    string  `json:"missing,omitempty"`
}

func runAsk(c *cli.Context) (err error) {
	question, err := readQuestion(c)
	if err != nil {
		return err
	}
	addresses, err := peerAddresses(c)
	if err != nil {
		return err
	}
	docs, err := readDocuments(c.StringSlice("doc"))
	if err != nil {
		return err
	}
	if c.Int("predict") < 1 || c.Int("context") < 1 {
		return usagef("--predict and --context must be positive")
	}
	types, err := fedkv.ParseWireTypes(c.String("wire"))
	if err != nil {
		return usagef("--wire: %v", err)
	}
	identity, err := loadIdentity(c)
	if err != nil {
		return err
	}
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	schedules, positions, err := plan(c, engine)
	if err != nil {
		return err
	}
	frame, err := engine.Frame(c.String("system"))
	if err != nil {
		return err
	}
	text, err := engine.Tokenize(question)
	if err != nil {
		return err
	}
	choose, release, err := engine.Sampler(sampling(c))
	if err != nil {
		return err
	}
	defer release()

	log := newLogger(c, c.Bool("verbose"))
	wire, err := openRecord(c.String("record"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wire.close()) }()
	contacts := []node.Contact{}
	if len(addresses) > 0 {
		endpoint, err := transport.Listen(transport.Config{
			Identity: identity,
			Notify:   func(e transport.Event) { log.Debug().Str("peer", string(e.Peer)).Stringer("kind", e.Kind).Msg(e.Text) },
			Allow: func(transport.ID) error {
				return fedkv.Errorf(fedkv.CodeForbidden, "this device asks and serves nobody")
			},
		})
		if err != nil {
			return err
		}
		defer endpoint.Close()
		for _, a := range addresses {
			to := node.Address{ID: string(a.ID), HostPort: a.HostPort}
			contacts = append(contacts, node.Contact{Dial: func(ctx context.Context) (node.Link, error) {
				return wire.tap(peers{endpoint}.Dial(ctx, to))
			}})
		}
	}
	own, stop, err := ownDocuments(c, engine, docs, types)
	if err != nil {
		return err
	}
	defer stop()
	contacts = append(contacts, own...)

	session, err := node.Ask(c.Context, node.Question{
		Engine: engine, Self: self(engine, deviceName(c), fedkv.RolePublisher), ID: string(identity.ID()),
		Contacts: contacts, Prefix: frame.Prefix, Own: append(text, frame.Suffix...), Answer: c.Int("predict"),
		Schedules: schedules, Types: types, Positions: positions, MaxContext: min(c.Int("context"), engine.ContextTrain()),
		SetupBy: c.Duration("setup-timeout"), GatherBy: c.Duration("setup-timeout") + c.Duration("timeout"),
		RequireAll: c.Bool("require-all"), MinPeers: c.Int("min-peers"), MaxStaging: memoryShare(), Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	var whole strings.Builder
	reason, err := session.Generate(c.Context, choose, c.Int("predict"), func(piece []byte) error {
		if c.Bool("json") {
			whole.Write(piece)
			return nil
		}
		_, err := c.App.Writer.Write(piece)
		return err
	})
	if err != nil {
		return err
	}
	report := session.Report()
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(answer{whole.String(), reason, federationOf(report, types)})
	}
	fmt.Fprintln(c.App.Writer)
	printReport(c.App.ErrWriter, report, engine, c.Bool("verbose"))
	return nil
}

// readQuestion takes the question from the arguments, or from stdin for "-".
func readQuestion(c *cli.Context) (string, error) {
	question := strings.Join(c.Args().Slice(), " ")
	if question == "-" {
		b, err := io.ReadAll(io.LimitReader(c.App.Reader, 1<<20))
		if err != nil {
			return "", err
		}
		question = string(b)
	}
	if question = strings.TrimSpace(question); question == "" {
		return "", usagef("no question: fedattn ask [flags] \"question\"; flags come before it")
	}
	return question, nil
}

func peerAddresses(c *cli.Context) ([]transport.PeerAddress, error) {
	var list []transport.PeerAddress
	seen := map[transport.ID]bool{}
	for _, text := range c.StringSlice("peer") {
		a, err := transport.ParsePeerAddress(text)
		if err != nil {
			return nil, usagef("--peer: %v", err)
		}
		if seen[a.ID] {
			return nil, usagef("--peer: %s is named twice", a.ID.Short())
		}
		seen[a.ID] = true
		list = append(list, a)
	}
	return list, nil
}

// plan resolves schedule and positions for the model.
func plan(c *cli.Context, engine *llama.Engine) (fedkv.Schedules, fedkv.Positions, error) {
	schedules, err := fedkv.ParseSchedules(c.String("schedule"), engine.Layers())
	if err != nil {
		return fedkv.Schedules{}, 0, usagef("--schedule: %v", err)
	}
	if least := c.Int("min-layer"); least < 0 || least > engine.Layers() {
		return fedkv.Schedules{}, 0, usagef("--min-layer %d: the model has layers 0 to %d", least, engine.Layers()-1)
	}
	schedules = schedules.From(c.Int("min-layer"))
	positions := fedkv.Canonical
	if schedules.Regime() == fedkv.Lockstep {
		positions = fedkv.InPlace
	}
	if name := c.String("positions"); name != "" {
		if positions, err = fedkv.ParsePositions(name); err != nil {
			return fedkv.Schedules{}, 0, usagef("--positions: %v", err)
		}
		if positions == fedkv.Canonical && schedules.Regime() == fedkv.Lockstep {
			return fedkv.Schedules{}, 0, usagef("--positions canonical: lockstep needs true positions")
		}
	}
	return schedules, positions, nil
}

func sampling(c *cli.Context) llama.Sampling {
	seed := uint32(c.Int("seed"))
	if c.Int("seed") < 0 {
		seed = uint32(time.Now().UnixNano())
	}
	return llama.Sampling{
		Seed: seed, Temperature: float32(c.Float64("temp")), TopK: c.Int("top-k"), TopP: float32(c.Float64("top-p")),
		MinP: float32(c.Float64("min-p")), RepeatLastN: 64, RepeatPenalty: float32(c.Float64("repeat-penalty")),
	}
}

// ownDocuments makes this device's own texts one more contributor, without a network.
func ownDocuments(c *cli.Context, engine *llama.Engine, docs []node.Document, types fedkv.WireTypes) ([]node.Contact, func(), error) {
	if len(docs) == 0 {
		return nil, func() {}, nil
	}
	name := deviceName(c)
	source, err := node.NewDocuments(engine, name, docs)
	if err != nil {
		return nil, nil, err
	}
	network := node.NewMemory()
	const host, guest = "own documents", "publisher"
	contributor := node.NewContributor(node.ContributorConfig{
		Engine: engine, Peers: network.Join(host), Self: self(engine, name, fedkv.RoleContributor), ID: host,
		Source: source, MaxContext: c.Int("context"), Log: newLogger(c, false),
	})
	ctx, cancel := context.WithCancel(c.Context)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = contributor.Serve(ctx)
	}()
	asker := network.Join(guest)
	contact := node.Contact{Name: name, Dial: func(ctx context.Context) (node.Link, error) {
		return asker.Dial(ctx, node.Address{ID: host})
	}}
	return []node.Contact{contact}, func() { cancel(); <-done }, nil
}

func federationOf(r node.Report, types fedkv.WireTypes) federation {
	f := federation{
		Session: r.Session.String(), Regime: r.Regime.String(), Wire: types.String(), Tokens: r.Layout.Total(),
		Bytes: r.Received(), SetupMS: r.SetupMS, WaitMS: r.WaitMS, SyncMS: r.SyncMS, PrefillMS: r.PrefillMS,
		TTFTMS: r.TTFTMS, DecodeMS: r.DecodeMS, Decoded: r.Decoded, Notes: r.Notes, Peers: []peerJSON{},
	}
	for _, p := range r.Peers {
		j := peerJSON{Name: p.Name, ID: p.ID, Tokens: p.Tokens, Rows: p.Rows, Bytes: p.Bytes, PrefillMS: p.PrefillMS, TransferMS: p.TransferMS}
		if p.Missing != nil {
			j.Missing = p.Missing.String()
		}
		f.Peers = append(f.Peers, j)
	}
	return f
}

// printReport writes who is missing, the peers' table if asked for, and the footer.
func printReport(w io.Writer, r node.Report, engine *llama.Engine, verbose bool) {
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	for _, p := range r.Peers {
		if p.Missing != nil {
			fmt.Fprintf(w, "missing: %s\n", p.Missing)
		}
	}
	if verbose {
		t := newTable(w, "peer", "tokens", "rows", "bytes", "prefill ms", "transfer ms", "")
		for _, p := range r.Peers {
			state := ""
			if p.Missing != nil {
				state = "missing"
			}
			t.AppendRow(table.Row{p.Name, p.Tokens, p.Rows, p.Bytes, fmt.Sprintf("%.0f", p.PrefillMS), fmt.Sprintf("%.0f", p.TransferMS), state})
		}
		t.Render()
	}
	rate := func(tokens int, ms float64) float64 {
		if ms == 0 {
			return 0
		}
		return 1000 * float64(tokens) / ms
	}
	share := 0.0
	if r.TTFTMS > 0 {
		share = 100 * (r.WaitMS + r.SyncMS) / r.TTFTMS
	}
	fmt.Fprintf(w, "[ prefill %d tok %.1f t/s | decode %d tok %.1f t/s | TTFT %.1f s | peers %d/%d | recv %s | sync %.0f %% ]\n",
		r.Own, rate(r.Own, r.PrefillMS), r.Decoded, rate(r.Decoded, r.DecodeMS), r.TTFTMS/1000, r.Present(), len(r.Peers),
		bytesText(r.Received()), share)
}
