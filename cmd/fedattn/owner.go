package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/documents"
	"fedattn/fedkv/node"
	"fedattn/fedkv/policy"
	"fedattn/fedkv/receipt"
	"fedattn/transport"
)

const policyFile = "policy.yaml"

// policyFlags are an owner's conditions, which are in a file too.
func policyFlags(category string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "policy", Usage: "`FILE` of what this device gives to whom", DefaultText: policyFile + " in the directory of --config", Category: category},
		&cli.IntFlag{Name: "max-tokens", Usage: "contribute at most `N` tokens to one question", DefaultText: "no limit", Category: category},
		&cli.StringFlag{Name: "max-bytes", Usage: "send at most `BYTES` of rows for one question, such as 50MB", DefaultText: "no limit", Category: category},
		&cli.IntFlag{Name: "tokens-per-day", Usage: "contribute at most `N` tokens a day for each peer", DefaultText: "no limit", Category: category},
		&cli.StringFlag{Name: "bytes-per-day", Usage: "send at most `BYTES` of rows a day to each peer", DefaultText: "no limit", Category: category},
		&cli.IntFlag{Name: "min-layer", Usage: "keep the rows before layer `N`; costs quality, protects nothing", Category: category},
		&cli.BoolFlag{Name: "ask-me-first", Usage: "ask at this terminal before each session", DisableDefaultText: true, Category: category},
	}
}

// readPolicy is the owner's file with the flags in place of what it says for everybody.
func readPolicy(c *cli.Context) (p policy.Policy, err error) {
	path := c.String("policy")
	if path == "" {
		dir, err := configDir(c)
		if err != nil {
			return p, err
		}
		path = filepath.Join(dir, policyFile)
	}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !c.IsSet("policy"):
	case err != nil:
		return p, fmt.Errorf("%w; give the file of a policy with --policy", err)
	default:
		if p, err = policy.Parse(text); err != nil {
			return p, fmt.Errorf("%s: %w", path, err)
		}
	}
	if c.IsSet("min-layer") {
		layer := c.Int("min-layer")
		p.MinLayer = &layer
	}
	if c.IsSet("ask-me-first") {
		ask := c.Bool("ask-me-first")
		p.AskMeFirst = &ask
	}
	for flag, amount := range map[string]*policy.Amount{"max": &p.Session, "per-day": &p.Day} {
		tokens, bytes := "tokens-"+flag, "bytes-"+flag
		if flag == "max" {
			tokens, bytes = "max-tokens", "max-bytes"
		}
		if c.IsSet(tokens) {
			amount.Tokens = c.Int(tokens)
		}
		if text := c.String(bytes); text != "" {
			if err := amount.Bytes.UnmarshalText([]byte(text)); err != nil {
				return p, usagef("--%s: %v", bytes, err)
			}
		}
	}
	return p, nil
}

// owner speaks for a node's owner: who may do what (members), on which terms (policy), and what is kept of it (receipts).
type owner struct {
	*members
	policy   policy.Policy
	receipts *receipt.Log
	console  *console
	log      zerolog.Logger

	engine  node.Engine
	device  string
	docs    []node.Document
	library *documents.Library // nil: docs are all there is

	mu      sync.Mutex
	day     string                   // of used
	used    map[string]policy.Amount // by peer, today
	taking  map[fedkv.SessionID]taking
	sources map[string]node.Source // by the names of the documents in it
}

// taking is what a session under way may still add to its peer's day.
type taking struct {
	peer   string
	amount policy.Amount
}

// newOwner reads what peers have had today.
func newOwner(m *members, p policy.Policy, identity transport.Identity, console *console, log zerolog.Logger) (*owner, error) {
	o := &owner{
		members: m, policy: p, receipts: receipt.NewLog(m.dir, identity), console: console, log: log,
		day: today(), used: map[string]policy.Amount{}, sources: map[string]node.Source{},
		taking: map[fedkv.SessionID]taking{},
	}
	err := receipt.Read(m.dir, nil, func(e receipt.Entry) error {
		if e.Err != nil {
			return fmt.Errorf("line %d of the receipts: %w; what was given away today is not known: move the file away to begin anew", e.Line, e.Err)
		}
		if e.Time.Local().Format(time.DateOnly) == o.day {
			o.count(e.Peer, e.Tokens, e.Bytes)
		}
		return nil
	})
	return o, err
}

