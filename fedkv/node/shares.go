package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fedattn/fedkv"
)

// ShareState is what became of a contributor in a conversation.
type ShareState uint8

// The states.
const (
	ShareComing    ShareState = iota // asked; its rows are on the way or wait for the next turn
	SharePresent                     // its rows are attended to
	ShareMissing                     // its rows did not come
	ShareWithdrawn                   // its rows were there, or were to come, and count no more
)

// String is the state as users read it.
func (s ShareState) String() string {
	return [...]string{"coming", "present", "missing", "withdrawn"}[s]
}

// Share is what one contributor has in a conversation.
type Share struct {
	Number int // counted from 0 in the order in which they were asked
	State  ShareState
	PeerReport
}

// share is a contributor's segment in a conversation.
type share struct {
	number, origin int // in the conversation, in its gathering
	contact        Contact
	gathering      *gathering // nil until it is asked
	withdrawn      bool
	present        bool // placed, or was before it was withdrawn
	earlier        bool // in an earlier turn
	masked         bool // it has no cells any more (lockstep)

	at, tokens int
	written    [][]int32 // rows that are there, by layer, ascending
}

// Add asks contributors who take part from the next turn on: their segments stand before what the user says in it. They
// are asked at once, unless rows are chosen by what the user says. The error is about the terms; who cannot be reached is
// named as missing by the next turn.
func (c *Conversation) Add(contacts ...Contact) error {
	begun := c.opening != nil
	switch {
	case begun && len(contacts) == 0:
		return nil
	case begun && c.chat.Schedules.Regime() == fedkv.Lockstep:
		return fedkv.Errorf(fedkv.CodePlan, "in lockstep nobody can join a conversation that has begun: start another one, or use gather")
	}
	list := make([]*share, len(contacts))
	for i, contact := range contacts {
		list[i] = &share{origin: i, contact: contact}
	}
	if (c.chat.Rows.Kind == fedkv.RowsQuery || c.choosing(contacts)) && len(contacts) > 0 {
		c.enlist(list)
		c.queried = append(c.queried, list)
		return nil
	}
	if err := c.gather(list); err != nil {
		return err
	}
	c.enlist(list)
	return nil
}

// choosing reports whether contributors are to choose passages by what the user says next.
func (c *Conversation) choosing(contacts []Contact) bool {
	return c.terms.Question == "" && slices.ContainsFunc(contacts, func(contact Contact) bool { return contact.ShareQuestion })
}

// enlist gives shares their numbers.
func (c *Conversation) enlist(list []*share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		s.number = len(c.shares)
		c.shares = append(c.shares, s)
	}
}

// takeBack withdraws those whose owners have asked for it, and asks them anew: what they still share joins this turn.
func (c *Conversation) takeBack() error {
	for number, s := range slices.Clone(c.shares) {
		if s.gathering == nil || s.withdrawn {
			continue
		}
		why, ok := s.gathering.takenBack(s.origin)
		if !ok {
			continue
		}
		s.gathering.x.mu.Lock()
		name := s.gathering.names[s.origin]
		s.gathering.x.mu.Unlock()
		if c.chat.Schedules.Regime() == fedkv.Lockstep {
			c.note(func(r *Report) {
				r.Notes = append(r.Notes, fmt.Sprintf("%s asks to forget its rows (%s), which lockstep cannot: begin anew", name, why))
			})
			continue
		}
		if err := c.Withdraw(number); err != nil {
			return err
		}
		c.note(func(r *Report) {
			r.Notes = append(r.Notes, fmt.Sprintf("%s took its rows back (%s) and is asked anew", name, why))
		})
		if err := c.Add(s.contact); err != nil {
			return err
		}
	}
	return nil
}

// gather asks contributors. The first time, the cache is opened as well when it is known how long their segments are.
func (c *Conversation) gather(list []*share) error {
	t := c.terms
	positions := c.chat.MaxContext - c.chat.Keep
	if c.opening != nil {
		// they stand behind all that is there, or comes before them
		t.MinPeers = 0
		positions += len(t.Prefix) - c.talk.next - c.talk.waiting() - len(c.chat.Between)
		positions = max(positions, len(t.Prefix)+c.own+1)
	}
	var contacts []Contact
	for _, s := range list {
		contacts = append(contacts, s.contact)
	}
	g, err := gather(c.live, &t, contacts, c.own, positions)
	if err != nil {
		return err
	}
	c.mu.Lock()
	for _, s := range list {
		s.gathering = g
	}
	c.mu.Unlock()
	c.joining = append(c.joining, joining{g, list})
	if c.opening == nil {
		o := &opening{done: make(chan struct{})}
		c.opening = o
		go func() {
			defer close(o.done)
			o.cache, o.spec, o.err = c.open(g)
		}()
	}
	return nil
}

