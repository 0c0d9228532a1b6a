package node

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
)

// terms are what a question and a conversation have in common: on which conditions contributors are asked, and what
// their rows are for.
type terms struct {
	Engine    Engine
	Self      fedkv.Hello
	ID        string
	Prefix    []fedkv.Token
	Schedules fedkv.Schedules
	Wire      fedkv.Wire
	Rows      fedkv.RowPolicy
	Positions fedkv.Positions
	Narrow    func(tokens []int) (fedkv.Terms, error)

	HomeType     fedkv.Type
	MaxPositions int // of everybody, rows that stay home included

	SetupBy    time.Duration
	GatherBy   time.Duration
	RequireAll bool
	MinPeers   int
	MaxStaging int64
	Question   string // shared with contacts of ShareQuestion
	Waiting    func(InQueue)
	Log        zerolog.Logger
}

// gathering is one session of the publisher's machine: contributors are asked together, committed together, and their
// rows come in.
type gathering struct {
	terms    *terms
	contacts []Contact
	started  time.Time
	id       fedkv.SessionID
	x        *exchange
	machine  *fedkv.Publisher

	// under the exchange's lock
	links              []Link           // by origin, nil until it is dialled
	relays             map[int]*relayer // by the contributor that they pass blocks on to
	welcomes           []fedkv.Welcome
	parted             bool     // links are held, or closed
	names              []string // by origin: what the owner calls it, or what it calls itself
	notes              []string
	told               map[int]toldPlace // by origin
	withdrawn          map[int]string    // by origin, why its rows are taken back
	committed, settled *fedkv.Layout
	agreed             fedkv.Terms // final once committed is set
}

// gather starts the machine and dials everybody at once. Of so many positions at most, own are the publisher's after all
// segments. The session ends with the context, or by end.
func gather(ctx context.Context, t *terms, contacts []Contact, own, positions int) (*gathering, error) {
	g := &gathering{terms: t, contacts: contacts, started: time.Now(), links: make([]Link, len(contacts)), welcomes: make([]fedkv.Welcome, len(contacts))}
	if _, err := rand.Read(g.id[:]); err != nil {
		return nil, err
	}
	for _, c := range contacts {
		g.names = append(g.names, c.Name)
	}
	home, share := make([]bool, len(contacts)), make([]bool, len(contacts))
	for i, c := range contacts {
		home[i], share[i] = c.Home, c.ShareQuestion
	}
	var err error
	g.machine, err = fedkv.NewPublisher(fedkv.PublisherConfig{
		Session: g.id, Self: t.Self, ID: t.ID, Shape: t.Engine.Shape(), Schedules: t.Schedules, Wire: t.Wire, Rows: t.Rows,
		Positions: t.Positions, Narrow: t.Narrow, Prefix: t.Prefix, Own: own, MaxContext: positions,
		Home: home, HomeType: t.HomeType, MaxPositions: max(positions, t.MaxPositions),
		Question: t.Question, ShareQuestion: share,
		Contributors: len(contacts), Names: slices.Clone(g.names), RequireAll: t.RequireAll, MinPeers: t.MinPeers,
		SetupBy: t.SetupBy, GatherBy: t.GatherBy,
	})
	if err != nil {
		return nil, err
	}
	g.x = newExchange(ctx, t.Engine.Shape(), t.Log.With().Stringer("session", g.id).Logger())
	g.x.machine, g.x.drain, g.x.sealed = g.machine, g.drain, g.passOn
	g.drain() // nobody else is here yet
	g.x.run()
	for origin, contact := range contacts {
		g.x.tasks.start(func() { g.connect(origin, contact) })
	}
	return g, nil
}

// drain takes over the machine's outputs; the exchange holds its lock.
func (g *gathering) drain() {
	r := g.machine.Ready()
	g.machine.Advance()
	g.x.send(r.Messages)
	g.notes = append(g.notes, r.Notes...)
	g.tell(r.Waiting)
	g.takeBack(r.Withdrawn)
	g.x.gone(r.Missing, g.terms.Schedules.Regime())
	if r.Committed != nil {
		g.committed, g.agreed = r.Committed, g.machine.Terms()
	}
	if r.Settled != nil {
		g.settled = r.Settled
	}
	if r.Failed != nil {
		g.x.fail(r.Failed)
	}
}

// connect dials a contributor and greets it, unless its link was held, and hands the link to the machine.
func (g *gathering) connect(origin int, contact Contact) {
	ctx, cancel := context.WithTimeout(g.x.ctx, g.terms.SetupBy)
	defer cancel()
	link, welcome, held := contact.Held.take(ctx)
	if !held {
		var err error
		if link, err = dialAgain(ctx, contact.Dial); err != nil {
			g.x.lost(origin, err)
			return
		}
	}
	g.x.mu.Lock()
	g.links[origin] = link
	g.x.mu.Unlock()
	if !held {
		var err error
		if welcome, err = g.x.greet(ctx, link, g.terms.Self); err != nil {
			g.x.lost(origin, err)
			return
		}
	}
	g.x.mu.Lock()
	g.welcomes[origin] = welcome
	if g.names[origin] == "" {
		g.names[origin] = welcome.Name
	}
	g.x.mu.Unlock()
	g.x.attach(origin, link, true)
	err := g.x.step(fedkv.PeerUp{Origin: origin, Welcome: welcome, ID: link.ID(), Addr: link.Addr()})
	if err != nil && g.x.live.Err() == nil {
		g.x.log.Warn().Str("peer", welcome.Name).Err(err).Msg("contributor left out")
	}
}

