package fedkv

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"
)

// said is what a machine says to somebody, and takes it over.
func said(r []Outbound, to int) (list []Message) {
	for _, m := range r {
		if m.To == to {
			list = append(list, m.Message)
		}
	}
	return list
}

// A contributor asks for a path when the network does not let a direct link through, and its rows wait until it is open.
func TestContributorAsksForAPath(t *testing.T) {
	c, _ := committed(t, lockstepPlan(t))
	if err := c.Step(Unreachable{3, CodeLost, "no route"}); err != nil {
		t.Fatal(err)
	}
	ask := Relay{Session: bookSession, From: 1, To: 3, State: RelayAsk}
	if got := said(c.Ready().Messages, PublisherLink); len(got) != 1 || got[0] != Message(ask) {
		t.Errorf("it says %v", got)
	}
	c.Advance()
	for name, test := range map[string]struct {
		e    Event
		want error
	}{
		"twice":               {Unreachable{3, CodeLost, ""}, ErrInternal},
		"an earlier one":      {Unreachable{0, CodeLost, ""}, ErrInternal},
		"a stranger":          {Unreachable{2, CodeLost, ""}, ErrInternal},
		"another session":     {Received{PublisherLink, Relay{SessionID{9}, 1, 3, RelayOpen, Nonce{1}, 0, ""}}, ErrSession},
		"a block in between":  {BlockOffered{PublisherLink, bookHeader(0, 0, 0, 4)}, ErrForbidden},
		"rows of a later one": {BlockOffered{PublisherLink, sealedFor(bookHeader(3, 0, 0, 6), 1)}, ErrForbidden},
	} {
		if err := c.Step(test.e); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if err := c.Step(Received{PublisherLink, Relay{bookSession, 1, 3, RelayOpen, Nonce{7}, 0, ""}}); err != nil {
		t.Fatal(err)
	}
	if got := c.Ready().Paths; !slices.Equal(got, []Path{{3, Nonce{7}}}) {
		t.Errorf("paths %v", got)
	}
	if err := c.Step(Received{PublisherLink, Relay{bookSession, 1, 3, RelayOpen, Nonce{8}, 0, ""}}); !errors.Is(err, ErrOrder) || c.Ready().Failed == nil {
		t.Errorf("opened again: %v", err)
	}
}

func TestAPathThatDoesNotOpenIsGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		e    Event
		lost bool
	}{
		"at once":            {Tick{relayGrace - 1}, false},
		"no answer":          {Tick{relayGrace}, true},
		"the recipient left": {Received{PublisherLink, Relay{bookSession, 1, 3, RelayEnd, Nonce{}, CodeLost, ""}}, true},
	} {
		c, _ := committed(t, lockstepPlan(t))
		if err := c.Step(Unreachable{3, CodeLost, ""}); err != nil {
			t.Fatal(err)
		}
		c.Advance()
		if err := c.Step(test.e); err != nil || c.Lost(3) != test.lost {
			t.Errorf("%s: %v, lost %v", name, err, c.Lost(3))
		}
		ends := said(c.Ready().Messages, PublisherLink)
		if _, told := test.e.(Received); (len(ends) == 1) != (test.lost && !told) {
			t.Errorf("%s: it says %v", name, ends)
		}
	}
}

func sealedFor(h BlockHeader, to int) BlockHeader {
	h.Seal = Seal{Sealed: true, To: to}
	return h
}

