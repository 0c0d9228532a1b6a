package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/device"
	"fedattn/llama"
	"fedattn/transport"
)

func askCommand() *cli.Command {
	return &cli.Command{
		Name:      "ask",
		Usage:     "ask one question over the texts of other devices",
		UsageText: "fedattn ask [flags] QUESTION   (a word - of it stands for stdin)",
		Description: "fedattn ask -m model.gguf --peer ID@192.168.1.20:7843 \"Where does the spare key hang?\"\n\n" +
			"The answer goes to stdout, everything else to stderr: who is missing, and at the end\n" +
			"[ prefill | decode | time to first token | peers in the answer / asked | rows received | share of TTFT spent on them ];\n" +
			"where a power sensor can be read, also what this device drew, and that for each token of the answer.\n" +
			"It fails if none of the named peers takes part; who is lost later is left out. With --json, a failure prints no object.\n\n" +
			scheduleHelp + "\n" + presetHelp,
		Flags: slices.Concat(modelFlags(), []cli.Flag{contextFlag("evaluate at most `N` tokens, answer included")}, exchangeFlags(), []cli.Flag{shareQuestionFlag(true)}, answerFlags(),
			outputFlags("print one JSON object: answer, stop, federation"), []cli.Flag{nameFlag(), configFlag()}),
		Action: runAsk,
	}
}

// request is what the command line says, as far as it can be known without the model.
type request struct {
	party
	question string
}

func readRequest(c *cli.Context) (r request, err error) {
	args, err := words(c, "question")
	if err != nil {
		return r, err
	}
	if r.question, err = readQuestion(args, c.App.Reader); err != nil {
		return r, err
	}
	r.party, err = readParty(c)
	return r, err
}

// readQuestion joins the words; a word - among them is stdin.
func readQuestion(args []string, stdin io.Reader) (string, error) {
	for i, word := range args {
		if word != "-" {
			continue
		}
		text, err := readInput(stdin, "question")
		if err != nil {
			return "", err
		}
		args[i] = text
		break
	}
	question := strings.TrimSpace(strings.Join(args, " "))
	if question == "" {
		return "", usagef("no question: fedattn ask [flags] QUESTION, or - to read it from stdin")
	}
	return question, checkText(question, "question")
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
	x, err := exchangeFor(c, r.party, engine, 1) // what a budget is for is narrowed once the peers' tokens are known
	if err != nil {
		return err
	}
	q, err := prepare(c, r, engine, x)
	if err != nil {
		return err
	}
	chosen, err := sampling(c)
	if err != nil {
		return err
	}
	choose, release, err := engine.Sampler(chosen.Sampling)
	if err != nil {
		return errors.New(engineText(err))
	}
	defer release()

	contacts, hangUp, err := network(c, r.party, x, wire)
	if err != nil {
		return err
	}
	defer hangUp()
	own, stop, err := ownDocuments(c, engine, r, &q)
	if err != nil {
		return err
	}
	defer stop()
	q.Contacts = append(contacts, own...) // what is here anyway stays rows
	if r.minPeers > 0 {
		q.MinPeers = r.minPeers + len(own)
	}

	power, _ := device.Board{Root: device.Sysfs}.Begin() // most devices have no sensor, or not for every user
	defer func() { _, _ = power.End() }()
	budget, err := newSpending(c, engine, len(r.addresses))
	if err != nil {
		return err
	}
	if budget != nil {
		q.Narrow = budget.narrow
	}
	session, err := node.Ask(c.Context, q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	defer func() { remember(engine, r.addresses, session.Report()) }()
	told := reporter{addresses: r.addresses, wire: q.Wire, err: c.App.ErrWriter, perLayer: c.Bool("verbose"), power: power}
	if budget != nil && budget.tokens > 0 {
		fmt.Fprintf(c.App.ErrWriter, "budget: %v\n", budget)
		told.wire = budget.wire
	}
	if err := told.beforeAnswer(session.Report(), r.somebody); err != nil {
		return err
	}
	return answerTo(c, session, choose, told)
}

// prepare is the question as the model sees it. Contacts are still to be named.
func prepare(c *cli.Context, r request, engine *llama.Engine, x exchange) (q node.Question, err error) {
	frame, err := engine.Frame(c.String("system"))
	if err != nil {
		return q, fmt.Errorf("%s; give an instruction-tuned model with --model", engineText(err))
	}
	text, err := engine.Tokenize(r.question)
	if err != nil {
		return q, err
	}
	q = node.Question{
		Engine: engine, Self: self(engine, deviceName(c), fedkv.RolePublisher), ID: string(r.identity.ID()),
		Prefix: frame.Prefix, Own: append(text, frame.Suffix...), Text: r.question, Answer: c.Int("predict"),
		Schedules: x.Schedules, Wire: x.Wire, LocalRows: r.localRows, Positions: x.positions, MaxContext: x.context,
		Sources: true, HomeType: x.home, MaxPositions: x.maxPositions, Draft: c.Int("draft-max"), SetupBy: x.setupBy, GatherBy: x.gatherBy,
		RequireAll: c.Bool("require-all"), MaxStaging: x.maxStaging, Waiting: queued(c), Log: sessionLog(c),
	}
	if len(q.Prefix) > fedkv.MaxPrefix {
		return q, fmt.Errorf("the system prompt has %d tokens with the chat template, %d are allowed: shorten --system", len(q.Prefix), fedkv.MaxPrefix)
	}
	if n := len(q.Prefix) + len(q.Own); n+q.Answer > x.context {
		return q, fmt.Errorf("the question has %d tokens with the chat template and the answer may have %d, the context has room for %d: "+
			"shorten it, or change --predict or --context", n, q.Answer, x.context)
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

const scheduleNames = "auto, gather, home, home:q8_0, lockstep, lockstep-small, light, paper:4, all, none, H=4, layers such as 2- or 0,4,8, contributors=2-;publisher=all"

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
	rows, closeRows := openRows(c, r.identity.ID(), func(err error) { q.Log.Warn().Err(err).Msg("computed rows") })
	contact, stop := node.Beside(c.Context, q.Self.Name, node.ContributorConfig{
		Engine: engine, Self: self(engine, q.Self.Name, fedkv.RoleContributor),
		ID: string(r.identity.ID()), Device: transport.DeviceOf, // in lockstep others' rows come through this device, which they are asked to trust anyway
		Source: source, MaxContext: q.MaxContext, LocalRows: q.LocalRows, Rows: kept(rows), Log: q.Log,
	})
	return []node.Contact{contact}, func() { stop(); closeRows() }, nil
}
