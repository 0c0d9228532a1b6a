package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/assistant"
	"fedattn/cmd/fedattn/chat"
	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/llama"
	"fedattn/transport"
)

func chatCommand() *cli.Command {
	const conversation = "Conversation"
	return &cli.Command{
		Name:      "chat",
		Usage:     "talk over the texts of other devices and of this one, in several turns",
		UsageText: "fedattn chat [flags]",
		Description: "fedattn chat -m model.gguf --peer garden-pi --doc notes.txt\n\n" +
			"/help lists what can be said besides questions. Ctrl-C stops an answer, and quits on an empty line; Ctrl-D quits.\n" +
			"Several lines: paste them, or begin and end with three quotes. What is typed is kept in a file that only its owner\n" +
			"may read. If standard input is no terminal it is one prompt; the answer goes to stdout, everything else to stderr.\n\n" +
			scheduleHelp + "\n" + presetHelp,
		Flags: slices.Concat(modelFlags(), []cli.Flag{contextFlag("hold at most `N` tokens of everything")}, exchangeFlags(), answerFlags(),
			[]cli.Flag{
				shareQuestionFlag(false),
				&cli.StringSliceFlag{Name: "file", Aliases: []string{"f"}, Usage: "text `FILE` of this device's own, as --doc", Category: conversation},
				&cli.StringFlag{Name: "think", Value: string(chat.ThinkDim), Usage: "`HOW` thoughts of reasoning models are shown: dim, show, hide", Category: conversation},
				&cli.BoolFlag{Name: "no-history", Usage: "keep nothing of what is typed", DisableDefaultText: true, Category: conversation},
			},
			outputFlags("print one JSON object: answer, stop, federation; standard input is the prompt"), []cli.Flag{nameFlag(), configFlag()}),
		Action: runChat,
	}
}

func runChat(c *cli.Context) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	party, err := readParty(c)
	if err != nil {
		return err
	}
	files, err := readDocuments(c.StringSlice("file"))
	if err != nil {
		return err
	}
	party.docs = append(party.docs, files...)
	mode, err := chosen(c, "think", map[string]chat.ThinkMode{"dim": chat.ThinkDim, "show": chat.ThinkShow, "hide": chat.ThinkHide})
	if err != nil {
		return err
	}
	interactive := onTerminal(c.App.Reader) && onTerminal(c.App.ErrWriter) && !c.Bool("json")
	prompt := ""
	if !interactive {
		if prompt, err = readPrompt(c.App.Reader); err != nil {
			return err
		}
	}
	sampling, err := sampling(c)
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
	cfg, hangUp, err := assistantConfig(c, party, engine, wire)
	if err != nil {
		return err
	}
	defer hangUp()
	talk, err := assistant.Open(c.Context, cfg, c.String("system"), party.docs...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, talk.Close()) }()

	p := &partner{
		Assistant: talk, sampling: sampling, verbose: c.Bool("verbose"), somebody: party.somebody,
		remember: func(r node.Report) { remember(engine, party.addresses, r) },
		told:     reporter{addresses: party.addresses, wire: cfg.Setting.Wire, err: c.App.ErrWriter, perLayer: c.Bool("verbose")},
		view:     &chat.Think{Out: c.App.Writer, Mode: mode},
	}
	if out, ok := c.App.Writer.(*output); ok && colour(out.w) {
		p.view.Style = func(dim bool) { out.escape(map[bool]string{true: "\x1b[2m", false: "\x1b[22m"}[dim]) }
	}
	loop := chat.Loop{Partner: p, Out: c.App.Writer, Err: c.App.ErrWriter, Think: p.view}
	if !interactive {
		return once(c, &loop, p, prompt)
	}
	var keys chat.Interrupts
	loop.Answering = keys.Answering
	defer takeInterrupts(c, keys.Interrupt)()
	in, out := c.App.Reader.(*os.File), c.App.ErrWriter.(*os.File)
	editor := chat.NewEditor(in, out, chat.OpenHistory(historyFile(c)))
	editor.Reading = keys.Reading
	loop.Lines = editor
	return loop.Run(c.Context)
}

// once answers what came from a pipe or a file.
func once(c *cli.Context, loop *chat.Loop, p *partner, prompt string) error {
	if !c.Bool("json") {
		_, err := loop.Once(c.Context, prompt)
		return err
	}
	reply, err := p.Assistant.Say(c.Context, prompt, p.sampling, p.first(nil))
	if err != nil {
		return err
	}
	return p.told.object(c.App.Writer, reply.Text, reply.Stopped, reply.Report)
}

// readPrompt reads all of standard input.
func readPrompt(in io.Reader) (string, error) {
	text, err := readInput(in, "prompt")
	if err != nil {
		return "", err
	}
	if text = strings.TrimSpace(text); text == "" {
		return "", usagef("no prompt: standard input is empty and no terminal")
	}
	return text, checkText(text, "prompt")
}

// historyFile is where entries are kept, empty for nowhere.
func historyFile(c *cli.Context) string {
	dir, err := configDir(c)
	if c.Bool("no-history") || err != nil {
		return ""
	}
	return filepath.Join(dir, "chat-history")
}