// opening is the cache of a conversation, before it is taken over.
type opening struct {
	done  chan struct{} // closed when the rest is set
	cache Cache
	spec  fedkv.CacheSpec
	err   error
}

// open opens the cache as soon as the first participants are committed, and evaluates the prefix while they work.
func (c *Conversation) open(g *gathering) (cache Cache, spec fedkv.CacheSpec, err error) {
	live := g.x.live
	committed, err := g.awaitCommit(live)
	if err != nil {
		return nil, spec, err
	}
	spec = c.cells(committed)
	spec.Sync = g.agreed.Publisher
	if cache, err = c.chat.Engine.Open(spec); err != nil {
		return nil, spec, fmt.Errorf("a cache for %d tokens: %w", spec.SyncCells, err)
	}
	if err = c.prefix(live, cache, spec, len(committed.Segments) > 1, g.agreed); err != nil {
		err = errors.Join(err, cache.Close())
		return nil, spec, err
	}
	return cache, spec, nil
}

// prefix evaluates the prefix and checks that the rows of contributors, if there are any, can be placed behind it.
func (c *Conversation) prefix(ctx context.Context, cache Cache, spec fedkv.CacheSpec, contributors bool, agreed fedkv.Terms) error {
	if len(c.chat.Prefix) == 0 {
		return nil
	}
	_, err := evalPrefix(ctx, c.chat.Engine, cache, spec, c.chat.Prefix)
	if err != nil || !contributors {
		return err
	}
	if c.chat.Positions == fedkv.Canonical {
		if err := cache.CanShift(); err != nil {
			return fedkv.Errorf(fedkv.CodePlan, "%v; use --positions inplace", err)
		}
	}
	return canCentre(cache, agreed.Wire, agreed.Publisher)
}

// joining is a gathering whose rows are to be placed.
type joining struct {
	*gathering
	shares []*share // by origin
}

// settled is one whose rows are here.
type settled struct {
	joining
	layout fedkv.Layout
}

// span is how many positions the segments take, gaps included.
func (g settled) span() int {
	return g.layout.Segments[len(g.layout.Segments)-1].Offset - g.layout.Prefix
}

// settle waits for the cache and for the rows of everybody who joins.
func (c *Conversation) settle(ctx context.Context, words []fedkv.Token) ([]settled, error) {
	if c.failed != nil {
		return nil, c.failed
	}
	for len(c.queried) > 0 {
		if err := c.gather(c.queried[0]); err != nil {
			return nil, err
		}
		if c.chat.Rows.Kind != fedkv.RowsQuery {
			c.queried = c.queried[1:]
			continue
		}
		found, err := c.queries(ctx, words)
		if err != nil {
			return nil, c.broke(ctx, len(c.joining)-1, err)
		}
		_ = c.joining[len(c.joining)-1].x.step(fedkv.Queried{Layers: found}) // a refusal ends the gathering
		c.queried = c.queried[1:]
	}
	for i, g := range c.joining {
		both, done := g.with(ctx)
		committed, err := g.awaitCommit(both)
		done()
		if err == nil {
			err = g.checkStaging(committed)
		}
		if err != nil {
			return nil, c.broke(ctx, i, err)
		}
	}
	c.note(func(r *Report) { r.SetupMS = since(r.Started) })
	if err := c.takeOver(ctx); err != nil {
		return nil, err
	}
	waiting := time.Now()
	var list []settled
	for i, g := range c.joining {
		both, done := g.with(ctx)
		layout, err := g.awaitRows(both)
		done()
		if err != nil {
			return nil, c.broke(ctx, i, err)
		}
		list = append(list, settled{g, layout})
	}
	c.note(func(r *Report) { r.WaitMS = since(waiting) })
	return list, nil
}