// Rows come over a path only if the roster, the owner and the plan let them, and only sealed.
func TestContributorTakesRelayedBlocksOnlyOverAnOpenPath(t *testing.T) {
	ask := Received{PublisherLink, Relay{bookSession, 0, 1, RelayAsk, Nonce{}, 0, ""}}
	h := bookHeader(0, 0, 0, 4)
	c, _ := committed(t, lockstepPlan(t))
	if err := c.Step(BlockOffered{PublisherLink, sealedFor(h, 1)}); !errors.Is(err, ErrForbidden) {
		t.Errorf("before the path: %v", err)
	}
	if err := c.Step(ask); err != nil {
		t.Fatal(err)
	}
	if v := c.Ready().Vouched; len(v) != 1 || v[0].ID != "key-0" {
		t.Fatalf("vouched %v", v)
	}
	if err := c.Step(BlockOffered{PublisherLink, sealedFor(h, 1)}); !errors.Is(err, ErrForbidden) {
		t.Errorf("before the owner's word: %v", err)
	}
	c.Advance()
	if err := c.Step(RelayTaken{0, Nonce{5}, 0, ""}); err != nil {
		t.Fatal(err)
	}
	open := Relay{bookSession, 0, 1, RelayOpen, Nonce{5}, 0, ""}
	if got := said(c.Ready().Messages, PublisherLink); len(got) != 1 || got[0] != Message(open) {
		t.Errorf("it says %v", got)
	}
	for name, bad := range map[string]BlockOffered{
		"not sealed":         {PublisherLink, h},
		"for somebody else":  {PublisherLink, sealedFor(h, 3)},
		"over a direct link": {0, h},
		"sealed and direct":  {0, sealedFor(h, 1)},
	} {
		if err := c.Step(bad); !errors.Is(err, ErrForbidden) || c.Lost(0) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, e := range []Event{BlockOffered{PublisherLink, sealedFor(h, 1)}, BlockIn{PublisherLink, sealedFor(h, 1)}} {
		if err := c.Step(e); err != nil {
			t.Errorf("%T: %v", e, err)
		}
	}
	if len(c.Pending(0)) != 0 {
		t.Errorf("pending %v", c.Pending(0))
	}
	if err := c.Step(BlockOffered{PublisherLink, sealedFor(h, 1)}); !errors.Is(err, ErrDuplicate) || c.Lost(0) {
		t.Errorf("again: %v", err)
	}
	if err := c.Step(Joined{"key-0", Join{bookSession, 0}}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("a direct link beside it: %v", err)
	}
	if err := c.Step(ask); !errors.Is(err, ErrDuplicate) {
		t.Errorf("asked again: %v", err)
	}
	// the path breaks: rows that did not come are missing, and the publisher hears nothing that it knows
	c.Advance()
	if err := c.Step(Received{PublisherLink, Relay{bookSession, 0, 1, RelayEnd, Nonce{}, CodeLost, "gone"}}); err != nil {
		t.Fatal(err)
	}
	r := c.Ready()
	if len(r.Missing) != 1 || r.Missing[0].Origin != 0 || r.Missing[0].Layer != 1 || r.Missing[0].Text != "gone" || len(r.Messages) != 0 {
		t.Errorf("missing %v, says %v", r.Missing, r.Messages)
	}
}

// Who joined directly sends directly: the publisher cannot speak for it.
func TestContributorTakesNothingFromThePublisherOfWhomItAdmitted(t *testing.T) {
	c, _ := committed(t, lockstepPlan(t))
	if err := c.Step(Joined{"key-0", Join{bookSession, 0}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Step(BlockOffered{PublisherLink, sealedFor(bookHeader(0, 0, 0, 4), 1)}); !errors.Is(err, ErrForbidden) || c.Lost(0) {
		t.Errorf("%v", err)
	}
}

func TestContributorRefusesPaths(t *testing.T) {
	for name, test := range map[string]struct {
		m    Relay
		want error
		fail bool
	}{
		"of a later one":       {Relay{bookSession, 1, 3, RelayAsk, Nonce{}, 0, ""}, ErrOrder, true},
		"of others":            {Relay{bookSession, 0, 3, RelayAsk, Nonce{}, 0, ""}, ErrRange, true},
		"of a stranger":        {Relay{bookSession, 1, 2, RelayOpen, Nonce{1}, 0, ""}, ErrRange, true},
		"that nobody awaits":   {Relay{bookSession, 1, 3, RelayOpen, Nonce{1}, 0, ""}, ErrOrder, true},
		"opened the wrong way": {Relay{bookSession, 0, 1, RelayOpen, Nonce{1}, 0, ""}, ErrOrder, true},
		"that never were":      {Relay{bookSession, 0, 1, RelayEnd, Nonce{}, CodeLost, ""}, nil, false},
	} {
		c, _ := committed(t, lockstepPlan(t))
		err := c.Step(Received{PublisherLink, test.m})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || (c.Ready().Failed != nil) != test.fail {
			t.Errorf("%s: %v, want %v; failed %v", name, err, test.want, c.Ready().Failed)
		}
	}
	// the owner's word
	c, _ := committed(t, lockstepPlan(t))
	_ = c.Step(Received{PublisherLink, Relay{bookSession, 0, 1, RelayAsk, Nonce{}, 0, ""}})
	c.Advance()
	if err := c.Step(RelayTaken{0, Nonce{}, CodeForbidden, "not that one"}); err != nil || !c.Lost(0) {
		t.Errorf("refused by the owner: %v", err)
	}
	end := Relay{bookSession, 0, 1, RelayEnd, Nonce{}, CodeForbidden, "not that one"}
	if got := said(c.Ready().Messages, PublisherLink); len(got) != 1 || got[0] != Message(end) {
		t.Errorf("it says %v", got)
	}
}

// relayStage is a publisher of three contributors that are committed.
func relayStage(t *testing.T, spec string) *Publisher {
	t.Helper()
	p, err := NewPublisher(publisherConfig(t, spec, 3))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for _, e := range []Event{PeerUp{i, machineHello("peer", RoleContributor).Welcome(""), stageID(i), "a:1"}, Received{i, Ready{bookSession, 4}}} {
			if err := p.Step(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p.Ready().Committed == nil {
		t.Fatal("not committed")
	}
	p.Advance()
	return p
}

func TestPublisherPassesPathsOn(t *testing.T) {
	p := relayStage(t, "lockstep")
	for _, m := range []struct {
		from, to int
		m        Relay
	}{
		{0, 2, Relay{bookSession, 0, 2, RelayAsk, Nonce{}, 0, ""}},
		{2, 0, Relay{bookSession, 0, 2, RelayOpen, Nonce{1}, 0, ""}},
		{2, 0, Relay{bookSession, 0, 2, RelayEnd, Nonce{}, CodeLost, "why"}},
	} {
		if err := p.Step(Received{m.from, m.m}); err != nil {
			t.Fatal(err)
		}
		r := p.Ready()
		if got := said(r.Messages, m.to); len(r.Messages) != 1 || len(got) != 1 || got[0] != Message(m.m) {
			t.Errorf("%v: it says %v", m.m.State, r.Messages)
		}
		if (len(r.Notes) == 1) != (m.m.State == RelayOpen) {
			t.Errorf("%v: notes %q", m.m.State, r.Notes)
		}
		p.Advance()
	}
	if err := p.Step(Received{0, Relay{bookSession, 0, 2, RelayEnd, Nonce{}, CodeLost, ""}}); err != nil || len(p.Ready().Messages) != 0 {
		t.Errorf("ended from both sides: %v, %v", err, p.Ready().Messages)
	}
	if err := p.Step(BlockOffered{0, sealedFor(bookHeader(0, 0, 0, 4), 2)}); !errors.Is(err, ErrLost) {
		t.Errorf("a block after the end: %v", err)
	}
}

func TestPublisherHoldsPathsToTheRoster(t *testing.T) {
	for name, test := range map[string]struct {
		spec string
		from int
		m    Relay
		want error
	}{
		"in gather":             {"gather", 0, Relay{bookSession, 0, 2, RelayAsk, Nonce{}, 0, ""}, ErrOrder},
		"asked by another":      {"lockstep", 1, Relay{bookSession, 0, 2, RelayAsk, Nonce{}, 0, ""}, ErrRange},
		"asked by its end":      {"lockstep", 2, Relay{bookSession, 0, 2, RelayAsk, Nonce{}, 0, ""}, ErrRange},
		"opened by its start":   {"lockstep", 0, Relay{bookSession, 0, 2, RelayOpen, Nonce{1}, 0, ""}, ErrRange},
		"opened unasked":        {"lockstep", 2, Relay{bookSession, 0, 2, RelayOpen, Nonce{1}, 0, ""}, ErrOrder},
		"to the publisher":      {"lockstep", 0, Relay{bookSession, 0, 3, RelayAsk, Nonce{}, 0, ""}, ErrLost},
		"ended by another":      {"lockstep", 1, Relay{bookSession, 0, 2, RelayEnd, Nonce{}, CodeLost, ""}, ErrRange},
		"of another session":    {"lockstep", 0, Relay{SessionID{9}, 0, 2, RelayAsk, Nonce{}, 0, ""}, ErrSession},
		"to nobody":             {"lockstep", 0, Relay{bookSession, 0, 9, RelayAsk, Nonce{}, 0, ""}, ErrLost},
		"an end of what is not": {"lockstep", 0, Relay{bookSession, 0, 2, RelayEnd, Nonce{}, CodeLost, ""}, nil},
	} {
		p := relayStage(t, test.spec)
		err := p.Step(Received{test.from, test.m})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		out := errors.Is(err, ErrOrder) || errors.Is(err, ErrRange)
		if (len(p.Missing()) == 1) != out {
			t.Errorf("%s: missing %v", name, p.Missing())
		}
	}
}

// What a contributor can make the publisher hold and send is what the recipient waits for, each row once.
func TestPublisherRelaysNoMoreThanThePlanSays(t *testing.T) {
	h := sealedFor(bookHeader(0, 1, 0, 4), 2)
	for name, test := range map[string]struct {
		change func(*BlockHeader)
		want   error
	}{
		"good":             {func(*BlockHeader) {}, nil},
		"another's rows":   {func(h *BlockHeader) { h.Origin = 1 }, ErrForbidden},
		"another session":  {func(h *BlockHeader) { h.Session = SessionID{9} }, ErrSession},
		"another path":     {func(h *BlockHeader) { h.Seal.To = 1 }, ErrOrder},
		"too many rows":    {func(h *BlockHeader) { *h = sealedFor(bookHeader(0, 1, 0, 5), 2) }, ErrRange},
		"a wrong length":   {func(h *BlockHeader) { h.Length++ }, ErrRange},
		"another type":     {func(h *BlockHeader) { h.Types.K = F16 }, ErrTypes},
		"a layer too many": {func(h *BlockHeader) { h.Layer = 3 }, ErrRange},
	} {
		p := relayStage(t, "lockstep")
		for _, e := range []Event{
			Received{0, Relay{bookSession, 0, 2, RelayAsk, Nonce{}, 0, ""}}, Received{2, Relay{bookSession, 0, 2, RelayOpen, Nonce{1}, 0, ""}},
		} {
			if err := p.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		h := h
		test.change(&h)
		err := p.Step(BlockOffered{0, h})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if err != nil {
			continue
		}
		if err := p.Step(BlockIn{0, h}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.Step(BlockOffered{0, h}); !errors.Is(err, ErrDuplicate) || len(p.Missing()) != 0 {
			t.Errorf("%s, again: %v", name, err)
		}
		if got := p.Relays(); !slices.Equal(got, []Relayed{{0, 2, int64(h.Length)}}) {
			t.Errorf("relayed %v", got)
		}
		if rows, _ := p.Received(0); rows != 0 {
			t.Errorf("the publisher counts %d relayed rows as its own", rows)
		}
	}
}

// Who is lost to the publisher is lost to the other ends of its paths, which cannot notice themselves.
func TestALostPeerEndsItsPaths(t *testing.T) {
	for _, lost := range []int{0, 2} {
		p := relayStage(t, "lockstep")
		for _, e := range []Event{
			Received{0, Relay{bookSession, 0, 2, RelayAsk, Nonce{}, 0, ""}}, Received{2, Relay{bookSession, 0, 2, RelayOpen, Nonce{1}, 0, ""}},
		} {
			if err := p.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		p.Advance()
		_ = p.Step(PeerDown{lost, CodeLost, "gone"})
		end := Relay{bookSession, 0, 2, RelayEnd, Nonce{}, CodeLost, "gone"}
		if got := said(p.Ready().Messages, 2-lost); len(got) != 1 || got[0] != Message(end) {
			t.Errorf("without %d: it says %v", lost, got)
		}
	}
}

// The text that is signed has everything in it that must not be exchanged.
func TestSealTextsDiffer(t *testing.T) {
	h, payload := bookHeader(0, 1, 0, 4), []byte("rows")
	text := func(h BlockHeader, nonce Nonce, payload []byte) []byte {
		b, err := h.SealText(nonce, payload)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	want := text(h, Nonce{1}, payload)
	if !bytes.Equal(want, text(sealedFor(h, 2), Nonce{1}, payload)) {
		t.Error("the seal is part of what it signs")
	}
	other := func(change func(*BlockHeader)) BlockHeader {
		h := h
		change(&h)
		return h
	}
	for name, got := range map[string][]byte{
		"nonce":   text(h, Nonce{2}, payload),
		"payload": text(h, Nonce{1}, []byte("Rows")),
		"session": text(other(func(h *BlockHeader) { h.Session[15]++ }), Nonce{1}, payload),
		"origin":  text(other(func(h *BlockHeader) { h.Origin++ }), Nonce{1}, payload),
		"layer":   text(other(func(h *BlockHeader) { h.Layer++ }), Nonce{1}, payload),
		"first":   text(other(func(h *BlockHeader) { h.First++ }), Nonce{1}, payload),
		"types":   text(other(func(h *BlockHeader) { h.Types.K, h.Types.V = h.Types.V, h.Types.K }), Nonce{1}, payload),
	} {
		if bytes.Equal(got, want) {
			t.Errorf("another %s has the same text", name)
		}
	}
}

func TestRelayGraceCoversADirectLink(t *testing.T) {
	if relayGrace <= joinGrace || joinGrace < 2*time.Second {
		t.Errorf("%v, %v", relayGrace, joinGrace)
	}
}