func today() string { return time.Now().Format(time.DateOnly) }

func (o *owner) count(peer string, tokens int, bytes int64) {
	if now := today(); now != o.day {
		o.day, o.used = now, map[string]policy.Amount{}
	}
	u := o.used[peer]
	o.used[peer] = policy.Amount{Tokens: u.Tokens + tokens, Bytes: u.Bytes + policy.Bytes(bytes)}
}

// grant is what a peer may have now, beside its sessions under way.
func (o *owner) grant(peer policy.Peer) (policy.Grant, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.grantLocked(peer)
}

func (o *owner) grantLocked(peer policy.Peer) (policy.Grant, error) {
	o.count(peer.ID, 0, 0) // so that a new day begins
	used := o.used[peer.ID]
	for _, t := range o.taking {
		if t.peer == peer.ID {
			used.Tokens += t.amount.Tokens
			used.Bytes += t.amount.Bytes
		}
	}
	return o.policy.Grant(peer, used)
}

// take sets what a session asks for aside, if the peer may have it: two at a time must not take twice what is left.
func (o *owner) take(peer policy.Peer, r node.Request) (policy.Grant, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g, err := o.grantLocked(peer)
	if err == nil {
		err = g.Admits(r.Tokens, r.Bytes)
	}
	if err == nil {
		o.taking[r.Plan.Session] = taking{peer.ID, policy.Amount{Tokens: r.Tokens, Bytes: policy.Bytes(r.Bytes)}}
	}
	return g, err
}

// Admit implements node.Owner.
func (o *owner) Admit(id string, role fedkv.Role) (node.Grant, error) {
	peer, err := o.peer(id)
	if err != nil {
		return node.Grant{}, err
	}
	if role != fedkv.RolePublisher {
		return node.Grant{}, peer.MayContribute()
	}
	if err := o.policy.MayAsk(peer); err != nil {
		return node.Grant{}, err
	}
	g, err := o.grant(peer)
	if err != nil {
		return node.Grant{}, err
	}
	source, names, err := o.source(g)
	return node.Grant{MinLayer: g.MinLayer, MaxBytes: g.MaxBytes, Source: source, Documents: names}, err
}