// assistantConfig opens this device's end of the links to its peers and resolves everything for the model.
func assistantConfig(c *cli.Context, party party, engine *llama.Engine, wire *wireRecord) (cfg assistant.Config, hangUp func(), err error) {
	x, err := exchangeFor(c, party, engine, 0)
	if err != nil {
		return cfg, nil, err
	}
	contacts, hangUp, err := network(c, party, x, wire)
	if err != nil {
		return cfg, nil, err
	}
	for i := range contacts {
		contacts[i].Held = &node.Held{} // a conversation that begins anew need not dial
	}
	name := deviceName(c)
	return assistant.Config{
		Engine: engine, Self: self(engine, name, fedkv.RolePublisher), Host: self(engine, name, fedkv.RoleContributor),
		ID: string(party.identity.ID()), Signer: party.identity, Device: transport.DeviceOf, Contacts: contacts, Setting: x.Setting, LocalRows: party.localRows, Positions: x.positions, MaxContext: x.context,
		HomeType: x.home, MaxPositions: x.maxPositions, Draft: c.Int("draft-max"), SetupBy: x.setupBy, GatherBy: x.gatherBy,
		RequireAll: c.Bool("require-all"), MinPeers: party.minPeers, MaxStaging: x.maxStaging,
		Waiting: queued(c), Log: sessionLog(c),
	}, hangUp, nil
}

// partner is an assistant as the terminal sees it.
type partner struct {
	*assistant.Assistant
	sampling assistant.Sampling
	told     reporter
	view     *chat.Think
	verbose  bool
	somebody bool // a peer has to take part
	remember func(node.Report)
	named    map[string]bool
}

// Say is chat.Partner's.
func (p *partner) Say(ctx context.Context, text string, emit func([]byte) error) (chat.Answer, error) {
	reply, err := p.Assistant.Say(ctx, text, p.sampling, p.first(emit))
	p.remember(reply.Report)
	return chat.Answer{Text: reply.Text, Footer: p.told.footer(reply.Report)}, err
}

// Again is chat.Partner's.
func (p *partner) Again(ctx context.Context, emit func([]byte) error) (chat.Answer, error) {
	reply, err := p.Assistant.Again(ctx, p.sampling, p.first(emit))
	return chat.Answer{Text: reply.Text, Footer: p.told.footer(reply.Report)}, err
}

// first says who is missing before the answer begins, each of them once.
func (p *partner) first(emit func([]byte) error) func([]byte) error {
	begun := false
	return func(piece []byte) error {
		if !begun {
			begun = true
			if err := p.missing(); err != nil {
				return err
			}
		}
		if emit == nil {
			return nil
		}
		return emit(piece)
	}
}

// missing names who is newly missing; it fails if a peer has to take part and none does.
func (p *partner) missing() error {
	report := p.Report()
	now := map[string]bool{}
	kept := report.Peers[:0]
	for _, peer := range report.Peers {
		if peer.Missing == nil {
			kept = append(kept, peer)
			continue
		}
		text := p.told.why(*peer.Missing)
		if now[text] = true; !p.named[text] {
			kept = append(kept, peer)
		}
	}
	if !p.somebody {
		report.Peers = kept
	}
	p.named = now
	return p.told.beforeAnswer(report, p.somebody)
}

// Clear is chat.Partner's.
func (p *partner) Clear(context.Context) error { return p.Take(p.System(), nil) }

// Recall is chat.Partner's.
func (p *partner) Recall(turns []chat.Turn) error {
	var said []assistant.Turn
	for _, t := range turns {
		said = append(said, assistant.Turn{User: t.User, Answer: t.Answer})
	}
	return p.Take(p.System(), said)
}

// Read is chat.Partner's.
func (p *partner) Read(_ context.Context, path string) (string, error) {
	docs, err := readDocuments([]string{path})
	if err != nil {
		return "", errors.New(strings.TrimSuffix(err.Error(), " with --doc"))
	}
	tokens, err := p.Assistant.Read(docs[0])
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s has %d tokens; the next answer attends to it", docs[0].Name, tokens), nil
}

// Withdraw is chat.Partner's.
func (p *partner) Withdraw(_ context.Context, name string) (string, error) {
	if err := p.Assistant.Withdraw(name); err != nil {
		return "", fmt.Errorf("%w; /docs lists what is here", err)
	}
	return name + " is out; what was said stays", nil
}

// Tell is chat.Partner's.
func (p *partner) Tell(w io.Writer, about chat.Topic) {
	told := p.told
	told.err = w
	switch about {
	case chat.Peers:
		told.shares(p.Shares())
	case chat.Documents:
		docs := p.Documents()
		if len(docs) == 0 {
			fmt.Fprintln(w, "no document of this device takes part; /read FILE takes one in")
		}
		for _, d := range docs {
			fmt.Fprintf(w, "%s: %s\n", d.Name, count(d.Tokens, "token"))
		}
	case chat.Sources:
		told.sources(p.Report())
	case chat.Trace:
		told.trace(p.Report())
	case chat.Stats:
		fmt.Fprintln(w, told.footer(p.Report()))
	}
}