// takeBack notes whose rows are withdrawn, of this session or of one before it over the same link; the exchange holds its
// lock.
func (g *gathering) takeBack(list []fedkv.Withdrawal) {
	for _, w := range list {
		if w.Session != g.id {
			g.contacts[w.Origin].Held.withdraw(w.Session, w.Text)
			continue
		}
		if g.withdrawn == nil {
			g.withdrawn = map[int]string{}
		}
		g.withdrawn[w.Origin] = w.Text
	}
}

// takenBack says whether and why a contributor took its rows back.
func (g *gathering) takenBack(origin int) (why string, ok bool) {
	g.x.mu.Lock()
	why, ok = g.withdrawn[origin]
	g.x.mu.Unlock()
	if !ok {
		why, ok = g.contacts[origin].Held.takenBack(g.id)
	}
	return why, ok
}

// awaitCommit returns the stream of those who take part, awaitRows the stream to evaluate.
func (g *gathering) awaitCommit(ctx context.Context) (fedkv.Layout, error) {
	if err := g.x.await(ctx, func() bool { return g.committed != nil }); err != nil {
		return fedkv.Layout{}, err
	}
	return *g.committed, nil
}

func (g *gathering) awaitRows(ctx context.Context) (fedkv.Layout, error) {
	if err := g.x.await(ctx, func() bool { return g.settled != nil }); err != nil {
		return fedkv.Layout{}, err
	}
	return *g.settled, nil
}

// with is a context that also ends when the gathering does.
func (g *gathering) with(ctx context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.x.live, func() { cancel(context.Cause(g.x.live)) })
	return both, func() { stop(); cancel(nil) }
}

// checkStaging holds the rows to come against the memory that they may take before they are placed, as if all rows
// were selected.
func (g *gathering) checkStaging(layout fedkv.Layout) error {
	t := g.terms
	var bytes int64
	last := len(layout.Segments) - 1
	for _, layer := range g.agreed.Publisher.Layers() {
		shape := t.Engine.Shape().Layers[layer]
		for _, segment := range layout.Segments[:last] {
			if g.contacts[segment.Origin].Home {
				continue
			}
			reach := layout.Segments[last].Offset
			if t.Positions == fedkv.Canonical {
				reach = segment.End() // everybody behind it may be lost
			}
			size, err := shape.StagingSize(g.agreed.Wire.At(layer), segment.Tokens, shape.FirstRow(segment, reach))
			if err != nil {
				return err
			}
			bytes += size
		}
	}
	if t.MaxStaging > 0 && bytes > t.MaxStaging {
		return fedkv.Errorf(fedkv.CodeMemory, "the contributors' rows take %d MiB and %d MiB may be held; ask fewer devices or use a smaller --wire",
			bytes>>20, t.MaxStaging>>20)
	}
	return nil
}

// peers reports on everybody who was asked, with the tokens that they have in the settled stream.
func (g *gathering) peers() []PeerReport {
	g.x.mu.Lock()
	defer g.x.mu.Unlock()
	var list []PeerReport
	missing, relays := g.machine.Missing(), g.machine.Relays()
	for origin := range g.contacts {
		p := PeerReport{Origin: origin, Name: g.names[origin]}
		if link := g.links[origin]; link != nil {
			p.ID = link.ID()
		}
		if g.settled != nil {
			segment, _ := g.settled.Segment(origin)
			p.Tokens = segment.Tokens
		}
		p.Rows, p.Bytes = g.machine.Received(origin)
		p.Sources, p.Asked = g.machine.Sources(origin), g.terms.Question != "" && g.contacts[origin].ShareQuestion
		for _, r := range relays {
			if r.From == origin {
				p.Via = append(p.Via, Via{g.names[r.To], r.Bytes})
			}
		}
		if t := g.x.traffic[origin]; t != nil {
			p.PrefillMS = t.done.PrefillMS
			p.TransferMS = milliseconds(t.last.Sub(t.first))
			p.Layers = byLayer(t.layers)
		}
		for i := range missing {
			if missing[i].Origin == origin {
				p.Missing = &missing[i]
				p.Name = missing[i].Name
				p.SilentMS = milliseconds(g.x.silence[origin])
			}
		}
		list = append(list, p)
	}
	return list
}

// end ends the session for everybody. It may be called again.
func (g *gathering) end() {
	g.x.mu.Lock()
	g.x.send(g.machine.CloseMessages())
	g.x.mu.Unlock()
	g.x.flush(flushTimeout)
	g.x.close()
	g.x.mu.Lock()
	links, parted := slices.Clone(g.links), g.parted
	whole := g.x.failed == nil && g.settled != nil && g.terms.Schedules.Regime() == fedkv.Gather
	missing := g.machine.Missing()
	g.parted = true
	g.x.mu.Unlock()
	if parted { // links that are held may be in use again
		return
	}
	for origin, link := range links {
		if link == nil {
			continue
		}
		contact := g.contacts[origin]
		gone := slices.ContainsFunc(missing, func(m fedkv.Missing) bool { return m.Origin == origin })
		if whole && !gone && !contact.Home && contact.Held.put(link, g.welcomes[origin]) {
			continue
		}
		g.x.leave(link)
	}
}