// takeOver makes the opened cache the talk's, once.
func (c *Conversation) takeOver(ctx context.Context) error {
	select {
	case <-c.opening.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.opening.err != nil {
		return c.broke(ctx, 0, c.opening.err)
	}
	if c.talk.cache == nil {
		c.talk.cache, c.talk.sync, c.talk.local = c.opening.cache, c.opening.spec.Sync, c.opening.spec.LocalCells
	}
	return nil
}

// broke deals with the failure of a gathering, or of the conversation if it is the first one. A context that ended is no
// failure: the next turn goes on waiting.
func (c *Conversation) broke(ctx context.Context, i int, err error) error {
	if ctx.Err() != nil && c.live.Err() == nil {
		return err
	}
	if c.talk.cache == nil {
		c.failed = err
		return err
	}
	g := c.joining[i]
	g.x.stopped("the publisher", err)
	c.joining = slices.Delete(c.joining, i, i+1)
	c.farewell(g.gathering)
	return err
}

// farewell ends a gathering in the background.
func (c *Conversation) farewell(g *gathering) { c.ending.Go(g.end) }

// place evaluates what waits and the words, and others' rows in the middle of it: before everything that is said, or
// before the words.
func (c *Conversation) place(ctx context.Context, list []settled, words []fedkv.Token, outputs int) error {
	if len(list) == 0 {
		return c.talk.eval(ctx, words, outputs, nil)
	}
	if c.talk.done > 0 || len(c.talk.placed) > 0 {
		if err := c.talk.eval(ctx, nil, 0, nil); err != nil {
			return err
		}
	}
	base := c.talk.next
	var rows []*remote
	err := func() error {
		at := base
		for _, g := range list {
			r := c.remote(g, at-g.layout.Prefix)
			rows = append(rows, r)
			if at != g.layout.Prefix {
				if err := c.talk.cache.CanShift(); err != nil {
					return fedkv.Errorf(fedkv.CodePlan, "%v, so nobody can join a conversation that has begun: start another one", err)
				}
			}
			if err := r.reserve(c.talk.sync); err != nil {
				return err
			}
			at += g.span()
		}
		if at == base {
			return nil
		}
		c.talk.next = at
		return c.talk.cache.SetNext(at)
	}()
	if err == nil {
		err = c.enlistHome(list, rows)
	}
	if err == nil {
		err = c.evalWith(ctx, list, rows, words, outputs)
	}
	if err != nil {
		for _, g := range list {
			for _, s := range g.shares {
				c.asking.leave(s)
				s.written, s.masked = nil, false
			}
		}
		return undone(err, c.talk.truncate(base))
	}
	c.joining = nil
	for i, g := range list {
		there := append(slices.Clone(rows[i].segments), rows[i].home...)
		slices.SortFunc(there, func(a, b placement) int { return a.at - b.at })
		for _, p := range there {
			s := g.shares[p.origin]
			s.at, s.tokens = p.at, p.tokens
			s.masked = rows[i].hidden[p.origin]
			c.talk.placed = append(c.talk.placed, s)
			c.mu.Lock()
			s.present = true
			c.mu.Unlock()
		}
		g.x.mu.Lock()
		g.x.staged.clear()
		g.x.mu.Unlock()
		if c.linger || len(rows[i].home) > 0 {
			c.placed = append(c.placed, g.joining)
		} else {
			c.farewell(g.gathering)
		}
	}
	return nil
}

// remote is how a gathering's rows are placed, by so many positions behind where its layout has them.
func (c *Conversation) remote(g settled, by int) *remote {
	r := &remote{
		x: g.x, cache: c.talk.cache, wire: g.agreed.Wire, pending: g.machine.Pending, hidden: map[int]bool{},
		keep: true, done: map[int]bool{},
		placed: func(origin, layer int, at []int32) {
			s := g.shares[origin]
			for _, pos := range at {
				s.written[layer] = append(s.written[layer], pos-int32(s.at))
			}
		},
	}
	all, _ := earlier(g.layout, len(g.shares), g.machine.Shift)
	for _, p := range all {
		p.at, p.shift = p.at+by, p.shift+by
		s := g.shares[p.origin]
		if s.withdrawn {
			continue
		}
		s.at, s.written = p.at, make([][]int32, c.talk.sync.Len())
		if s.contact.Home {
			r.home = append(r.home, p)
			continue
		}
		r.segments = append(r.segments, p)
	}
	return r
}

// enlistHome makes those whose rows stay home part of attention.
func (c *Conversation) enlistHome(list []settled, rows []*remote) error {
	var members []*asked
	for i, g := range list {
		for _, p := range rows[i].home {
			g.x.mu.Lock()
			link := g.links[p.origin]
			g.x.mu.Unlock()
			members = append(members, &asked{share: g.shares[p.origin], link: link})
		}
	}
	if len(members) == 0 {
		return nil
	}
	c.asking.members = append(c.asking.members, members...)
	return c.shareAttention()
}

// evalWith evaluates with others' rows coming in.
func (c *Conversation) evalWith(ctx context.Context, list []settled, rows []*remote, words []fedkv.Token, outputs int) error {
	live := ctx
	for _, g := range list {
		var done context.CancelFunc
		live, done = g.with(live)
		defer done()
	}
	placing := time.Duration(0)
	layers := map[int]LayerReport{}
	err := c.talk.eval(live, words, outputs, &Hook{
		Layers: c.talk.sync,
		OnLayer: func(layer, _, _ int) (bool, error) {
			began, waited := time.Now(), time.Duration(0)
			defer func() {
				took := time.Since(began)
				placing += took
				l := layers[layer]
				layers[layer] = LayerReport{layer, l.WaitMS + milliseconds(waited), l.PlaceMS + milliseconds(took-waited)}
			}()
			for _, r := range rows {
				wait, err := r.await(live, layer)
				waited += wait
				if err != nil {
					return false, err
				}
			}
			return false, nil
		},
	})
	c.note(func(r *Report) { r.SyncMS, r.Layers = milliseconds(placing), byLayer(layers) })
	return err
}

// Withdraw takes a contributor's rows out of the conversation: no later token attends to them, and what was said after
// them is evaluated again, at the same positions, before the next turn, so that the conversation goes on as if the
// contributor had never been there. What was said stays said. In lockstep other contributors have computed with the rows,
// so that they cannot be taken back.
func (c *Conversation) Withdraw(number int) error {
	if number < 0 || number >= len(c.shares) {
		return fmt.Errorf("node: no share %d, the conversation has %d", number, len(c.shares))
	}
	s := c.shares[number]
	switch {
	case c.chat.Schedules.Regime() == fedkv.Lockstep:
		return fedkv.Errorf(fedkv.CodePlan, "in lockstep others have computed with these rows: start another conversation without them")
	case c.failed != nil:
		return c.failed
	case s.withdrawn:
		return nil
	}
	c.mu.Lock()
	s.withdrawn = true
	c.mu.Unlock()
	if err := c.talk.withdraw(s); err != nil {
		c.failed = undone(nil, err)
	}
	c.asking.leave(s)
	s.written = nil
	return c.failed
}

// Shares is everybody who was asked so far, those who are missing or withdrawn included.
func (c *Conversation) Shares() []Share {
	c.mu.Lock()
	all := slices.Clone(c.shares)
	c.mu.Unlock()
	reports := map[*gathering][]PeerReport{}
	var list []Share
	for _, s := range all {
		c.mu.Lock()
		number, g, present, withdrawn := s.number, s.gathering, s.present, s.withdrawn
		c.mu.Unlock()
		share := Share{Number: number, PeerReport: PeerReport{Origin: number, Name: s.contact.Name}}
		if g != nil {
			if reports[g] == nil {
				reports[g] = g.peers()
			}
			share.PeerReport = reports[g][s.origin]
			share.Origin = number
		}
		switch {
		case withdrawn:
			share.State = ShareWithdrawn
		case share.Missing != nil:
			share.State = ShareMissing
		case present:
			share.State = SharePresent
		}
		list = append(list, share)
	}
	return list
}

// begin is the report of a turn that begins.
func (c *Conversation) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report = Report{Started: time.Now(), Regime: c.chat.Schedules.Regime()}
	for _, s := range c.shares {
		s.earlier = s.present
	}
}

// note writes to the report.
func (c *Conversation) note(update func(r *Report)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	update(&c.report)
}
