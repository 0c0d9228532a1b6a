package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/profile"
	"fedattn/llama"
	"fedattn/transport"
)

// maxQuestion bounds, in bytes, a question from stdin.
const maxQuestion = 1 << 20

// maxFactor is beyond any sensible temperature or penalty, and keeps out what is no number.
const maxFactor = 100

func askCommand() *cli.Command {
	const answer, exchange, output = "Answer", "Peers and exchange", "Output"
	return &cli.Command{
		Name:      "ask",
		Usage:     "ask one question over the texts of other devices",
		UsageText: "fedattn ask [flags] QUESTION   (a word - of it stands for stdin)",
		Description: "fedattn ask -m model.gguf --peer ID@192.168.1.20:7843 \"Where does the spare key hang?\"\n\n" +
			"The answer goes to stdout, everything else to stderr: who is missing, and at the end\n" +
			"[ prefill | decode | time to first token | peers in the answer / asked | rows received | share of TTFT spent on them ].\n" +
			"It fails if none of the named peers takes part; who is lost later is left out. With --json, a failure prints no object.\n\n" +
			scheduleHelp + "\n" + presetHelp,
		Flags: append(append(modelFlags(), discoveryFlags(exchange)...),
			contextFlag("evaluate at most `N` tokens, answer included"),
			&cli.StringSliceFlag{Name: "peer", Usage: "device to ask: `NAME` of a paired one, all for all of them, or ID@HOST:PORT as its node prints it", Category: exchange},
			&cli.StringSliceFlag{Name: "doc", Usage: "text `FILE` of this device's own", Category: exchange},
			&cli.StringFlag{Name: "schedule", Value: autoPreset, Usage: "`SCHEDULE` of sync layers, see above", Category: exchange},
			&cli.StringFlag{Name: "wire", Usage: "`K/V` rows on the wire: " + wireTypes + "; without it those of --schedule", Category: exchange},
			profileFlag(exchange),
			&cli.StringFlag{Name: "budget", Usage: "receive at most `BYTES` of rows, such as 8MB, with --schedule auto; --context tokens of the others must fit",
				Category: exchange},
			&cli.StringFlag{Name: "positions", Usage: "`WHERE` segments are evaluated: canonical, inplace",
				DefaultText: "inplace in lockstep only", Category: exchange},
			&cli.IntFlag{Name: "min-layer", Usage: "exchange no rows before layer `N`; costs quality, protects nothing", Category: exchange},
			&cli.DurationFlag{Name: "setup-timeout", Value: 10 * time.Second, Usage: "leave out who is not ready after this `TIME`", Category: exchange},
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "leave out whose rows are not here after this `TIME`", Category: exchange},
			&cli.BoolFlag{Name: "require-all", Usage: "fail rather than answer without somebody", DisableDefaultText: true, Category: exchange},
			&cli.IntFlag{Name: "min-peers", Usage: "fail as soon as there are fewer than `N` peers", DefaultText: "1 at the start, or 0 if there is a --doc", Category: exchange},
			&cli.StringFlag{Name: "system", Usage: "system `PROMPT`; every device evaluates it", Category: answer},
			&cli.IntFlag{Name: "predict", Aliases: []string{"n"}, Value: 256, Usage: "answer with at most `N` tokens", Category: answer},
			&cli.Float64Flag{Name: "temp", Usage: "`TEMPERATURE`; 0 always takes the most likely token", Category: answer},
			&cli.IntFlag{Name: "top-k", Value: 40, Usage: "sample from the `K` most likely tokens", Category: answer},
			&cli.Float64Flag{Name: "top-p", Value: 0.95, Usage: "sample from the most likely tokens with this `SHARE` of probability", Category: answer},
			&cli.Float64Flag{Name: "min-p", Value: 0.05, Usage: "sample from tokens with this `SHARE` of the best one's probability", Category: answer},
			&cli.Float64Flag{Name: "repeat-penalty", Value: 1, Usage: "`PENALTY` of repeated tokens; 1 is none", Category: answer},
			&cli.IntFlag{Name: "seed", Value: -1, Usage: "`SEED` of sampling; -1 is another one each time", Category: answer},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object: answer, stop, federation", DisableDefaultText: true, Category: output},
			&cli.StringFlag{Name: "record", Usage: "write everything that crosses this device's links to `FILE`, for fedattn inspect", Category: output},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "a table of the peers and a log of the session on stderr",
				DisableDefaultText: true, Category: output},
			nameFlag(), configFlag(),
		),
		Action: runAsk,
	}
}