// source holds the documents that a grant is for.
func (o *owner) source(g policy.Grant) (node.Source, []string, error) {
	if o.library != nil {
		view := o.library.View(g.Shares, g.MaxTokens)
		names := view.Names()
		if len(names) == 0 {
			return nil, nil, fedkv.Errorf(fedkv.CodeForbidden, "its owner shares none of its texts with this device")
		}
		return view, names, nil
	}
	var shared []node.Document
	var names []string
	for _, d := range o.docs {
		if g.Shares(d.Name) {
			shared, names = append(shared, d), append(names, d.Name)
		}
	}
	switch len(shared) {
	case len(o.docs):
		return nil, names, nil
	case 0:
		return nil, nil, fedkv.Errorf(fedkv.CodeForbidden, "its owner shares none of its texts with this device")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	key := strings.Join(names, "\n")
	if o.sources[key] == nil {
		s, err := node.NewDocuments(o.engine, o.device, shared)
		if err != nil {
			return nil, nil, err
		}
		o.sources[key] = s
	}
	return o.sources[key], names, nil
}

// Consent implements node.Owner.
func (o *owner) Consent(ctx context.Context, r node.Request) error {
	peer, err := o.peer(r.Peer)
	if err != nil {
		return err
	}
	if r.Plan.Home == 0 {
		if err := o.policy.MayHaveRows(peer); err != nil {
			return err
		}
	}
	g, err := o.take(peer, r)
	if err != nil || !g.AskMeFirst {
		return err
	}
	who := peer.Name
	if who == "" {
		who = fmt.Sprintf("%s (%s)", r.Name, transport.ID(r.Peer).Short())
	}
	return o.console.ask(ctx, fmt.Sprintf("%s asks over %d tokens of this device and would get %s of rows of layers %v. Let it? [y/N] ",
		who, r.Tokens, bytesText(r.Bytes), r.Plan.Schedules.Publisher))
}

// rowsTo says to whom rows may go over a direct link.
func (o *owner) rowsTo(id transport.ID) error {
	peer, err := o.peer(string(id))
	if err != nil {
		return err
	}
	return o.policy.MayHaveRows(peer)
}

// keep writes the receipt of a session.
func (o *owner) keep(c node.Contribution) {
	if c.Session == (fedkv.SessionID{}) {
		return // it came to no plan
	}
	peer, _ := o.find(transport.ID(c.Publisher))
	r := receipt.Receipt{
		Time: time.Now(), Peer: c.Publisher, Name: peer.Name, To: c.To, Session: c.Session.String(), Documents: c.Documents, Tokens: c.Tokens,
		Layers: c.LayerList, Wire: c.Wire.String(), Rows: c.Rows.Kind.String(), Bytes: c.Bytes, Queries: c.Queries, Outcome: outcome(c),
	}
	if r.Name == "" {
		r.Name = c.Name
	}
	if c.Sources != nil {
		r.Shares = make([]int, len(r.Documents))
		for _, s := range c.Sources {
			if i := slices.Index(r.Documents, s.Name); i >= 0 {
				r.Shares[i] += s.Tokens
			}
		}
	}
	if c.Err != nil {
		r.Error = fedkv.CleanText(c.Err.Error())
	}
	o.mu.Lock()
	delete(o.taking, c.Session)
	o.count(c.Publisher, c.Tokens, c.Bytes)
	o.mu.Unlock()
	if err := o.receipts.Append(r); err != nil {
		o.log.Error().Err(err).Msg("no receipt could be kept of this session")
	}
}

// outcome is how a session ended for the owner.
func outcome(c node.Contribution) string {
	switch {
	case c.Err == nil:
		return receipt.Sent
	case c.Tokens == 0 && errors.Is(c.Err, fedkv.ErrForbidden):
		return receipt.Refused
	}
	return receipt.Failed
}

// console asks the person at the node's terminal, one question at a time.
type console struct {
	in  *bufio.Reader
	out io.Writer

	mu      sync.Mutex // held while a question stands
	answers chan string
	start   sync.Once
}

func newConsole(in io.Reader, out io.Writer) *console {
	return &console{in: bufio.NewReader(in), out: out, answers: make(chan string)}
}

// ask is nil if the answer is yes.
func (c *console) ask(ctx context.Context, question string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start.Do(func() {
		go func() { // reads until the input or the process ends: nothing interrupts a read of a terminal
			defer close(c.answers)
			for {
				line, err := c.in.ReadString('\n')
				if err != nil {
					return
				}
				select { // what is typed while no question stands answers none: a late yes is not for the next one
				case c.answers <- strings.ToLower(strings.TrimSpace(line)):
				default:
				}
			}
		}()
	})
	fmt.Fprint(c.out, question)
	select {
	case answer, open := <-c.answers: // a line counts if it comes now
		switch {
		case !open:
			return fedkv.Errorf(fedkv.CodeForbidden, "its owner wants to be asked first, and nobody is at its terminal")
		case slices.Contains([]string{"y", "yes"}, answer):
			return nil
		}
		return fedkv.Errorf(fedkv.CodeForbidden, "its owner was asked and said no")
	case <-ctx.Done():
		fmt.Fprintln(c.out, "(too late)")
		return fedkv.Errorf(fedkv.CodeForbidden, "its owner was asked and did not answer in time: ask again with a longer --setup-timeout")
	}
}
