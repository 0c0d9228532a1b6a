package fedkv

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the outputs of scripts and goldens into testdata instead of comparing")

// TestSessionScripts plays testdata/session/*.txt. A script is commands, each followed by ---- and by what the
// machines did, up to an empty line:
//
//	session SCHEDULES contributors=N [tokens=4,3,…] [require-all] [min-peers=N] [context=N] [limit=I:N] [window=N] [rows=KIND:SHARE]
//	                     a publisher with 3 tokens and a prefix of 2, and contributors with these tokens;
//	                     limit: what contributor I's owner shares at most. 3 layers, the first two with this
//	                     window; setup 5s, rows 30s. With windows or rows, blocks are shown.
//	up I…                the link to I is there: Hello, and Welcome or Refuse
//	deliver [N]          delivers N messages in the order of sending, or all until none is on its way
//	compute I…           each evaluates and sends as far as the rows that it waits for allow, one layer at a time
//	block I KEY=N…       I sends the publisher a block of layer, first, rows, origin or session as given
//	message I NAME KEY=N…  I sends the publisher ready, done, plan or abort
//	join I TO [id=NAME]  I opens a direct link to TO and says Join, with another key if id is given
//	down I…              the links of I break; -1 is the publisher
//	stop I               the owner of I cancels
//	tick DURATION        time is now this
//	close                the publisher ends the session
func TestSessionScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/session/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			played := play(t, string(text))
			if *rewrite {
				if err := os.WriteFile(path, []byte(played), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), played); diff != "" {
				t.Errorf("-want +got (run with -rewrite to accept):\n%s", diff)
			}
		})
	}
}

