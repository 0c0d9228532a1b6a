package fedkv

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func machineHello(name string, role Role) Hello {
	h := stageHello
	h.Name, h.Role = name, role
	return h
}

func contributorConfig() ContributorConfig {
	return ContributorConfig{Self: machineHello("peer", RoleContributor), ID: "key-1", Shape: bookShape(3), MaxContext: 20, Vocabulary: 10}
}

func lockstepPlan(t failer) Plan {
	t.Helper()
	s, err := ParseSchedules("lockstep", 3)
	if err != nil {
		t.Fatal(err)
	}
	return Plan{
		Session: bookSession, Origin: 1, Schedules: s, Wire: Uniform(bookTypes, 3), Rows: Selection{Kind: RowsAll}, Positions: InPlace, Prefix: []Token{1, 2},
		MaxTokens: 10, DeadlineMS: 30_000,
	}
}

func lockstepCommit() Commit {
	return Commit{bookSession, 2, []Participant{
		{0, "key-0", "a:1", "zero", 2, 4}, {1, "key-1", "b:1", "one", 6, 5}, {3, "key-3", "c:1", "three", 11, 6}, {4, "key-p", "", "asker", 17, 3},
	}, nil}
}

// committedWith is committed with another shape; it may have nothing to do.
func committedWith(t failer, plan Plan, shape Shape) (c *Contributor, work Work, started bool) {
	t.Helper()
	cfg := contributorConfig()
	cfg.Shape, cfg.Greeted = shape, true
	c, err := NewContributor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{Received{PublisherLink, plan}, Tokenised{5}, Received{PublisherLink, lockstepCommit()}} {
		if err := c.Step(e); err != nil {
			t.Fatal(fmt.Sprintf("%T: %v", e, err))
		}
	}
	if c.Ready().Start == nil {
		return c, Work{}, false
	}
	work = *c.Ready().Start
	c.Advance()
	return c, work, true
}

// committed is a contributor with 5 tokens that has started on lockstepCommit, and its work.
func committed(t failer, plan Plan) (*Contributor, Work) {
	t.Helper()
	c, err := NewContributor(contributorConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{
		Received{PublisherLink, machineHello("asker", RolePublisher)}, Received{PublisherLink, plan}, Tokenised{5},
		Received{PublisherLink, lockstepCommit()},
	} {
		if err := c.Step(e); err != nil {
			t.Fatal(fmt.Sprintf("%T: %v", e, err))
		}
	}
	if c.Ready().Start == nil {
		t.Fatal("the work has not started")
	}
	work := *c.Ready().Start
	c.Advance()
	return c, work
}

func TestContributorGreetsOnlyWhomItSuits(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Hello)
		want   error
	}{
		{"a good publisher", func(*Hello) {}, nil},
		{"other weights", func(h *Hello) { h.Model.Weights[0]++ }, nil},
		{"another protocol", func(h *Hello) { h.Protocol++ }, ErrVersion},
		{"another engine", func(h *Hello) { h.Engine = "other" }, ErrVersion},
		{"another tokenizer", func(h *Hello) { h.Model.Tokenizer[0]++ }, ErrTokenizer},
		{"no common type", func(h *Hello) { h.Types = []Type{Q4_0} }, ErrTypes},
		{"a contributor", func(h *Hello) { h.Role = RoleContributor }, ErrOrder},
		{"no role", func(h *Hello) { h.Role = 7 }, ErrProtocol},
	} {
		c, err := NewContributor(contributorConfig())
		if err != nil {
			t.Fatal(err)
		}
		hello := machineHello("asker", RolePublisher)
		test.change(&hello)
		err = c.Step(Received{PublisherLink, hello})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		r := c.Ready()
		if len(r.Messages) != 1 {
			t.Fatalf("%s: %d answers", test.name, len(r.Messages))
		}
		_, welcome := r.Messages[0].Message.(Welcome)
		_, refuse := r.Messages[0].Message.(Refuse)
		if welcome != (test.want == nil) || refuse != (test.want != nil) || (r.Failed != nil) != refuse {
			t.Errorf("%s: answer %T, failed %v", test.name, r.Messages[0].Message, r.Failed)
		}
		if (r.Note != "") != (test.name == "other weights") {
			t.Errorf("%s: note %q", test.name, r.Note)
		}
	}
}

func TestContributorHoldsAPlanAgainstWhatItsOwnerAllows(t *testing.T) {
	gather, err := ParseSchedules("gather", 3)
	if err != nil {
		t.Fatal(err)
	}
	late, err := ParseSchedules("contributors=none;publisher=1-", 3)
	if err != nil {
		t.Fatal(err)
	}
	four, err := ParseSchedules("gather", 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		config func(*ContributorConfig)
		plan   func(*Plan)
		most   int
		want   error
	}{
		{"the plan's limit", func(*ContributorConfig) {}, func(*Plan) {}, 10, nil},
		{"the owner's limit", func(c *ContributorConfig) { c.MaxTokens = 7 }, func(*Plan) {}, 7, nil},
		{"the context's limit", func(c *ContributorConfig) { c.MaxContext = 8 }, func(*Plan) {}, 6, nil},
		{"no room", func(c *ContributorConfig) { c.MaxContext = 2 }, func(*Plan) {}, 0, ErrTooLong},
		{"early layers stay here", func(c *ContributorConfig) { c.MinLayer = 1 }, func(*Plan) {}, 0, ErrForbidden},
		{"late layers do not", func(c *ContributorConfig) { c.MinLayer = 1 }, func(p *Plan) { p.Schedules = late }, 10, nil},
		{"canonical gather", func(*ContributorConfig) {}, func(p *Plan) { p.Schedules, p.Positions = gather, Canonical }, 10, nil},
		{"canonical lockstep", func(*ContributorConfig) {}, func(p *Plan) { p.Positions = Canonical }, 0, ErrPlan},
		{"another model's schedule", func(*ContributorConfig) {}, func(p *Plan) { p.Schedules = four }, 0, ErrPlan},
		{"a type not offered", func(*ContributorConfig) {}, func(p *Plan) { p.Wire = p.Wire.With(1, WireTypes{Q8_0, Q4_0}) }, 0, ErrTypes},
		{"rows that do not fit the type", func(*ContributorConfig) {}, func(p *Plan) { p.Wire = p.Wire.With(1, WireTypes{Q8_0, Q8_0}) }, 0, ErrTypes},
		{"a token outside the vocabulary", func(*ContributorConfig) {}, func(p *Plan) { p.Prefix = []Token{1, 10} }, 0, ErrPlan},
		{"no session", func(*ContributorConfig) {}, func(p *Plan) { p.Session = SessionID{} }, 0, ErrPlan},
	} {
		cfg := contributorConfig()
		cfg.Greeted = true
		test.config(&cfg)
		c, err := NewContributor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		plan := lockstepPlan(t)
		test.plan(&plan)
		err = c.Step(Received{PublisherLink, plan})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		r := c.Ready()
		if test.want == nil {
			if r.Tokenise == nil || r.Tokenise.MaxTokens != test.most {
				t.Errorf("%s: tokenise %+v, want at most %d tokens", test.name, r.Tokenise, test.most)
			}
			continue
		}
		if r.Tokenise != nil || !errors.Is(r.Failed, test.want) {
			t.Errorf("%s: tokenise %v, failed %v", test.name, r.Tokenise, r.Failed)
		}
		if aborts := len(r.Messages); aborts != 1 && plan.Session != (SessionID{}) || aborts != 0 && plan.Session == (SessionID{}) {
			t.Errorf("%s: %d messages", test.name, aborts)
		}
	}
}