// request is what the command line says, as far as it can be known without the model.
type request struct {
	question  string
	addresses []transport.PeerAddress
	discovery discovery
	docs      []node.Document
	identity  transport.Identity
	minPeers  int  // throughout; fewer end the session
	somebody  bool // has to take part at first: otherwise there is nothing to answer from
}

func readRequest(c *cli.Context) (r request, err error) {
	args, err := words(c, "question")
	if err != nil {
		return r, err
	}
	if r.question, err = readQuestion(args, c.App.Reader); err != nil {
		return r, err
	}
	if err := first(checkModel(c), atLeast(c, 1, "predict", "context"), atLeast(c, 0, "min-layer", "min-peers", "top-k"),
		atLeast(c, -1, "seed"), between(c, 0, 1, "top-p", "min-p"), between(c, 0, maxFactor, "temp", "repeat-penalty"),
		checkTimes(c), checkSetting(c.String("schedule"), c.String("wire"))); err != nil {
		return r, err
	}
	if _, err := readProfile(c); err != nil {
		return r, err
	}
	if budget := c.String("budget"); budget != "" {
		if _, err := parseBytes("budget", budget); err != nil {
			return r, err
		}
		if c.String("schedule") != autoPreset || c.String("wire") != "" {
			return r, usagef("--budget chooses sync layers and wire types: leave out --schedule and --wire")
		}
	}
	if r.discovery, err = readDiscovery(c); err != nil {
		return r, err
	}
	if r.addresses, err = peerAddresses(c); err != nil {
		return r, err
	}
	if r.docs, err = readDocuments(c.StringSlice("doc")); err != nil {
		return r, err
	}
	r.minPeers = c.Int("min-peers")
	r.somebody = !c.IsSet("min-peers") && len(r.addresses) > 0 && len(r.docs) == 0
	if r.minPeers > len(r.addresses) {
		return r, usagef("--min-peers %d: only %d are named with --peer", r.minPeers, len(r.addresses))
	}
	if r.identity, err = loadIdentity(c); err != nil {
		return r, err
	}
	for _, a := range r.addresses {
		if a.ID == r.identity.ID() {
			return r, usagef("--peer %s is this device itself; to try two devices on one machine, give each a --config of its own", a.ID.Short())
		}
	}
	return r, nil
}

// readQuestion joins the words; a word - among them is stdin.
func readQuestion(args []string, stdin io.Reader) (string, error) {
	for i, word := range args {
		if word != "-" {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(stdin, maxQuestion+1))
		switch {
		case err != nil:
			return "", fmt.Errorf("reading the question from stdin: %w", err)
		case len(b) > maxQuestion:
			return "", fmt.Errorf("stdin has more than the %d KiB that a question may have: give long texts with --doc", maxQuestion>>10)
		}
		args[i] = string(b)
		break
	}
	question := strings.TrimSpace(strings.Join(args, " "))
	if question == "" {
		return "", usagef("no question: fedattn ask [flags] QUESTION, or - to read it from stdin")
	}
	if !utf8.ValidString(question) || strings.ContainsRune(question, 0) {
		return "", usagef("the question is not UTF-8 text: convert it first")
	}
	return question, nil
}

func peerAddresses(c *cli.Context) ([]transport.PeerAddress, error) {
	list, err := namedPeers(c)
	if err != nil {
		return nil, err
	}
	seen := map[transport.ID]bool{}
	for _, a := range list {
		if seen[a.ID] {
			return nil, usagef("--peer %s is named twice: name each device once", a.ID.Short())
		}
		seen[a.ID] = true
	}
	if most := fedkv.MaxParticipants - 1; len(list) > most {
		return nil, usagef("%d peers are named: one question can be asked of %d", len(list), most)
	}
	return list, nil
}

func checkTimes(c *cli.Context) error {
	for _, name := range []string{"setup-timeout", "timeout"} {
		if d := c.Duration(name); d <= 0 || d > fedkv.MaxDeadlineMS*time.Millisecond/2 {
			return usagef("--%s %v: must be more than 0s and at most %v", name, d, fedkv.MaxDeadlineMS*time.Millisecond/2)
		}
	}
	return nil
}