// play runs a script and returns it with the outputs that it had.
func play(t *testing.T, text string) string {
	var out strings.Builder
	s := &stage{t: t}
	paragraphs := strings.Split(strings.TrimRight(text, "\n"), "\n\n")
	for i, paragraph := range paragraphs {
		if i > 0 {
			out.WriteString("\n\n")
		}
		command, _, _ := strings.Cut(paragraph, "\n----")
		out.WriteString(command)
		s.out.Reset()
		ran := false
		for line := range strings.SplitSeq(command, "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				s.run(strings.Fields(line))
				ran = true
			}
		}
		if ran {
			if s.out.Len() == 0 {
				s.logf("nothing")
			}
			out.WriteString("\n----\n" + strings.TrimRight(s.out.String(), "\n"))
		}
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// stage is a session without a network: one publisher, its contributors, and what is on its way between them.
type stage struct {
	t     *testing.T
	out   bytes.Buffer
	now   time.Duration
	cfg   PublisherConfig
	pub   *Publisher
	peers []*actor
	wire  []inFlight

	blocks bool // are shown
}

// actor is a contributor and the driver's part of it.
type actor struct {
	machine *Contributor
	tokens  int
	layer   int // next layer to evaluate
	work    *Work
	linked  bool
}

type inFlight struct {
	from, to int // -1: the publisher
	message  Message
}

var stageHello = Hello{Protocol: Protocol, Name: "asker", Engine: "engine", Types: []Type{Q8_0, F16}, Role: RolePublisher,
	Model: Fingerprint{Architecture: "tiny", Layers: 3}}

func stageID(origin int) string { return "key-" + strconv.Itoa(origin) }

func (s *stage) run(args []string) {
	options := map[string]string{}
	var words []string
	for _, arg := range args[1:] {
		if key, value, ok := strings.Cut(arg, "="); ok && args[0] != "session" || ok && !strings.Contains(key, ";") && len(words) > 0 {
			options[key] = value
		} else {
			words = append(words, arg)
		}
	}
	number := func(key string, otherwise int) int {
		value, ok := options[key]
		if !ok {
			return otherwise
		}
		return s.number(value)
	}
	numbers := func() (list []int) {
		for _, w := range words {
			list = append(list, s.number(w))
		}
		return list
	}
	switch args[0] {
	case "session":
		s.session(words, options, number)
	case "up":
		for _, origin := range numbers() {
			s.up(origin)
		}
	case "deliver":
		count := 1 << 20
		if len(words) > 0 {
			count = s.number(words[0])
		}
		s.deliver(count)
	case "compute":
		s.compute(numbers())
	case "block":
		origin := s.number(words[0])
		h := bookHeader(number("origin", origin), number("layer", 0), number("first", 0), number("rows", 1))
		h.Session[0] = byte(number("session", 0))
		s.offer(-1, origin, h)
		s.drainPublisher()
	case "message":
		s.message(s.number(words[0]), words[1], number)
	case "join":
		from, to := s.number(words[0]), s.number(words[1])
		id := stageID(from)
		if options["id"] != "" {
			id = options["id"]
		}
		s.step(to, Joined{ID: id, Join: Join{bookSession, from}})
		s.drain(to)
	case "down":
		for _, origin := range numbers() {
			s.down(origin)
		}
	case "stop":
		s.step(s.number(words[0]), Stopped{Code: CodeCancelled})
		s.drain(s.number(words[0]))
	case "tick":
		now, err := time.ParseDuration(words[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = now
		for to := -1; to < len(s.peers); to++ {
			s.step(to, Tick{now})
			s.drain(to)
		}
	case "close":
		for _, m := range s.pub.CloseMessages() {
			s.wire = append(s.wire, inFlight{-1, m.To, m.Message})
			s.logf("publisher sends %d %s", m.To, describe(m.Message))
		}
	default:
		s.t.Fatalf("unknown command %v", args)
	}
}

func (s *stage) number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *stage) logf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *stage) session(words []string, options map[string]string, number func(string, int) int) {
	schedules, err := ParseSchedules(words[0], 3)
	if err != nil {
		s.t.Fatal(err)
	}
	positions := Canonical
	if schedules.Regime() == Lockstep || slices.Contains(words, "inplace") {
		positions = InPlace
	}
	s.cfg = PublisherConfig{
		Session: bookSession, Self: stageHello, ID: "key-p", Shape: bookShape(3), Schedules: schedules, Wire: Uniform(bookTypes, 3),
		Positions: positions, Prefix: []Token{1, 2}, Own: 3, MaxContext: number("context", 100),
		Contributors: number("contributors", 0), RequireAll: slices.Contains(words, "require-all"), MinPeers: number("min-peers", 0),
		SetupBy: 5 * time.Second, GatherBy: 30 * time.Second,
	}
	s.cfg.Shape.Layers[0].Window, s.cfg.Shape.Layers[1].Window = number("window", 0), number("window", 0)
	s.blocks = options["window"] != "" || options["rows"] != ""
	if kind, share, ok := strings.Cut(options["rows"], ":"); ok {
		if s.cfg.Rows, err = ParseRowPolicy(kind + "=" + share); err != nil {
			s.t.Fatal(err)
		}
	}
	tokens := strings.Split(options["tokens"], ",")
	for origin := range s.cfg.Contributors {
		s.cfg.Names = append(s.cfg.Names, "device"+strconv.Itoa(origin))
		self := stageHello
		self.Name, self.Role = "peer"+strconv.Itoa(origin), RoleContributor
		cfg := ContributorConfig{Self: self, ID: stageID(origin), Shape: s.cfg.Shape, MaxContext: 100, Vocabulary: 10}
		if who, limit, ok := strings.Cut(options["limit"], ":"); ok && s.number(who) == origin {
			cfg.MaxTokens = s.number(limit)
		}
		c, err := NewContributor(cfg)
		if err != nil {
			s.t.Fatal(err)
		}
		s.peers = append(s.peers, &actor{machine: c, tokens: s.number(tokens[origin])})
	}
	if s.pub, err = NewPublisher(s.cfg); err != nil {
		s.logf("no session: %v (%v)", err, CodeOf(err))
		return
	}
	s.drainPublisher()
}

func (s *stage) up(origin int) {
	a := s.peers[origin]
	a.linked = true
	s.step(origin, Received{PublisherLink, stageHello})
	answer := a.machine.Ready().Messages[0].Message
	a.machine.Advance()
	if refuse, ok := answer.(Refuse); ok {
		s.logf("%d answers %s", origin, describe(refuse))
		s.step(-1, PeerDown{origin, refuse.Code, refuse.Text})
	} else {
		s.step(-1, PeerUp{origin, answer.(Welcome), stageID(origin), fmt.Sprintf("10.0.0.%d:7000", origin)})
	}
	s.drainPublisher()
}

func (s *stage) deliver(count int) {
	for ; len(s.wire) > 0 && count > 0; count-- {
		m := s.wire[0]
		s.wire = s.wire[1:]
		if j, ok := m.message.(Join); ok {
			s.step(m.to, Joined{stageID(m.from), j})
		} else {
			s.step(m.to, Received{m.from, m.message})
		}
		s.drain(m.to)
	}
}

// compute evaluates layer by layer, each contributor in turn, while anybody gets on.
func (s *stage) compute(origins []int) {
	for on := true; on; {
		on = false
		for _, origin := range origins {
			on = s.layer(origin) || on
		}
	}
	for _, origin := range origins {
		a := s.peers[origin]
		if a.work != nil && a.layer <= a.work.Sends.Last() && a.machine.Pending(a.layer) != nil {
			s.logf("%d waits at layer %d for %v", origin, a.layer, a.machine.Pending(a.layer))
		}
	}
}

// layer evaluates one layer of a contributor: rows out, rows in.
func (s *stage) layer(origin int) bool {
	a := s.peers[origin]
	if a.work == nil || a.layer > a.work.Sends.Last() {
		return false
	}
	layer := a.layer
	if a.work.Sends.Sync(layer) {
		blocks, err := a.machine.Blocks(layer, 0, a.tokens, a.work.Rows.Select(layer, a.tokens, 0, a.tokens, nil, Query{}))
		if CodeOf(err) == CodeDuplicate { // it waited here before
			blocks, err = nil, nil
		}
		if err != nil {
			s.logf("%d has no blocks: %v (%v)", origin, err, CodeOf(err))
			a.work = nil
			return false
		}
		s.carry(origin, blocks)
	}
	if a.work.Waits.Sync(layer) && len(a.machine.Pending(layer)) > 0 {
		return false
	}
	a.layer++
	s.drain(origin)
	s.drainPublisher()
	return true
}

// carry brings blocks to all who are to have them.
func (s *stage) carry(origin int, blocks []Outgoing) {
	for _, b := range blocks {
		if s.blocks {
			s.logf("%d sends %v layer %d, %d of rows [%d,%d)", origin, b.To, b.Header.Layer, b.Header.Kept, b.Header.First, b.Header.First+b.Header.Rows)
		}
		for _, to := range b.To {
			s.offer(to, origin, b.Header)
			s.step(origin, BlockSent{to, b.Header})
		}
	}
}

// offer brings a block to its receiver, header first.
func (s *stage) offer(to, from int, h BlockHeader) {
	if s.step(to, BlockOffered{from, h}) == nil {
		s.step(to, BlockIn{from, h})
	}
}

func (s *stage) message(origin int, name string, number func(string, int) int) {
	session := bookSession
	session[0] = byte(number("session", 0))
	var m Message
	switch name {
	case "ready":
		m = Ready{session, number("tokens", s.peers[origin].tokens)}
	case "done":
		m = Done{Session: session}
	case "abort":
		m = Abort{session, Code(number("code", int(CodeMemory))), ""}
	case "plan":
		m = Plan{Session: session}
	case "ping":
		m = Ping{Nonce: 7}
	default:
		s.t.Fatalf("unknown message %q", name)
	}
	s.step(-1, Received{origin, m})
	s.drainPublisher()
}

func (s *stage) down(origin int) {
	for to, a := range s.peers {
		switch {
		case origin == PublisherLink && a.linked:
			s.step(to, PeerDown{PublisherLink, CodeLost, ""})
		case origin >= 0 && to != origin && a.work != nil && s.cfg.Schedules.Regime() == Lockstep:
			s.step(to, PeerDown{origin, CodeLost, ""})
		}
		s.drain(to)
	}
	if origin == PublisherLink {
		return
	}
	s.peers[origin].linked, s.peers[origin].work = false, nil
	s.wire = slices.DeleteFunc(s.wire, func(m inFlight) bool { return m.from == origin || m.to == origin })
	s.step(-1, PeerDown{origin, CodeLost, ""})
	s.drainPublisher()
}

// step gives one participant an event and logs what it refuses.
func (s *stage) step(to int, e Event) error {
	var err error
	who := "publisher"
	if to == -1 {
		err = s.pub.Step(e)
	} else {
		who = strconv.Itoa(to)
		err = s.peers[to].machine.Step(e)
	}
	if err != nil {
		s.logf("%s refuses %s: %v (%v)", who, strings.TrimPrefix(fmt.Sprintf("%T", e), "fedkv."), err, CodeOf(err))
	}
	return err
}

func (s *stage) drain(who int) {
	if who == -1 {
		s.drainPublisher()
	} else {
		s.drainContributor(who)
	}
}

func (s *stage) drainPublisher() {
	r := s.pub.Ready()
	s.pub.Advance()
	for _, m := range r.Messages {
		s.wire = append(s.wire, inFlight{-1, m.To, m.Message})
		s.logf("publisher sends %d %s", m.To, describe(m.Message))
	}
	for _, m := range r.Missing {
		s.logf("publisher: %v", m)
	}
	for _, n := range r.Notes {
		s.logf("publisher notes: %s", n)
	}
	if r.Committed != nil {
		s.logf("publisher: committed %s", describeLayout(*r.Committed))
	}
	if r.Settled != nil {
		s.logf("publisher: settled %s", describeLayout(*r.Settled))
		for _, segment := range r.Settled.Segments[:len(r.Settled.Segments)-1] {
			s.logf("publisher: rows of %d shift by %d", segment.Origin, s.pub.Shift(segment.Origin))
		}
	}
	if r.Failed != nil {
		s.logf("publisher: failed: %v (%v)", r.Failed, CodeOf(r.Failed))
	}
}

func (s *stage) drainContributor(origin int) {
	a := s.peers[origin]
	r := a.machine.Ready()
	a.machine.Advance()
	for _, d := range r.Dial {
		s.logf("%d dials %d at %s", origin, d.Origin, d.Addr)
	}
	for _, m := range r.Messages {
		s.wire = append(s.wire, inFlight{origin, m.To, m.Message})
		to := strconv.Itoa(m.To)
		if m.To == PublisherLink {
			to = "publisher"
		}
		s.logf("%d sends %s %s", origin, to, describe(m.Message))
	}
	for _, j := range r.Joins {
		if j.Err != nil {
			s.logf("%d: refuses %s as contributor %d: %v (%v)", origin, j.ID, j.Origin, j.Err, CodeOf(j.Err))
		} else {
			s.logf("%d: admits %s as contributor %d", origin, j.ID, j.Origin)
		}
	}
	for _, m := range r.Missing {
		s.logf("%d: %v", origin, m)
	}
	if r.Start != nil {
		a.work = r.Start
		s.logf("%d: starts at position %d, sends %v, waits %v", origin, a.work.At, a.work.Sends, a.work.Waits)
	}
	if r.Sent {
		s.logf("%d: all sent", origin)
	}
	if r.Owed {
		blocks, err := a.machine.Owed()
		if err != nil {
			s.t.Fatal(err)
		}
		s.logf("%d: owes rows", origin)
		s.carry(origin, blocks)
		s.drainContributor(origin)
		s.drainPublisher()
	}
	if r.Receipt != nil {
		s.logf("%d: receipt", origin)
	}
	if r.Finished {
		s.logf("%d: finished", origin)
	}
	if r.Failed != nil {
		a.work = nil
		s.logf("%d: failed: %v (%v)", origin, r.Failed, CodeOf(r.Failed))
	}
	if r.Tokenise != nil {
		s.step(origin, Tokenised{a.tokens})
		s.drainContributor(origin)
	}
}

func describe(m Message) string {
	switch m := m.(type) {
	case Refuse:
		return fmt.Sprintf("refuse (%v: %v)", m.Code, m.Err())
	case Plan:
		return fmt.Sprintf("plan: contributor %d, %v, %v, %v, at most %d tokens, %v", m.Origin, m.Schedules, m.Wire, m.Positions, m.MaxTokens, time.Duration(m.DeadlineMS)*time.Millisecond)
	case Ready:
		return fmt.Sprintf("ready: %d tokens", m.Tokens)
	case Commit:
		var b strings.Builder
		for _, p := range m.Roster {
			fmt.Fprintf(&b, " %d=%s@%d+%d", p.Origin, p.ID, p.Offset, p.Tokens)
			if p.Addr != "" {
				b.WriteString("(" + p.Addr + ")")
			}
		}
		return "commit:" + b.String()
	case Join:
		return "join"
	case Done:
		return fmt.Sprintf("done: %d rows, %d bytes", m.Rows, m.Bytes)
	case Abort:
		return fmt.Sprintf("abort (%v: %v)", m.Code, m.Err())
	case Receipt:
		return fmt.Sprintf("receipt: %d tokens of %d layers, %d bytes, missing %v", m.Tokens, m.Layers, m.Bytes, m.Missing)
	}
	return m.messageType().String()
}

func describeLayout(l Layout) string {
	var b strings.Builder
	fmt.Fprintf(&b, "prefix %d", l.Prefix)
	for _, s := range l.Segments {
		fmt.Fprintf(&b, ", %d at [%d,%d)", s.Origin, s.Offset, s.End())
	}
	return b.String()
}