func TestContributorHoldsTheCommitAgainstItsPlan(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Commit)
		want   error
	}{
		{"good", func(*Commit) {}, nil},
		{"another prefix", func(m *Commit) {
			m.Prefix = 3
			for i := range m.Roster {
				m.Roster[i].Offset++
			}
		}, ErrPlan},
		{"a gap", func(m *Commit) { m.Roster[1].Offset++ }, ErrPlan},
		{"not among them", func(m *Commit) { m.Roster[1].Origin = 2 }, ErrPlan},
		{"as the publisher", func(m *Commit) { m.Roster = m.Roster[:2] }, ErrPlan},
		{"another's key", func(m *Commit) { m.Roster[1].ID = "key-9" }, ErrForbidden},
		{"other tokens", func(m *Commit) { m.Roster[0].Tokens, m.Roster[1].Offset, m.Roster[1].Tokens = 5, 7, 4 }, ErrPlan},
		{"too much before", func(m *Commit) {
			m.Roster[0].Tokens += 10
			for i := range m.Roster[1:] {
				m.Roster[1+i].Offset += 10
			}
		}, ErrTooLong},
	} {
		c, err := NewContributor(contributorConfig())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []Event{Received{PublisherLink, machineHello("asker", RolePublisher)}, Received{PublisherLink, lockstepPlan(t)}, Tokenised{5}} {
			if err := c.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		c.Advance()
		m := lockstepCommit()
		test.change(&m)
		err = c.Step(Received{PublisherLink, m})
		r := c.Ready()
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || (r.Start != nil) != (test.want == nil) || !errors.Is(r.Failed, test.want) {
			t.Errorf("%s: %v, want %v; started %v, failed %v", test.name, err, test.want, r.Start != nil, r.Failed)
		}
	}
}