func runAsk(c *cli.Context) (err error) {
	r, err := readRequest(c)
	if err != nil {
		return err
	}
	wire, err := openRecord(c.String("record"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wire.close()) }()
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	q, err := prepare(c, r, engine)
	if err != nil {
		return err
	}
	choose, release, err := engine.Sampler(sampling(c))
	if err != nil {
		return err
	}
	defer release()

	contacts, hangUp, err := network(c, r, wire)
	if err != nil {
		return err
	}
	defer hangUp()
	own, stop, err := ownDocuments(c, engine, r, &q)
	if err != nil {
		return err
	}
	defer stop()
	q.Contacts = append(contacts, own...)
	if r.minPeers > 0 {
		q.MinPeers = r.minPeers + len(own)
	}

	session, err := node.Ask(c.Context, q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	told := reporter{addresses: r.addresses, wire: q.Wire, err: c.App.ErrWriter}
	if err := told.beforeAnswer(session.Report(), r.somebody); err != nil {
		return err
	}
	return answerTo(c, session, choose, told)
}

// prepare is the question as the model sees it. Contacts are still to be named.
func prepare(c *cli.Context, r request, engine *llama.Engine) (q node.Question, err error) {
	most, err := contextSize(c, engine)
	if err != nil {
		return q, err
	}
	setting, positions, err := plan(c, engine)
	if err != nil {
		return q, err
	}
	schedules := setting.Schedules
	frame, err := engine.Frame(c.String("system"))
	if err != nil {
		return q, fmt.Errorf("%s; give an instruction-tuned model with --model", engineText(err))
	}
	text, err := engine.Tokenize(r.question)
	if err != nil {
		return q, err
	}
	if schedules.Regime() == fedkv.Lockstep && len(r.docs) > 0 && len(r.addresses) > 0 {
		return q, usagef("--doc with --schedule %s: in lockstep the peers would have to reach this device's own documents; "+
			"use gather, or start a node for them", c.String("schedule"))
	}
	q = node.Question{
		Engine: engine, Self: self(engine, deviceName(c), fedkv.RolePublisher), ID: string(r.identity.ID()),
		Prefix: frame.Prefix, Own: append(text, frame.Suffix...), Answer: c.Int("predict"),
		Schedules: schedules, Wire: setting.Wire, Positions: positions, MaxContext: most,
		SetupBy: c.Duration("setup-timeout"), GatherBy: c.Duration("setup-timeout") + c.Duration("timeout"),
		// the endpoint counts memory, which comes in powers of two: half of it is sure to be enough for the rows
		RequireAll: c.Bool("require-all"), MaxStaging: memoryShare() / 2, Log: newLogger(c, c.Bool("verbose")),
	}
	if len(q.Prefix) > fedkv.MaxPrefix {
		return q, fmt.Errorf("the system prompt has %d tokens with the chat template, %d are allowed: shorten --system", len(q.Prefix), fedkv.MaxPrefix)
	}
	if n := len(q.Prefix) + len(q.Own); n+q.Answer > most {
		return q, fmt.Errorf("the question has %d tokens with the chat template and the answer may have %d, the context has room for %d: "+
			"shorten it, or change --predict or --context", n, q.Answer, most)
	}
	return q, nil
}

// answerTo decodes the answer and prints it.
func answerTo(c *cli.Context, session *node.Session, choose node.Sampler, told reporter) error {
	var whole strings.Builder
	streamed := 0
	reason, err := session.Generate(c.Context, choose, c.Int("predict"), func(piece []byte) error {
		if c.Bool("json") {
			whole.Write(piece)
			return nil
		}
		streamed += len(piece)
		_, err := c.App.Writer.Write(piece)
		return err
	})
	if streamed > 0 || err == nil && !c.Bool("json") {
		fmt.Fprintln(c.App.Writer)
	}
	if err != nil {
		return err
	}
	report := session.Report()
	if c.Bool("json") {
		return told.object(c.App.Writer, whole.String(), reason, report)
	}
	told.afterAnswer(report, c.Bool("verbose"))
	return nil
}

// scheduleHelp explains --schedule.
const scheduleHelp = "A schedule says at which layers devices attend to each other: gather (contributors none, publisher all), lockstep\n" +
	"(both all), or for both alike all, none, every fourth layer as H=4 or tail=4 or head=4, as many placed by shallow=4,\n" +
	"deep=4, progressive=4 or regressive=4, layers such as 2- or 0,4,8-11; or apart, contributors=2-;publisher=all."

const scheduleNames = "auto, gather, lockstep, lockstep-small, light, paper:4, all, none, H=4, layers such as 2- or 0,4,8, contributors=2-;publisher=all"

func scheduleError(spec string, err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if _, reason, found := strings.Cut(text, `": `); found && strings.HasPrefix(text, "schedule") {
		text = reason // it begins with the schedule, which is named below
	}
	return usagef("--schedule %q: %s; known are %s", spec, text, scheduleNames)
}

// plan resolves schedule, wire types and positions for the model.
func plan(c *cli.Context, engine *llama.Engine) (s profile.Setting, positions fedkv.Positions, err error) {
	known, err := profileOf(c, engine.Fingerprint())
	if err != nil {
		return s, 0, err
	}
	if s, err = resolve(c.String("schedule"), c.String("wire"), engine.Layers(), known); err != nil {
		return s, 0, err
	}
	if c.String("budget") != "" {
		// what the others hold is not known before they are asked; more than the context it cannot be
		most, err := contextSize(c, engine)
		if err == nil {
			s, err = withinBudget(c, known, most)
		}
		if err != nil {
			return s, 0, err
		}
	}
	if least := c.Int("min-layer"); least > engine.Layers() {
		return s, 0, usagef("--min-layer %d: the model has layers 0 to %d", least, engine.Layers()-1)
	}
	s.Schedules = s.Schedules.From(c.Int("min-layer"))
	positions = fedkv.Canonical
	if s.Schedules.Regime() == fedkv.Lockstep {
		positions = fedkv.InPlace
	}
	if name := c.String("positions"); name != "" {
		if positions, err = fedkv.ParsePositions(name); err != nil {
			return s, 0, usagef("--positions: %v", err)
		}
		if positions == fedkv.Canonical && s.Schedules.Regime() == fedkv.Lockstep {
			return s, 0, usagef("--positions canonical: lockstep needs true positions, inplace")
		}
	}
	return s, positions, nil
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

// network opens this device's end of the links to its peers. Nobody may open one to it.
func network(c *cli.Context, r request, wire *wireRecord) (contacts []node.Contact, hangUp func(), err error) {
	if len(r.addresses) == 0 {
		return nil, func() {}, nil
	}
	log := newLogger(c, c.Bool("verbose"))
	endpoint, err := transport.Listen(transport.Config{
		Identity: r.identity, MaxStaging: memoryShare(),
		Notify: func(e transport.Event) { log.Debug().Str("peer", string(e.Peer)).Stringer("kind", e.Kind).Msg(e.Text) },
		Allow: func(transport.ID) error {
			return fedkv.Errorf(fedkv.CodeForbidden, "this device asks and serves nobody")
		},
	})
	if err != nil {
		return nil, nil, err
	}
	for _, a := range r.addresses {
		reach := peers{Endpoint: endpoint, called: func(transport.ID) string { return a.Name }}
		contacts = append(contacts, node.Contact{Name: a.Name, Dial: func(ctx context.Context) (node.Link, error) {
			return wire.tap(r.discovery.dial(ctx, reach, a))
		}})
	}
	return contacts, func() { _ = endpoint.Close() }, nil
}

// ownDocuments makes this device's own texts one more contributor, without a network.
func ownDocuments(c *cli.Context, engine *llama.Engine, r request, q *node.Question) ([]node.Contact, func(), error) {
	if len(r.docs) == 0 {
		return nil, func() {}, nil
	}
	source, err := node.NewDocuments(engine, q.Self.Name, r.docs)
	if err != nil {
		return nil, nil, err
	}
	if room := q.MaxContext - q.Answer - len(q.Prefix) - len(q.Own); source.Tokens() > room {
		return nil, nil, fmt.Errorf("this device's documents have %d tokens, beside question and answer the context has room for %d: "+
			"give fewer, or change --predict or --context", source.Tokens(), room)
	}
	memory := node.NewMemory()
	const host, guest = "own documents", "publisher"
	contributor := node.NewContributor(node.ContributorConfig{
		Engine: engine, Peers: memory.Join(host), Self: self(engine, q.Self.Name, fedkv.RoleContributor), ID: host,
		Source: source, MaxContext: q.MaxContext, Log: q.Log,
	})
	ctx, cancel := context.WithCancel(c.Context)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = contributor.Serve(ctx)
	}()
	asker := memory.Join(guest)
	contact := node.Contact{Name: q.Self.Name, Dial: func(ctx context.Context) (node.Link, error) {
		return asker.Dial(ctx, node.Address{ID: host})
	}}
	return []node.Contact{contact}, func() { cancel(); <-done }, nil
}