// Another commit may only lose participants, and comes only where rows may be owed.
func TestContributorHoldsAnotherCommitAgainstTheFirst(t *testing.T) {
	windows := bookShape(3)
	windows.Layers[1].Window = 4
	lose := func(rank int) func(*Commit) {
		return func(m *Commit) {
			m.Roster = slices.Delete(m.Roster, rank, rank+1)
			offset := m.Prefix
			for i := range m.Roster {
				m.Roster[i].Offset = offset
				offset += m.Roster[i].Tokens
			}
		}
	}
	for _, test := range []struct {
		name   string
		shape  Shape
		spec   string
		place  Positions
		change func(*Commit)
		want   error
	}{
		{"one behind is lost", windows, "gather", Canonical, lose(2), nil},
		{"one before is lost", windows, "gather", Canonical, lose(0), nil},
		{"nobody is lost", windows, "gather", Canonical, func(*Commit) {}, ErrPlan},
		{"the device itself is lost", windows, "gather", Canonical, lose(1), ErrPlan},
		{"somebody is new", windows, "gather", Canonical, func(m *Commit) { lose(0)(m); m.Roster[1].Origin = 2 }, ErrPlan},
		{"somebody has another key", windows, "gather", Canonical, func(m *Commit) { lose(2)(m); m.Roster[0].ID = "key-9" }, ErrPlan},
		{"somebody has other tokens", windows, "gather", Canonical, func(m *Commit) { m.Roster[0].Tokens++; lose(2)(m) }, ErrPlan},
		{"the publisher has other tokens", windows, "gather", Canonical, func(m *Commit) { lose(2)(m); m.Roster[2].Tokens++ }, ErrPlan},
		{"another prefix", windows, "gather", Canonical, func(m *Commit) { m.Prefix++; lose(2)(m) }, ErrPlan},
		{"without windows", bookShape(3), "gather", Canonical, lose(2), ErrOrder},
		{"without the publisher's windows", windows, "contributors=none;publisher=0,2", Canonical, lose(2), ErrOrder},
		{"in place", windows, "gather", InPlace, lose(2), ErrOrder},
		{"in lockstep", windows, "lockstep", InPlace, lose(2), ErrOrder},
	} {
		plan := lockstepPlan(t)
		var err error
		if plan.Schedules, err = ParseSchedules(test.spec, 3); err != nil {
			t.Fatal(err)
		}
		plan.Positions = test.place
		c, work, _ := committedWith(t, plan, test.shape)
		if work.Owes != (test.want != ErrOrder) {
			t.Errorf("%s: may owe rows: %v", test.name, work.Owes)
		}
		m := lockstepCommit()
		test.change(&m)
		if err := c.Step(Received{PublisherLink, m}); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || !errors.Is(c.Ready().Failed, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if _, err := c.Owed(); (err == nil) != (test.want == nil) {
			t.Errorf("%s: Owed: %v", test.name, err)
		}
	}
}

func TestContributorWorksByRankNotByOrigin(t *testing.T) {
	c, work := committed(t, lockstepPlan(t))
	if diff := cmp.Diff(Segment{1, 6, 5}, work.Segment); diff != "" || work.At != 6 {
		t.Errorf("evaluates at %d: %s", work.At, diff)
	}
	blocks, err := c.Blocks(0, 0, 5, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Origin 2 is not in: its place is nobody's.
	if len(blocks) != 1 || !slices.Equal(blocks[0].To, []int{PublisherLink, 3}) {
		t.Errorf("blocks %+v", blocks)
	}
	if err := c.Step(PeerDown{3, CodeLost, ""}); err != nil {
		t.Fatal(err)
	}
	if blocks, err = c.Blocks(1, 0, 5, nil); err != nil || !slices.Equal(blocks[0].To, []int{PublisherLink}) {
		t.Errorf("after the loss of 3: %+v, %v", blocks, err)
	}
	if len(c.Ready().Missing) != 0 {
		t.Errorf("a later contributor is not missing: %v", c.Ready().Missing)
	}
}

func TestContributorSendsNoMoreThanThePlanSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan := lockstepPlan(t)
		plan.Schedules = drawSchedules(t, 3)
		if plan.Schedules.Regime() == Gather && rapid.Bool().Draw(t, "canonical") {
			plan.Positions = Canonical
		}
		if plan.Schedules.Sends(1, 4).Count() == 0 {
			t.Skip("nothing to send")
		}
		shape := bookShape(3)
		shape.Layers[0].Window = rapid.IntRange(0, 12).Draw(t, "window")
		shape.Layers[1].Window = rapid.IntRange(0, 3).Draw(t, "window")
		layout := lockstepCommit().Layout()
		needed := func(layer, row, to int) bool {
			if to == PublisherLink {
				to = 4
			}
			recipient, _ := layout.Segment(to)
			window := shape.Layers[layer].Window
			return window == 0 || 6+row > recipient.Offset-window
		}
		c, work, started := committedWith(t, plan, shape)
		if !started {
			for _, layer := range plan.Schedules.Sends(1, 4).Layers() {
				if needed(layer, 4, 3) && plan.Schedules.Contributors.Sync(layer) || needed(layer, 4, PublisherLink) && plan.Schedules.Publisher.Sync(layer) {
					t.Fatalf("layer %d is not sent", layer)
				}
			}
			t.Skip("nobody can see anything")
		}
		var left []Outgoing
		sent := map[string]int{}
		for range 40 {
			layer, first, rows := rapid.IntRange(-1, 3).Draw(t, "layer"), rapid.IntRange(-1, 5).Draw(t, "first"), rapid.IntRange(-1, 6).Draw(t, "rows")
			keep := make([]bool, max(rows, 0))
			for i := range keep {
				keep[i] = rapid.Bool().Draw(t, "keep")
			}
			blocks, err := c.Blocks(layer, first, rows, keep)
			if err != nil {
				continue
			}
			left = append(left, blocks...)
			for _, b := range blocks {
				h := b.Header
				if h.Origin != 1 || h.Session != bookSession || h.Types != plan.Wire.At(layer) || h.Kept != kept(b.Keep) ||
					h.Length != h.bitmapSize()+h.Kept*bookRowBytes || !slices.Equal(b.Keep, keep[h.First-first:][:h.Rows]) {
					t.Fatalf("block %+v that keeps %v", h, b.Keep)
				}
				for row := h.First; row < h.First+h.Rows; row++ {
					for _, to := range []int{PublisherLink, 3} {
						s := plan.Schedules.Contributors
						if to == PublisherLink {
							s = plan.Schedules.Publisher
						}
						if want := s.Sync(layer) && needed(layer, row, to); want != slices.Contains(b.To, to) {
							t.Fatalf("row %d of layer %d goes to %v; %d needs it: %v", row, layer, b.To, to, want)
						}
					}
					for _, to := range b.To {
						key := fmt.Sprint(layer, row, to)
						if sent[key]++; sent[key] > 1 || row < 0 || row >= 5 || !work.Sends.Sync(layer) {
							t.Fatalf("row %d of layer %d goes to %d for the %d. time", row, layer, to, sent[key])
						}
					}
				}
			}
		}
		// Done comes when everything has left, and not before.
		for _, layer := range work.Sends.Layers() {
			for row := range 5 {
				if blocks, err := c.Blocks(layer, row, 1, nil); err == nil {
					left = append(left, blocks...)
				}
			}
		}
		for _, b := range left {
			for _, to := range b.To {
				if c.Ready().Sent {
					t.Fatal("done before everything was sent")
				}
				if err := c.Step(BlockSent{to, b.Header}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !c.Ready().Sent {
			t.Fatal("everything was sent and nobody says so")
		}
	})
}

func TestContributorCutsBlocksAtTheLimit(t *testing.T) {
	shape := Shape{Layers: []LayerShape{{K: 32768, V: 32768}}}
	c := &Contributor{cfg: ContributorConfig{Shape: shape}, state: contributorWorking, begun: true, others: map[int]*other{}, unsent: map[int]int{}, tokens: 1000}
	all := mustSchedule(t, "all", 1)
	layout, err := NewLayout(0, []int{1000, 1})
	if err != nil {
		t.Fatal(err)
	}
	wire := Uniform(WireTypes{F16, F16}, 1)
	c.computed, c.keep = make([]pieces, 1), make([][]bool, 1)
	c.plan.Session = bookSession
	c.work = Work{Layout: layout, Schedules: Schedules{Schedule{layers: 1}, all}, Wire: wire, Sends: all}
	c.out = NewCollector(bookSession, shape, wire)
	if err := c.out.Expect(0, 1000, all, nil); err != nil {
		t.Fatal(err)
	}
	blocks, err := c.Blocks(0, 0, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	for _, b := range blocks {
		if b.Header.First != next || b.Header.Length > MaxBlock {
			t.Errorf("block %+v after row %d", b.Header, next)
		}
		next += b.Header.Rows
	}
	if next != 1000 || len(blocks) != 2 {
		t.Errorf("%d blocks end at row %d", len(blocks), next)
	}
}

// The chain behind a straggler arrives in time: later participants wait longer, and the publisher until the end.
func TestWaitingEndsInTokenOrder(t *testing.T) {
	for n := 2; n <= MaxParticipants; n++ {
		last := time.Second
		for rank := range n {
			by := waitBy(time.Second, 31*time.Second, rank, n)
			if by <= last || by < 16*time.Second {
				t.Fatalf("participant %d of %d waits until %v, the one before until %v", rank, n, by, last)
			}
			last = by
		}
		if last != 31*time.Second {
			t.Fatalf("the publisher of %d waits until %v", n, last)
		}
	}
}

func publisherConfig(t failer, spec string, contributors int) PublisherConfig {
	t.Helper()
	s, err := ParseSchedules(spec, 3)
	if err != nil {
		t.Fatal(err)
	}
	return PublisherConfig{
		Session: bookSession, Self: machineHello("asker", RolePublisher), ID: "key-p", Shape: bookShape(3), Schedules: s,
		Wire: Uniform(bookTypes, 3), Positions: InPlace, Prefix: []Token{1, 2}, Own: 3, MaxContext: 40, Contributors: contributors,
		SetupBy: 5 * time.Second, GatherBy: 30 * time.Second,
	}
}

func TestPublisherChecksItsConfiguration(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*PublisherConfig)
		want   error
	}{
		{"good", func(*PublisherConfig) {}, nil},
		{"no session", func(c *PublisherConfig) { c.Session = SessionID{} }, ErrPlan},
		{"the wrong role", func(c *PublisherConfig) { c.Self.Role = RoleContributor }, ErrPlan},
		{"no id", func(c *PublisherConfig) { c.ID = "" }, ErrPlan},
		{"no layers", func(c *PublisherConfig) { c.Shape = Shape{} }, ErrPlan},
		{"another model's schedules", func(c *PublisherConfig) { c.Shape = bookShape(4) }, ErrPlan},
		{"a type it does not have itself", func(c *PublisherConfig) { c.Wire = c.Wire.With(2, WireTypes{Q8_0, Q4_1}) }, ErrTypes},
		{"rows that do not fit the type", func(c *PublisherConfig) { c.Wire = c.Wire.With(2, WireTypes{Q8_0, Q8_0}) }, ErrTypes},
		{"canonical lockstep", func(c *PublisherConfig) { c.Positions = Canonical }, ErrPlan},
		{"no question", func(c *PublisherConfig) { c.Own = 0 }, ErrPlan},
		{"a long prefix", func(c *PublisherConfig) { c.Prefix = make([]Token, MaxPrefix+1) }, ErrPlan},
		{"too many contributors", func(c *PublisherConfig) { c.Contributors = MaxParticipants }, ErrPlan},
		{"more needed than asked", func(c *PublisherConfig) { c.MinPeers = 3 }, ErrPlan},
		{"rows due before setup ends", func(c *PublisherConfig) { c.GatherBy = time.Second }, ErrPlan},
		{"a deadline of days", func(c *PublisherConfig) { c.GatherBy = 1 << 62 }, ErrPlan},
		{"a question that does not fit", func(c *PublisherConfig) { c.MaxContext = 4 }, ErrTooLong},
	} {
		cfg := publisherConfig(t, "lockstep", 2)
		test.change(&cfg)
		if _, err := NewPublisher(cfg); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestPublisherAsksOnlyWhomItSuits(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Welcome)
		want   error
	}{
		{"good", func(*Welcome) {}, nil},
		{"other weights", func(w *Welcome) { w.Model.Weights[0]++ }, nil},
		{"another protocol, a name that cannot be shown", func(w *Welcome) { w.Protocol, w.Name = 2, "\x1b[31m" }, ErrVersion},
		{"another engine", func(w *Welcome) { w.Engine = "other" }, ErrVersion},
		{"another template", func(w *Welcome) { w.Model.Template[0]++ }, ErrTemplate},
		{"a type missing", func(w *Welcome) { w.Types = []Type{Q8_0} }, ErrTypes},
		{"a publisher", func(w *Welcome) { w.Role = RolePublisher }, ErrProtocol},
		{"no name", func(w *Welcome) { w.Name = "" }, ErrProtocol},
	} {
		p, err := NewPublisher(publisherConfig(t, "gather", 2))
		if err != nil {
			t.Fatal(err)
		}
		welcome := machineHello("peer", RoleContributor).Welcome("")
		test.change(&welcome)
		err = p.Step(PeerUp{0, welcome, "key-0", "a:1"})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		r := p.Ready()
		if len(r.Missing) != 0 != (test.want != nil) || len(r.Notes) != 0 != (test.name == "other weights") {
			t.Errorf("%s: missing %v, notes %v", test.name, r.Missing, r.Notes)
		}
		for _, m := range r.Missing {
			if err := checkName("name", m.Name, 0, MaxName); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
}

// Every message that may not come now ends the part of whoever sent it, with the code order; messages of other
// sessions end nothing.
func TestPublisherHoldsTheOrderOfMessages(t *testing.T) {
	planned := []Event{PeerUp{0, machineHello("peer", RoleContributor).Welcome(""), "key-0", "a:1"}}
	ready := append(slices.Clone(planned), Received{0, Ready{bookSession, 4}})
	other := SessionID{1}
	for _, test := range []struct {
		name   string
		before []Event
		m      Message
		want   error
		out    bool
	}{
		{"ready", planned, Ready{bookSession, 4}, nil, false},
		{"ready of another session", planned, Ready{other, 4}, ErrSession, false},
		{"ready with too many tokens", planned, Ready{bookSession, 41}, ErrTooLong, true},
		{"ready before the plan", nil, Ready{bookSession, 4}, ErrOrder, true},
		{"ready twice", ready, Ready{bookSession, 4}, ErrOrder, true},
		{"done before the commit", planned, Done{Session: bookSession}, ErrOrder, true},
		{"done of another session", ready, Done{Session: other}, ErrSession, false},
		{"done", ready, Done{Session: bookSession}, nil, false},
		{"abort", ready, Abort{bookSession, CodeMemory, "no memory"}, nil, true},
		{"abort with a code of the future", ready, Abort{bookSession, 999, ""}, nil, true},
		{"abort of another session", ready, Abort{other, CodeMemory, ""}, ErrSession, false},
		{"refuse", planned, Refuse{CodeBusy, ""}, nil, true},
		{"hello", planned, machineHello("peer", RoleContributor), ErrOrder, true},
		{"commit", ready, Commit{Session: bookSession}, ErrOrder, true},
		{"waiting", planned, Waiting{bookSession, 2, 100}, nil, false},
		{"waiting when it is ready", ready, Waiting{bookSession, 2, 100}, nil, false},
		{"waiting before the plan", nil, Waiting{bookSession, 2, 100}, ErrOrder, true},
		{"waiting of another session", ready, Waiting{other, 2, 100}, ErrSession, false},
		{"ping", ready, Ping{Nonce: 3}, nil, false},
		{"ping's reply", ready, Ping{3, true}, nil, false},
	} {
		p, err := NewPublisher(publisherConfig(t, "gather", 1))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range test.before {
			if err := p.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		p.Advance()
		err = p.Step(Received{0, test.m})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		r := p.Ready()
		if (len(r.Missing) == 1) != test.out || (len(p.Missing()) == 1) != test.out {
			t.Errorf("%s: missing %v and %v, want %v", test.name, r.Missing, p.Missing(), test.out)
		}
		if pong := (Outbound{0, Ping{3, true}}); test.name == "ping" && !slices.Contains(r.Messages, pong) {
			t.Errorf("%s: answers %v", test.name, r.Messages)
		}
	}
}

// A place in the queue goes from one machine to the other, within its limits whatever the driver says.
func TestPlaceInTheQueue(t *testing.T) {
	c, err := NewContributor(contributorConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Step(Queued{1, 0}); !errors.Is(err, ErrOrder) {
		t.Errorf("queued before the plan: %v", err)
	}
	for _, e := range []Event{Received{PublisherLink, machineHello("asker", RolePublisher)}, Received{PublisherLink, lockstepPlan(t)}} {
		if err := c.Step(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		said Queued
		want Waiting
	}{
		{Queued{2, 1500 * time.Millisecond}, Waiting{bookSession, 2, 1500}},
		{Queued{0, -time.Second}, Waiting{bookSession, 1, 0}},
		{Queued{1 << 30, 1000 * time.Hour}, Waiting{bookSession, MaxQueue, MaxDeadlineMS}},
	} {
		c.Advance()
		if err := c.Step(test.said); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Outbound{{PublisherLink, test.want}}, c.Ready().Messages); diff != "" {
			t.Errorf("%+v: %s", test.said, diff)
		}
	}

	p, err := NewPublisher(publisherConfig(t, "gather", 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{
		PeerUp{0, machineHello("peer", RoleContributor).Welcome(""), "key-0", "a:1"},
		Received{0, Waiting{bookSession, 3, 9000}}, Received{0, Waiting{bookSession, 2, 2500}},
	} {
		if err := p.Step(e); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]QueuePlace{{0, 2, 2500 * time.Millisecond}}, p.Ready().Waiting); diff != "" {
		t.Error(diff)
	}
}

func TestPublisherThatClosesEarlySaysSo(t *testing.T) {
	p, err := NewPublisher(publisherConfig(t, "gather", 2))
	if err != nil {
		t.Fatal(err)
	}
	up := PeerUp{0, machineHello("peer", RoleContributor).Welcome(""), "key-0", "a:1"}
	if err := p.Step(up); err != nil {
		t.Fatal(err)
	}
	if err := p.Step(up); !errors.Is(err, ErrOrder) {
		t.Errorf("up twice: %v", err)
	}
	want := []Outbound{{0, Abort{bookSession, CodeCancelled, CodeCancelled.Text()}}}
	if diff := cmp.Diff(want, p.CloseMessages()); diff != "" {
		t.Error(diff)
	}
	if err := p.Step(Received{0, Ready{bookSession, 1}}); !errors.Is(err, ErrSession) {
		t.Errorf("after the end: %v", err)
	}
	if _, ok := p.Deadline(); ok || len(p.CloseMessages()) != 0 {
		t.Error("it goes on after the end")
	}
}

func TestContributorHoldsTheOrderOfMessages(t *testing.T) {
	greeting := []Event{}
	waiting := []Event{Received{PublisherLink, machineHello("asker", RolePublisher)}}
	planned := append(slices.Clone(waiting), Received{PublisherLink, lockstepPlan(t)})
	ready := append(slices.Clone(planned), Tokenised{5})
	working := append(slices.Clone(ready), Received{PublisherLink, lockstepCommit()})
	other := SessionID{1}
	otherCommit := lockstepCommit()
	otherCommit.Session = other
	for _, test := range []struct {
		name   string
		before []Event
		m      Message
		want   error
		failed error
		over   bool
	}{
		{"plan before hello", greeting, lockstepPlan(t), ErrOrder, ErrOrder, true},
		{"refuse", greeting, Refuse{CodeBusy, ""}, nil, ErrBusy, true},
		{"hello twice", waiting, machineHello("asker", RolePublisher), ErrOrder, ErrOrder, true},
		{"abort before the plan", waiting, Abort{bookSession, CodeMemory, ""}, ErrSession, nil, false},
		{"plan twice", planned, lockstepPlan(t), ErrOrder, ErrOrder, true},
		{"commit before ready", planned, lockstepCommit(), ErrOrder, ErrOrder, true},
		{"commit of another session", ready, otherCommit, ErrSession, nil, false},
		{"done before the commit", ready, Done{Session: bookSession}, ErrOrder, ErrOrder, true},
		{"commit twice", working, lockstepCommit(), ErrOrder, ErrOrder, true},
		{"done of another session", working, Done{Session: other}, ErrSession, nil, false},
		{"receipt of another session", working, Receipt{Session: other}, ErrSession, nil, false},
		{"receipt", working, Receipt{Session: bookSession}, nil, nil, false},
		{"done: the publisher has what it needs", working, Done{Session: bookSession}, nil, nil, true},
		{"abort", working, Abort{bookSession, CodeMemory, ""}, nil, ErrMemory, true},
		{"waiting", working, Waiting{bookSession, 1, 0}, ErrOrder, ErrOrder, true},
		{"welcome", working, machineHello("asker", RolePublisher).Welcome(""), ErrOrder, ErrOrder, true},
		{"ping", working, Ping{Nonce: 3}, nil, nil, false},
		{"ping's reply", working, Ping{3, true}, nil, nil, false},
	} {
		c, err := NewContributor(contributorConfig())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range test.before {
			if err := c.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		c.Advance()
		err = c.Step(Received{PublisherLink, test.m})
		r := c.Ready()
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || !errors.Is(r.Failed, test.failed) || r.Finished != (test.over && test.failed == nil) {
			t.Errorf("%s: %v, want %v; failed %v, want %v; finished %v", test.name, err, test.want, r.Failed, test.failed, r.Finished)
		}
		if pong := (Outbound{PublisherLink, Ping{3, true}}); test.name == "ping" && !slices.Contains(r.Messages, pong) {
			t.Errorf("%s: answers %v", test.name, r.Messages)
		}
		if _, ok := c.Deadline(); ok && test.over {
			t.Errorf("%s: a deadline after the end", test.name)
		}
		if err := c.Step(Received{PublisherLink, Done{Session: bookSession}}); test.over && err != nil {
			t.Errorf("%s: what comes after the end: %v", test.name, err)
		}
	}
}

func TestContributorHearsLittleOverDirectLinks(t *testing.T) {
	for _, test := range []struct {
		name    string
		from    int
		m       Message
		want    error
		missing bool
	}{
		{"ping", 0, Ping{Nonce: 3}, nil, false},
		{"ping's reply", 0, Ping{3, true}, nil, false},
		{"done", 0, Done{Session: bookSession}, nil, false},
		{"refuse", 0, Refuse{CodeBusy, ""}, nil, true},
		{"abort", 0, Abort{bookSession, CodeMemory, ""}, nil, true},
		{"abort of another session", 0, Abort{SessionID{1}, CodeMemory, ""}, ErrSession, false},
		{"a plan", 0, lockstepPlan(t), ErrOrder, true},
		{"a later one's refusal", 3, Refuse{CodeBusy, ""}, nil, false},
		{"a stranger", 2, Ping{}, ErrForbidden, false},
	} {
		c, _ := committed(t, lockstepPlan(t))
		err := c.Step(Received{test.from, test.m})
		r := c.Ready()
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || (len(r.Missing) == 1) != test.missing {
			t.Errorf("%s: %v, want %v; missing %v", test.name, err, test.want, r.Missing)
		}
		if pending := c.Pending(0); (len(pending) == 0) != test.missing {
			t.Errorf("%s: pending %v", test.name, pending)
		}
		if r.Failed != nil || c.Ready().Finished {
			t.Errorf("%s: a direct link ended the session: %v", test.name, r.Failed)
		}
	}
}

func TestContributorTakesBlocksOnlyOfWhomItAdmitted(t *testing.T) {
	h := bookHeader(0, 0, 0, 4)
	c, _ := committed(t, lockstepPlan(t))
	if err := c.Step(BlockOffered{0, h}); !errors.Is(err, ErrForbidden) {
		t.Errorf("before the join: %v", err)
	}
	if err := c.Step(Joined{"key-0", Join{bookSession, 0}}); err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{BlockOffered{0, h}, BlockIn{0, h}} {
		if err := c.Step(e); err != nil {
			t.Errorf("%T: %v", e, err)
		}
	}
	if err := c.Step(BlockOffered{0, h}); !errors.Is(err, ErrDuplicate) || len(c.Ready().Missing) != 0 {
		t.Errorf("again: %v, missing %v", err, c.Ready().Missing)
	}
	h.Layer, h.Rows = 1, 3
	if err := c.Step(BlockOffered{0, h}); !errors.Is(err, ErrRange) || len(c.Ready().Missing) != 1 {
		t.Errorf("a wrong length: %v, missing %v", err, c.Ready().Missing)
	}
	if err := c.Step(Joined{"key-0", Join{bookSession, 0}}); !errors.Is(err, ErrLost) {
		t.Errorf("back after the loss: %v", err)
	}
	if err := c.Step(BlockSent{3, h}); !errors.Is(err, ErrInternal) {
		t.Errorf("a block nobody asked for was sent: %v", err)
	}
}

func TestContributorKeepsOnlySoManyEarlyJoins(t *testing.T) {
	c, err := NewContributor(contributorConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{Received{PublisherLink, machineHello("asker", RolePublisher)}, Received{PublisherLink, lockstepPlan(t)}} {
		if err := c.Step(e); err != nil {
			t.Fatal(err)
		}
	}
	for range MaxParticipants {
		if err := c.Step(Joined{"key-0", Join{bookSession, 0}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Step(Joined{"key-0", Join{bookSession, 0}}); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	if err := c.Step(Stopped{Code: CodeCancelled}); err != nil {
		t.Fatal(err)
	}
	if answers := c.Ready().Joins; len(answers) != MaxParticipants+1 {
		t.Errorf("%d answers", len(answers))
	}
}

func TestMachinesTakeOnlyTheirEvents(t *testing.T) {
	p, err := NewPublisher(publisherConfig(t, "gather", 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{Joined{}, Tokenised{1}, BlockSent{}} {
		if err := p.Step(e); !errors.Is(err, ErrInternal) {
			t.Errorf("publisher, %T: %v", e, err)
		}
	}
	for _, e := range []Event{PeerUp{Origin: 1}, PeerDown{Origin: -1}, Received{1, Ping{}}, BlockIn{From: 7}} {
		if err := p.Step(e); !errors.Is(err, ErrForbidden) {
			t.Errorf("publisher, unknown origin, %T: %v", e, err)
		}
	}
	c, err := NewContributor(contributorConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Step(PeerUp{}); !errors.Is(err, ErrInternal) {
		t.Errorf("contributor, PeerUp: %v", err)
	}
}

// A random session: every participant is real, links deliver in any order to each other (and messages in order
// within one), blocks in any order, and participants die at any moment.
func TestSessionLawsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { simulate(t) })
}

// simulate runs one random session of a random regime to its end and checks the invariants of a session.
func simulate(t *rapid.T) {
	n := rapid.IntRange(0, 4).Draw(t, "contributors")
	schedules := drawSchedules(t, 3)
	cfg := publisherConfig(t, "gather", n)
	cfg.Schedules = schedules
	if schedules.Regime() == Gather && rapid.Bool().Draw(t, "canonical") {
		cfg.Positions = Canonical
	}
	window := rapid.IntRange(0, 6).Draw(t, "window")
	cfg.Shape = bookShape(3)
	cfg.Shape.Layers[0].Window, cfg.Shape.Layers[1].Window = window, window
	cfg.MinPeers = rapid.IntRange(0, n).Draw(t, "min peers")
	cfg.RequireAll = rapid.IntRange(0, 5).Draw(t, "require all") == 0
	cfg.MaxContext = rapid.IntRange(5, 40).Draw(t, "context")
	pub, err := NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	type link struct {
		machine *Contributor
		tokens  int
		work    *Work
		layer   int
		in, out []Message // to the contributor, to the publisher
		blocks  []Outgoing
		up, cut bool
		through map[int]bool // later ones that it cannot dial
	}
	peers := make([]*link, n)
	for i := range peers {
		cc := contributorConfig()
		cc.ID = stageID(i)
		cc.Greeted = true
		cc.Shape = cfg.Shape
		c, err := NewContributor(cc)
		if err != nil {
			t.Fatal(err)
		}
		peers[i] = &link{machine: c, tokens: rapid.IntRange(1, 6).Draw(t, "tokens")}
	}
	var committed, settled *Layout
	var failed error
	missing := map[int]bool{}
	rows := map[int]int{} // accepted by the publisher
	bytes := map[int]int{}
	type place struct{ origin, layer, row int }
	here := map[place]bool{} // settled by blocks
	now := time.Duration(0)

	drain := func() {
		r := pub.Ready()
		pub.Advance()
		for _, m := range r.Messages {
			if _, err := AppendMessage(nil, m.Message); err != nil {
				t.Fatalf("the publisher says %T, which is not valid: %v", m.Message, err)
			}
			peers[m.To].in = append(peers[m.To].in, m.Message)
		}
		for _, m := range r.Missing {
			if missing[m.Origin] || m.Text == "" {
				t.Fatalf("missing twice, or without a reason: %v", m)
			}
			missing[m.Origin] = true
		}
		if r.Committed != nil {
			if committed != nil {
				t.Fatal("committed twice")
			}
			committed = r.Committed
		}
		if r.Settled != nil {
			if settled != nil || committed == nil {
				t.Fatal("settled twice, or before the commit")
			}
			settled = r.Settled
			var lost []int
			for origin := range n {
				if schedules.Regime() == Gather && missing[origin] {
					lost = append(lost, origin)
				}
			}
			// Only when the time is over may the gap of somebody missing stay open, for want of the rows that close it.
			want := committed.Vacate(lost...)
			if cfg.Positions == Canonical && (window == 0 || now < cfg.GatherBy || cmp.Diff(want, *settled) != "") {
				want = committed.Without(lost...)
			}
			if diff := cmp.Diff(want, *settled); diff != "" {
				t.Fatalf("settled is not committed without the missing: %s", diff)
			}
			own := settled.Segments[len(settled.Segments)-1].Offset
			for _, s := range settled.Segments[:len(settled.Segments)-1] {
				for _, l := range schedules.Publisher.Layers() {
					for row := cfg.Shape.Layers[l].FirstRow(s, own); row < s.Tokens && schedules.Regime() == Gather; row++ {
						if !here[place{s.Origin, l, row}] {
							t.Fatalf("settled without row %d of layer %d of origin %d", row, l, s.Origin)
						}
					}
				}
			}
		}
		if r.Failed != nil {
			if failed != nil || settled != nil && schedules.Regime() == Gather {
				t.Fatalf("failed twice, or after everything was here: %v", r.Failed)
			}
			failed = r.Failed
		}
	}
	drainPeer := func(i int) {
		a := peers[i]
		for {
			r := a.machine.Ready()
			a.machine.Advance()
			for _, m := range r.Messages {
				if _, err := AppendMessage(nil, m.Message); err != nil {
					t.Fatalf("contributor %d says %T, which is not valid: %v", i, m.Message, err)
				}
				if m.To == PublisherLink {
					a.out = append(a.out, m.Message)
				}
			}
			for _, v := range r.Vouched {
				_ = a.machine.Step(RelayTaken{v.Origin, Nonce{byte(1 + i)}, 0, ""})
			}
			for _, p := range r.Paths {
				if p.Nonce != (Nonce{byte(1 + p.To)}) {
					t.Fatalf("contributor %d is to sign %x for %d", i, p.Nonce, p.To)
				}
			}
			for _, p := range r.Dial {
				if rapid.Bool().Draw(t, "unreachable") {
					if a.through == nil {
						a.through = map[int]bool{}
					}
					a.through[p.Origin] = true
					_ = a.machine.Step(Unreachable{p.Origin, CodeLost, ""})
				} else if j := peers[p.Origin]; !j.cut && j.up {
					_ = j.machine.Step(Joined{stageID(i), Join{bookSession, i}})
				}
			}
			if r.Start != nil {
				a.work = r.Start
			}
			if r.Owed {
				blocks, err := a.machine.Owed()
				if err != nil || len(blocks) == 0 {
					t.Fatalf("contributor %d owes %v, %v", i, blocks, err)
				}
				a.blocks = append(a.blocks, blocks...)
			}
			if r.Failed != nil || r.Finished {
				a.work = nil
			}
			if r.Tokenise == nil {
				return
			}
			if err := a.machine.Step(Tokenised{a.tokens}); err != nil && a.tokens <= r.Tokenise.MaxTokens {
				t.Fatal(err)
			}
		}
	}
	deliver := func(to, from int, h BlockHeader) {
		if to == PublisherLink {
			if pub.Step(BlockOffered{from, h}) == nil && pub.Step(BlockIn{from, h}) == nil {
				rows[from] += h.Kept
				bytes[from] += h.Length
				for row := range h.Rows {
					here[place{from, h.Layer, h.First + row}] = true
				}
			}
			return
		}
		if peers[from].through[to] {
			h.Seal = Seal{Sealed: true, To: to}
			if pub.Step(BlockOffered{from, h}) != nil || pub.Step(BlockIn{from, h}) != nil {
				return
			}
			from = PublisherLink
		}
		if j := peers[to]; !j.cut && j.machine.Step(BlockOffered{from, h}) == nil {
			_ = j.machine.Step(BlockIn{from, h})
		}
	}

	drain()
	for range rapid.IntRange(0, 150).Draw(t, "events") {
		if n == 0 {
			break
		}
		i := rapid.IntRange(0, n-1).Draw(t, "who")
		a := peers[i]
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0:
			if !a.up && !a.cut {
				a.up = true
				_ = pub.Step(PeerUp{i, machineHello("peer"+fmt.Sprint(i), RoleContributor).Welcome(""), stageID(i), "a:1"})
			}
		case 1, 2, 3:
			if len(a.in) > 0 && !a.cut {
				_ = a.machine.Step(Received{PublisherLink, a.in[0]})
				a.in = a.in[1:]
			}
		case 4, 5:
			if len(a.out) > 0 {
				_ = pub.Step(Received{i, a.out[0]})
				a.out = a.out[1:]
			}
		case 6, 7:
			if a.work != nil && !a.cut && a.layer <= a.work.Sends.Last() {
				if a.work.Sends.Sync(a.layer) {
					keep := make([]bool, a.tokens)
					for i := range keep {
						keep[i] = rapid.Bool().Draw(t, "keep")
					}
					blocks, err := a.machine.Blocks(a.layer, 0, a.tokens, keep)
					if err != nil && !errors.Is(err, ErrDuplicate) {
						t.Fatalf("contributor %d: %v", i, err)
					}
					a.blocks = append(a.blocks, blocks...)
				}
				if !a.work.Waits.Sync(a.layer) || len(a.machine.Pending(a.layer)) == 0 {
					a.layer++
				}
			}
		case 8:
			if len(a.blocks) > 0 {
				k := rapid.IntRange(0, len(a.blocks)-1).Draw(t, "block")
				b := a.blocks[k]
				a.blocks = slices.Delete(a.blocks, k, k+1)
				for _, to := range b.To {
					deliver(to, i, b.Header)
					_ = a.machine.Step(BlockSent{to, b.Header})
				}
			}
		case 9:
			switch rapid.IntRange(0, 9).Draw(t, "trouble") {
			case 0:
				a.cut = true
				_ = pub.Step(PeerDown{i, CodeLost, ""})
				_ = a.machine.Step(PeerDown{PublisherLink, CodeLost, ""})
				for j := range peers {
					_ = peers[j].machine.Step(PeerDown{i, CodeLost, ""})
				}
			case 1, 2:
				now += time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond
				_ = pub.Step(Tick{now})
				for _, b := range peers {
					_ = b.machine.Step(Tick{now})
				}
			}
		}
		drain()
		for j := range peers {
			drainPeer(j)
		}
	}

	// By the deadline there is an answer or an error, whatever has happened; and no deadline comes twice.
	for deadlines := 0; ; deadlines++ {
		at, ok := pub.Deadline()
		if !ok {
			break
		}
		if deadlines > 2 {
			t.Fatalf("deadline %v does not pass", at)
		}
		now = at
		_ = pub.Step(Tick{at})
		drain()
	}
	for i, a := range peers {
		for deadlines := 0; ; deadlines++ {
			at, ok := a.machine.Deadline()
			if !ok {
				break
			}
			if deadlines > 2 {
				t.Fatalf("deadline %v of contributor %d does not pass", at, i)
			}
			_ = a.machine.Step(Tick{at})
			drainPeer(i)
		}
	}
	if (settled == nil) == (failed == nil) && schedules.Regime() == Gather {
		t.Fatalf("settled %v, failed %v", settled, failed)
	}
	if committed != nil && failed == nil {
		for origin := range n {
			_, in := committed.Segment(origin)
			if !in && !missing[origin] {
				t.Fatalf("contributor %d is neither in nor missing", origin)
			}
		}
		if committed.Total() > cfg.MaxContext {
			t.Fatalf("%d positions committed, the context has %d", committed.Total(), cfg.MaxContext)
		}
	}
	for origin := range n {
		if got, sum := pub.Received(origin); got != rows[origin] || sum != int64(bytes[origin]) {
			t.Fatalf("%d rows of origin %d in %d bytes, %d were accepted", got, origin, sum, rows[origin])
		}
	}
	if failed == nil && (cfg.RequireAll && len(missing) > 0 || n-len(missing) < cfg.MinPeers) {
		t.Fatalf("the session goes on without %v", missing)
	}
	for _, m := range pub.CloseMessages() {
		if _, err := AppendMessage(nil, m.Message); err != nil {
			t.Fatalf("the publisher says %T, which is not valid: %v", m.Message, err)
		}
		if missing[m.To] {
			t.Fatalf("the missing contributor %d gets %T", m.To, m.Message)
		}
	}
	if len(pub.CloseMessages()) != 0 {
		t.Fatal("closed twice")
	}
}

func TestMissingReadsAsOneLine(t *testing.T) {
	for _, test := range []struct {
		m    Missing
		want string
	}{
		{Missing{1, "pi", CodeLost, "it is gone", PhaseTransfer, 3}, "pi (contributor 1) is missing since transfer, layer 3: it is gone (lost)"},
		{Missing{0, "pi", CodeBusy, "try again", PhaseSetup, -1}, "pi (contributor 0) is missing since setup: try again (busy)"},
	} {
		if got := test.m.String(); got != test.want || strings.Contains(got, "\n") {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

func TestContributorIsDoneWhenNobodyIsLeftToSendTo(t *testing.T) {
	plan := lockstepPlan(t)
	plan.Schedules.Publisher = mustSchedule(t, "none", 3)
	c, work := committed(t, plan)
	if err := c.Step(PeerDown{3, CodeLost, ""}); err != nil {
		t.Fatal(err)
	}
	for _, layer := range work.Sends.Layers() {
		if c.Ready().Sent {
			t.Fatalf("done before layer %d", layer)
		}
		blocks, err := c.Blocks(layer, 0, 5, nil)
		if err != nil || len(blocks) != 1 || len(blocks[0].To) != 0 {
			t.Fatalf("blocks %+v, %v", blocks, err)
		}
	}
	if !c.Ready().Sent {
		t.Error("nothing is left to send and nobody says so")
	}
}
