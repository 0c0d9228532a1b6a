package fedkv

import (
	"fmt"
	"slices"
	"time"
)

// ContributorConfig is what a contributor's owner allows.
type ContributorConfig struct {
	Self       Hello  // what this device says of itself; its role is RoleContributor
	ID         string // of this device, as the publisher's link proves it
	Shape      Shape
	MaxTokens  int           // longest segment that the owner shares in one session; 0: no limit but MaxContext
	MaxContext int           // positions that this device can hold: prefix, in lockstep everybody before it, own
	MinLayer   int           // rows of earlier layers stay here
	HomeOnly   bool          // all rows stay here, and may answer queries
	Vocabulary int           // tokens of the vocabulary, which bounds the prefix's tokens; 0: the driver checks them
	MaxTime    time.Duration // longest session, whatever the plan says; 0: no limit
	Greeted    bool          // Hello and Welcome were exchanged on this link before
}

func (c *ContributorConfig) validate() error {
	return first(
		c.Self.validate(),
		check(c.Self.Role == RoleContributor, "this device says it is %v", c.Self.Role),
		checkName("id", c.ID, 1, MaxID),
		c.Shape.Validate(),
		check(c.MaxTokens >= 0 && c.MaxContext >= 1 && c.MinLayer >= 0 && c.Vocabulary >= 0, "a negative limit"),
	)
}

// Work is what a contributor computes in a session.
type Work struct {
	Layout    Layout
	Origin    int
	Segment   Segment // own
	Schedules Schedules
	Wire      Wire
	Rows      Selection // which rows of the segment are sent
	Queries   []Query   // what they are compared with, by layer, if Rows needs it; zero where no rows are sent
	Positions Positions
	Prefix    []Token
	Home      Type // not 0: rows are kept and answer queries; see Plan.Home. Sends says of which layers.

	// At is the position at which the segment is evaluated: len(Prefix) if canonical, else Segment.Offset.
	At int

	// Sync is the layers at which the segment attends to earlier contributors' rows; none for the first one.
	Sync Schedule

	// Sends is the layers whose rows go out: Blocks says which, and to whom. After the last of them is stored,
	// evaluation stops.
	Sends Schedule

	// Owes says that the publisher may ask for more rows of layers that are done, until it is done itself: whatever
	// holds the rows has to be kept, see Contributor.Owed.
	Owes bool

	// Waits is the layers at which all rows of earlier contributors have to be here, or given up, before
	// attention reads them: those of Sync before the last of Sends.
	Waits Schedule
}

// Outgoing is a block to send: of rows [First, First+Rows) of the segment those that Keep marks, to each of To.
type Outgoing struct {
	Header BlockHeader
	To     []int  // PublisherLink or later origins, ascending
	Keep   []bool // [Rows]; nil: all
}

// Positions lists where the block's rows stand, ascending, if the segment begins at offset.
func (o Outgoing) Positions(offset int) []int32 {
	at := Span(offset+o.Header.First, o.Header.Rows)
	if o.Keep == nil {
		return at
	}
	kept := at[:0]
	for i, pos := range at {
		if o.Keep[i] {
			kept = append(kept, pos)
		}
	}
	return kept
}

// JoinAnswer decides about a Joined event: the device is contributor Origin, or refused for Err. Every event
// has one answer.
type JoinAnswer struct {
	ID     string
	Origin int
	Err    error // nil: admitted; its blocks may be read now
}

// ContributorReady is what a contributor's driver has to do.
type ContributorReady struct {
	// Messages are to be sent in this order, after Dial.
	Messages []Outbound

	// Note is a sentence for the user, such as that the publisher's weights differ; empty if there is none.
	Note string

	// Tokenise is set once: tokenise the segment, at most Tokenise.MaxTokens tokens of it, and step Tokenised.
	// If the owner holds nothing for this session, or does not want to, step Stopped.
	Tokenise *Plan

	// Dial lists later contributors (lockstep) to open direct links to, each with Hello and Welcome and then
	// the Join that is among Messages. Who cannot be reached is reported as PeerDown.
	Dial []Participant

	// Paths lists later contributors that rows reach through the publisher: their blocks are to be sealed with the nonce
	// and sent to the publisher.
	Paths []Path

	// Vouched lists earlier contributors whose rows may come through the publisher, if the owner lets them: each is to be
	// answered with RelayTaken. Blocks of the publisher's link have to be taken before that.
	Vouched []Participant

	// Joins answers Joined events: at once, or those that came before the commit then.
	Joins []JoinAnswer

	// Start is set once, at the commit, or if rows are compared with queries when all of these are here: evaluate the
	// segment.
	Start *Work

	// Missing names earlier contributors (lockstep) whose rows will not come.
	Missing []Missing

	// Sent is set when all blocks are on their way and nothing is left to compute; again if rows were Owed since. The
	// link has to stay open.
	Sent bool

	// Owed is set when rows of layers that are done are to be sent: ask Contributor.Owed for them.
	Owed bool

	// Receipt is what the publisher used, if it says so.
	Receipt *Receipt

	// Finished is set once: the session is over for the publisher too, computing may stop and the link may be
	// closed.
	Finished bool

	// Failed is set once instead of Finished. It is an *Error.
	Failed error
}

// Contributor is the machine of a contributor, for one session of one publisher.
//
//	greeting   Hello; Welcome or Refuse
//	waiting    Plan, checked against shape, limits and what the owner allows
//	tokenising Tokenised; Ready
//	ready      Commit, checked against plan and own identity
//	working    the work starts, if rows are chosen by queries when these have come; rows come from earlier
//	           contributors and go to later ones and the publisher
//	sent       Done is said; the publisher's Receipt and Done come, or another Commit, and it works again
//	over       finished or failed
//
// The events it takes are Received, Tokenised, Joined, Unreachable, RelayTaken, PeerDown, BlockOffered, BlockIn,
// BlockSent, Tick and Stopped.
type Contributor struct {
	cfg   ContributorConfig
	now   time.Duration
	state contributorState
	ready ContributorReady

	plan      Plan
	most      int // tokens that plan, owner and context allow
	tokens    int
	start     time.Duration // when the plan came
	end       time.Duration // when the session's time is over
	work      Work
	roster    []Participant
	others    map[int]*other // contributors of the roster, by origin
	waiting   []Joined       // joins that came before the commit
	book      *Collector     // of rows of earlier contributors
	out       *Collector     // of own rows handed out by Blocks and Owed
	computed  []pieces       // own rows that Blocks was told of, by layer
	keep      [][]bool       // which of them were selected, by layer and row; nil: all, or nothing can be owed of it
	queries   []Query        // what came of them, by layer; nil if rows need none
	begun     bool           // Start was set, if it will be
	kept      bool           // rows that stay home are computed
	unsent    map[int]int    // blocks handed out and not sent yet, by recipient
	bytes     int64
	committed time.Duration // when evaluation began
	handed    time.Duration // when the last rows were handed out
}

// other is what a contributor knows of another one.
type other struct {
	joined  bool // its direct link, or its path through the publisher, is here (earlier ones)
	down    bool
	asked   bool // for a path through the publisher
	relayed bool // the path is open
}

type contributorState uint8

const (
	contributorGreeting contributorState = iota
	contributorWaiting
	contributorTokenising
	contributorReady
	contributorWorking
	contributorSent
	contributorOver
)

// NewContributor is the machine before its first message.
func NewContributor(cfg ContributorConfig) (*Contributor, error) {
	if err := cfg.validate(); err != nil {
		return nil, Errorf(CodePlan, "%v", err)
	}
	c := &Contributor{cfg: cfg, others: map[int]*other{}, unsent: map[int]int{}}
	if cfg.Greeted {
		c.state = contributorWaiting
	}
	return c, nil
}

// Step takes an event. As with Publisher.Step, an error says what was refused and why; the machine has drawn
// the consequences.
func (c *Contributor) Step(e Event) error {
	if c.state == contributorOver {
		if farewell(e) {
			return nil
		}
		if j, ok := e.(Joined); ok {
			return c.join(j)
		}
		return Errorf(CodeSession, "the session is over")
	}
	err := c.step(e)
	c.proceed()
	return err
}

func (c *Contributor) step(e Event) error {
	switch e := e.(type) {
	case Tick:
		c.tick(e.Now)
		return nil
	case Stopped:
		c.abort(cause(e.Code, e.Text, CodeCancelled))
		return nil
	case PeerDown:
		c.peerDown(e)
		return nil
	case Received:
		if e.From == PublisherLink {
			return c.receive(e.Message)
		}
		return c.receiveDirect(e.From, e.Message)
	case Tokenised:
		return c.tokenised(e.Count)
	case Described:
		return c.described(e.Sources)
	case Withdrawn:
		return c.withdrawn(e.Text)
	case Kept:
		if c.state != contributorWorking || c.plan.Home == 0 || c.kept {
			return Errorf(CodeOrder, "there are no rows to keep")
		}
		c.kept, c.handed = true, c.now
		return nil
	case Queued:
		if c.state < contributorTokenising || c.state > contributorWorking {
			return Errorf(CodeOrder, "there is nothing to wait for")
		}
		wait := min(max(e.Wait, 0), MaxDeadlineMS*time.Millisecond)
		c.send(PublisherLink, Waiting{c.plan.Session, min(max(e.Place, 1), MaxQueue), int(wait / time.Millisecond)})
		return nil
	case Joined:
		return c.join(e)
	case Unreachable:
		return c.unreachable(e)
	case RelayTaken:
		return c.taken(e)
	case BlockOffered:
		return c.block(e.From, e.Header, (*Collector).Offer)
	case BlockIn:
		return c.block(e.From, e.Header, (*Collector).Accept)
	case BlockSent:
		return c.blockSent(e)
	}
	return Errorf(CodeInternal, "a contributor takes no %T", e)
}

// Ready is what is to be done since the last Advance.
func (c *Contributor) Ready() ContributorReady { return c.ready }

// Advance says that the driver has taken over all that Ready returned.
func (c *Contributor) Advance() { c.ready = ContributorReady{} }

// Pending lists the earlier contributors whose rows of a layer are still to come, ascending. At each layer of
// Work.Waits the driver waits until it is empty; WaitBy, losses and the end of the session empty it too.
func (c *Contributor) Pending(layer int) []int {
	if c.state != contributorWorking {
		return nil
	}
	return c.book.Pending(layer)
}

// joinBy is when the grace ends.
func (c *Contributor) joinBy() time.Duration { return min(c.committed+joinGrace, c.WaitBy()) }

// WaitBy is until when rows of earlier contributors are waited for: whoever has not delivered everything then
// is given up. It lies before the session's deadline, further for earlier contributors, so that the chain
// behind one straggler still arrives in time.
func (c *Contributor) WaitBy() time.Duration {
	return waitBy(c.start, c.end, c.work.Layout.rank(c.work.Origin), len(c.work.Layout.Segments))
}

// Deadline is the time of the next Tick that changes something, or false if none would.
func (c *Contributor) Deadline() (time.Duration, bool) {
	switch c.state {
	case contributorTokenising, contributorReady:
		return c.end, true
	case contributorWorking:
		at := c.end
		for _, p := range c.earlier() {
			switch {
			case c.firstWaited(p.Origin) < 0:
			case !c.others[p.Origin].joined:
				at = min(at, c.joinBy())
			default:
				at = min(at, c.WaitBy())
			}
		}
		for _, o := range c.others {
			if o.waitsForPath() {
				at = min(at, c.relayBy())
			}
		}
		return at, true
	}
	return 0, false
}

// Blocks hands out the blocks for rows [first, first+rows) of the own segment at a layer, which have just been
// computed: of those that keep marks, nil for all, in order, as few as MaxBlock and the recipients' windows allow, and
// none for rows that are in nobody's window. It is the only source of headers, with Owed, so a contributor cannot
// send what the plan does not say: it fails with order unless Work was started, with range for layers or rows that
// nobody needs, and with duplicate for rows that it was told of before. Each block is to be sent to all of To and
// reported by one BlockSent for each; recipients that are down are left out, and if nobody is left, Ready may say Sent.
func (c *Contributor) Blocks(layer, first, rows int, keep []bool) ([]Outgoing, error) {
	if c.state != contributorWorking || !c.begun {
		return nil, Errorf(CodeOrder, "there is no work to send rows of")
	}
	if rows < 1 || first < 0 || first >= c.tokens || rows > c.tokens-first || !c.work.Sends.Sync(layer) {
		return nil, Errorf(CodeRange, "rows %d to %d of layer %d: the plan asks for rows 0 to %d of layers %v", first, first+rows-1, layer, c.tokens-1, c.work.Sends)
	}
	if keep != nil && len(keep) != rows {
		return nil, Errorf(CodeInternal, "%d of %d rows are selected or not", len(keep), rows)
	}
	made := piece{first, first + rows}
	if c.computed[layer].overlap(made) {
		return nil, Errorf(CodeDuplicate, "layer %d: rows %d to %d were handed out before", layer, first, made.end-1)
	}
	blocks, err := c.hand(layer, made, keep)
	if err != nil {
		return nil, err
	}
	c.computed[layer] = c.computed[layer].insert(made).merge()
	if keep != nil && c.work.Owes && c.cfg.Shape.Window(layer) > 0 {
		if c.keep[layer] == nil {
			c.keep[layer] = make([]bool, c.tokens)
		}
		copy(c.keep[layer][first:], keep)
	}
	c.proceed()
	return blocks, nil
}

// Owed hands out the blocks that another commit made necessary: when a participant is lost in gather with canonical
// positions, those behind it move up, and rows that were in nobody's window may come into the publisher's. They are
// rows that Blocks was told of; what holds for its blocks holds for these.
func (c *Contributor) Owed() ([]Outgoing, error) {
	if c.state != contributorWorking {
		return nil, Errorf(CodeOrder, "there is no work to send rows of")
	}
	var blocks []Outgoing
	for _, owed := range c.owed() {
		var keep []bool
		if all := c.keep[owed.layer]; all != nil {
			keep = all[owed.first:owed.end]
		}
		more, err := c.hand(owed.layer, owed.piece, keep)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, more...)
	}
	c.proceed()
	return blocks, nil
}

// layerPiece is some rows of a layer.
type layerPiece struct {
	layer int
	piece
}

// owed lists the rows that are computed and expected and were not handed out.
func (c *Contributor) owed() (list []layerPiece) {
	own := c.out.account(c.work.Origin)
	for _, l := range c.work.Sends.Layers() {
		for _, made := range c.computed[l] {
			for _, gap := range own.pages[l].here.gaps(max(made.first, own.pages[l].first), made.end) {
				list = append(list, layerPiece{l, gap})
			}
		}
	}
	return list
}

// hand cuts rows into blocks and books them. Where the recipients' windows begin at other rows, a block ends.
func (c *Contributor) hand(layer int, rows piece, keep []bool) ([]Outgoing, error) {
	shape, types := c.cfg.Shape.Layers[layer], c.work.Wire.At(layer)
	most, err := shape.MaxRows(types)
	if err != nil {
		return nil, err
	}
	needs := c.needs(layer)
	var blocks []Outgoing
	for next := rows.first; next < rows.end; {
		first, end := next, min(next+most, rows.end)
		to, needed := []int{}, false
		for _, n := range needs {
			switch {
			case n.first > first:
				end = min(end, n.first)
			case n.down:
				needed = true
			default:
				needed = true
				to = append(to, n.to)
			}
		}
		if next = end; !needed {
			continue
		}
		b := Outgoing{To: to, Header: BlockHeader{
			Session: c.plan.Session, Origin: c.work.Origin, Layer: layer, First: first, Rows: end - first, Kept: end - first, Types: types,
		}}
		if keep != nil {
			b.Keep = keep[first-rows.first : end-rows.first]
			b.Header.Kept = kept(b.Keep)
		}
		if b.Header, err = b.Header.Sized(shape); err != nil {
			return nil, err
		}
		if err := c.out.Check(c.work.Origin, b.Header); err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
	}
	for _, b := range blocks {
		if err := c.out.Accept(c.work.Origin, b.Header); err != nil {
			return nil, err
		}
		for _, to := range b.To {
			c.unsent[to]++
		}
	}
	c.handed = c.now
	return blocks, nil
}

// need is a recipient's: own rows from first on.
type need struct {
	to    int
	first int
	down  bool
}

// needs lists who needs own rows of a layer: the publisher, then later contributors, ascending.
func (c *Contributor) needs(layer int) []need {
	var list []need
	segments := c.work.Layout.Segments
	for _, rank := range c.work.Schedules.Recipients(c.work.Layout.rank(c.work.Origin), layer, len(segments)) {
		first := c.cfg.Shape.Layers[layer].FirstRow(c.work.Segment, segments[rank].Offset)
		if rank == len(segments)-1 {
			list = slices.Insert(list, 0, need{to: PublisherLink, first: first})
			continue
		}
		origin := segments[rank].Origin
		list = append(list, need{to: origin, first: first, down: c.others[origin].down})
	}
	return list
}

// firstNeeded is the first own row that anybody needs, by layer; the length of the segment where nobody does.
func (c *Contributor) firstNeeded() []int {
	first := make([]int, len(c.cfg.Shape.Layers))
	for l := range first {
		first[l] = c.tokens
		for _, n := range c.needs(l) {
			first[l] = min(first[l], n.first)
		}
	}
	return first
}

func (c *Contributor) receive(m Message) error {
	if ping, ok := m.(Ping); ok {
		if !ping.Reply {
			c.send(PublisherLink, Ping{ping.Nonce, true})
		}
		return nil
	}
	switch m := m.(type) {
	case Hello:
		if c.state != contributorGreeting {
			return c.violation(Errorf(CodeOrder, "hello came twice"))
		}
		return c.greet(m)
	case Refuse:
		c.fail(m.Err())
		return nil
	case Plan:
		if c.state != contributorWaiting {
			return c.violation(Errorf(CodeOrder, "plan came in the wrong place"))
		}
		return c.planned(m)
	case Commit:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		switch {
		case c.state == contributorReady:
			return c.commit(m)
		case c.state >= contributorWorking && c.work.Owes:
			return c.commitAgain(m)
		}
		return c.violation(Errorf(CodeOrder, "commit came in the wrong place"))
	case Queries:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		return c.queried(m)
	case Relay:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		return c.relay(m)
	case Abort:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		if c.state == contributorSent {
			c.finish()
			return nil
		}
		c.fail(m.Err())
		return nil
	case Receipt:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		c.ready.Receipt = &m
		return nil
	case Done:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		if c.state < contributorWorking {
			return c.violation(Errorf(CodeOrder, "done came before the session was committed"))
		}
		c.finish()
		return nil
	}
	return c.violation(Errorf(CodeOrder, "a publisher sends no %v", m.messageType()))
}

func (c *Contributor) greet(peer Hello) error {
	answer, err := Greet(c.cfg.Self, peer)
	if err == nil && peer.Role != RolePublisher {
		err = Errorf(CodeOrder, "a %v has no plan to send", peer.Role)
		answer = RefuseOf(err)
	}
	c.send(PublisherLink, answer)
	if err != nil {
		c.fail(err)
		return err
	}
	c.ready.Note = answer.(Welcome).Note
	c.state = contributorWaiting
	return nil
}

// planned checks a plan against this device's model and what its owner allows, and asks for the segment.
func (c *Contributor) planned(m Plan) error {
	c.plan = m
	c.start = c.now
	c.end = c.now + time.Duration(m.DeadlineMS)*time.Millisecond
	if c.cfg.MaxTime > 0 {
		c.end = min(c.end, c.now+c.cfg.MaxTime)
	}
	c.most = min(m.MaxTokens, c.cfg.MaxContext-len(m.Prefix))
	if c.cfg.MaxTokens > 0 {
		c.most = min(c.most, c.cfg.MaxTokens)
	}
	if err := c.suits(m); err != nil {
		return c.violation(err)
	}
	if c.most < 1 {
		return c.violation(Errorf(CodeTooLong, "the prefix of %d tokens leaves no room in a context of %d", len(m.Prefix), c.cfg.MaxContext))
	}
	plan := m
	plan.MaxTokens = c.most
	c.ready.Tokenise = &plan
	c.state = contributorTokenising
	return nil
}

// suits reports why this device cannot follow a plan, or may not.
func (c *Contributor) suits(m Plan) error {
	if err := m.validate(); err != nil {
		return Errorf(CodePlan, "%v", err)
	}
	if err := m.Schedules.Validate(len(c.cfg.Shape.Layers)); err != nil {
		return Errorf(CodePlan, "%v", err)
	}
	rows := m.Schedules.Contributors.union(m.Schedules.Publisher)
	if err := checkTypesOffered(c.cfg.Self, m.Wire, rows); err != nil {
		return err
	}
	if err := checkRows(c.cfg.Shape, m.Wire, rows); err != nil {
		return err
	}
	if m.Home != 0 {
		for _, l := range m.Schedules.Publisher.Layers() {
			if _, _, _, ok := c.cfg.Shape.Layers[l].HomeSizes(); !ok {
				return Errorf(CodePlan, "rows of layer %d cannot answer queries", l)
			}
		}
	} else if c.cfg.HomeOnly {
		return Errorf(CodeHome, "its owner trusts this device only with what stays home, and the plan asks for rows: ask with --schedule home")
	}
	if early := rows.Before(c.cfg.MinLayer); early.Count() > 0 {
		return Errorf(CodeForbidden, "the owner shares rows from layer %d on, the plan asks for layers %v", c.cfg.MinLayer, early)
	}
	for _, token := range m.Prefix {
		if c.cfg.Vocabulary > 0 && int(token) >= c.cfg.Vocabulary {
			return Errorf(CodePlan, "token %d of the prefix is outside the vocabulary of %d", token, c.cfg.Vocabulary)
		}
	}
	return nil
}

func (c *Contributor) tokenised(count int) error {
	if c.state != contributorTokenising {
		return Errorf(CodeOrder, "there is no plan to tokenise for")
	}
	if count < 1 || count > c.most {
		return c.violation(Errorf(CodeTooLong, "the segment has %d tokens, 1 to %d can be used", count, c.most))
	}
	c.tokens = count
	c.state = contributorReady
	c.send(PublisherLink, Ready{c.plan.Session, count})
	return nil
}

// commit checks that the roster is the one this device agreed to, and starts the work.
func (c *Contributor) commit(m Commit) error {
	layout := m.Layout()
	own, err := c.place(m, layout)
	if err == nil {
		err = c.narrow(m.Terms)
	}
	if err != nil {
		return c.violation(err)
	}
	n := len(layout.Segments)
	rank := layout.rank(c.plan.Origin)
	sync := c.plan.Schedules.Of(rank, n)
	if rank == 0 {
		sync = sync.Before(0) // nobody is before it
	}
	c.work = Work{
		Layout:    layout,
		Origin:    c.plan.Origin,
		Segment:   own,
		Schedules: c.plan.Schedules,
		Wire:      c.plan.Wire,
		Rows:      c.plan.Rows,
		Positions: c.plan.Positions,
		Prefix:    c.plan.Prefix,
		Home:      c.plan.Home,
		At:        own.Offset,
		Sync:      sync,
		Owes:      c.plan.Home == 0 && closesUp(c.plan.Positions, c.plan.Schedules, c.cfg.Shape),
	}
	if c.work.Positions == Canonical {
		c.work.At = len(c.work.Prefix)
	}
	c.roster = m.Roster
	for r, p := range m.Roster[:n-1] {
		if r != rank {
			c.others[p.Origin] = &other{}
		}
	}
	needed := c.firstNeeded()
	c.work.Sends = c.plan.Schedules.Sends(rank, n)
	if c.plan.Home != 0 {
		needed = slices.Repeat([]int{c.tokens}, len(c.cfg.Shape.Layers)) // nobody gets any
	} else if !c.work.Owes { // else any of its rows may be needed yet
		c.work.Sends = c.work.Sends.keep(func(l int) bool { return needed[l] < c.tokens })
	}
	c.work.Waits = sync.Before(c.work.Sends.Last())
	c.committed, c.handed = c.now, c.now
	c.state = contributorWorking

	// Shapes, types and token counts were checked with the plan and the roster, so that nothing can fail here.
	c.book = NewCollector(c.plan.Session, c.cfg.Shape, c.plan.Wire)
	c.out = NewCollector(c.plan.Session, c.cfg.Shape, c.plan.Wire)
	_ = c.out.Expect(c.work.Origin, c.tokens, c.work.Sends, needed)
	layers := len(c.cfg.Shape.Layers)
	c.computed, c.keep = make([]pieces, layers), make([][]bool, layers)
	for r, p := range m.Roster[:n-1] {
		switch {
		case r == rank || c.work.Schedules.Regime() == Gather:
		case r < rank:
			_ = c.book.Expect(p.Origin, p.Tokens, c.work.Sync, c.cfg.Shape.FirstRows(layout.Segments[r], own.Offset))
		default:
			c.ready.Dial = append(c.ready.Dial, p)
			c.send(p.Origin, Join{c.plan.Session, c.work.Origin})
		}
	}
	if c.work.Rows.NeedsQueries() && c.plan.Home == 0 {
		c.queries = make([]Query, layers)
	}
	c.begin()
	for _, j := range c.waiting {
		_ = c.admit(j, c.mayJoin(j)) // answered in Ready
	}
	c.waiting = nil
	return nil
}

// begin starts the work as soon as nothing is missing that it needs from the publisher.
func (c *Contributor) begin() {
	if c.begun || !c.hasQueries() {
		return
	}
	c.begun = true
	if c.work.Sends.Count() > 0 {
		work := c.work
		work.Queries = c.queries
		c.ready.Start = &work
	}
}

// hasQueries reports whether rows of all layers that are sent can be ranked.
func (c *Contributor) hasQueries() bool {
	for _, l := range c.work.Sends.Layers() {
		if c.queries != nil && c.queries[l].Heads == 0 {
			return false
		}
	}
	return true
}

// queried takes what the publisher looks for at some layers: each sync layer once, after the commit.
func (c *Contributor) queried(m Queries) error {
	if c.queries == nil {
		return c.violation(Errorf(CodeOrder, "queries came in the wrong place"))
	}
	layers := c.plan.Schedules.Any()
	for _, l := range m.Layers {
		if l.Layer >= layers.Len() || !layers.Sync(l.Layer) {
			return c.violation(Errorf(CodeRange, "queries of layer %d, the plan syncs at layers %v", l.Layer, layers))
		}
		if c.queries[l.Layer].Heads > 0 {
			return c.violation(Errorf(CodeDuplicate, "queries of layer %d came twice", l.Layer))
		}
		if err := fitsLayer(c.cfg.Shape, m.Heads, l); err != nil {
			return c.violation(err)
		}
		q := Query{m.Heads, make([]float32, len(l.Vectors)/2)}
		if err := F16.DecodeRows(q.Vectors, c.cfg.Shape.Layers[l.Layer].K, l.Vectors); err != nil {
			return c.violation(err)
		}
		c.queries[l.Layer] = q
	}
	c.begin()
	return nil
}

// closesUp reports whether rows may be needed only once somebody is lost: in gather with canonical positions the
// stream closes up where a lost participant's segment was, and the publisher's windows reach further.
func closesUp(positions Positions, s Schedules, shape Shape) bool {
	return positions == Canonical && shape.windowed(s.Publisher)
}

// commitAgain takes the roster without those who were lost since the last commit, and works out what is owed.
func (c *Contributor) commitAgain(m Commit) error {
	layout := m.Layout()
	own, err := c.place(m, layout)
	if err != nil {
		return c.violation(err)
	}
	if len(m.Roster) >= len(c.roster) {
		return c.violation(Errorf(CodePlan, "another commit loses nobody"))
	}
	for _, p := range m.Roster {
		i := slices.IndexFunc(c.roster, func(o Participant) bool { return o.Origin == p.Origin })
		if i < 0 || c.roster[i].ID != p.ID || c.roster[i].Tokens != p.Tokens {
			return c.violation(Errorf(CodePlan, "another commit has a participant %d that the one before has not", p.Origin))
		}
	}
	c.work.Layout, c.work.Segment, c.roster = layout, own, m.Roster
	c.out.Extend(c.work.Origin, c.firstNeeded())
	if c.state == contributorSent && !c.out.OriginComplete(c.work.Origin) {
		c.state = contributorWorking
	}
	c.ready.Owed = len(c.owed()) > 0
	return nil
}

// place finds the own segment in a roster. The publisher may place this device where it likes, but not
// change its number, its key, its tokens or the prefix.
func (c *Contributor) place(m Commit, layout Layout) (Segment, error) {
	if err := m.validate(); err != nil {
		return Segment{}, Errorf(CodePlan, "%v", err)
	}
	if m.Prefix != len(c.plan.Prefix) {
		return Segment{}, Errorf(CodePlan, "the plan has a prefix of %d tokens, the commit one of %d", len(c.plan.Prefix), m.Prefix)
	}
	rank := layout.rank(c.plan.Origin)
	if rank < 0 || rank == len(m.Roster)-1 {
		return Segment{}, Errorf(CodePlan, "this device is not among the contributors")
	}
	me := m.Roster[rank]
	if me.ID != c.cfg.ID {
		return Segment{}, Errorf(CodeForbidden, "contributor %d is another device", me.Origin)
	}
	if me.Tokens != c.tokens {
		return Segment{}, Errorf(CodePlan, "the segment has %d tokens, the commit says %d", c.tokens, me.Tokens)
	}
	own := layout.Segments[rank]
	if c.plan.Schedules.Regime() == Lockstep && own.End() > c.cfg.MaxContext {
		return Segment{}, Errorf(CodeTooLong, "%d tokens up to the end of this segment do not fit into a context of %d", own.End(), c.cfg.MaxContext)
	}
	return own, nil
}

// join decides about a direct link, or keeps it until the commit: an earlier contributor may have had its
// commit sooner.
func (c *Contributor) join(e Joined) error {
	switch {
	case c.state < contributorTokenising || c.state == contributorOver || e.Join.Session != c.plan.Session:
		return c.admit(e, Errorf(CodeSession, "there is no session %v here", e.Join.Session))
	case c.state >= contributorWorking:
		return c.admit(e, c.mayJoin(e))
	case len(c.waiting) >= MaxParticipants:
		return c.admit(e, Errorf(CodeBusy, "too many devices join"))
	}
	c.waiting = append(c.waiting, e)
	return nil
}

// admit answers a Joined event and returns the refusal.
func (c *Contributor) admit(e Joined, refusal error) error {
	if refusal == nil {
		c.others[e.Join.Origin].joined = true
	}
	c.ready.Joins = append(c.ready.Joins, JoinAnswer{e.ID, e.Join.Origin, refusal})
	return refusal
}

// mayJoin lets in only earlier contributors of the committed roster, each once and with the key that the
// roster names.
func (c *Contributor) mayJoin(e Joined) error {
	rank := c.work.Layout.rank(e.Join.Origin)
	switch {
	case c.work.Schedules.Regime() == Gather:
		return Errorf(CodeForbidden, "contributors do not meet in gather")
	case rank < 0 || rank >= c.work.Layout.rank(c.work.Origin):
		return Errorf(CodeForbidden, "%d is not an earlier contributor", e.Join.Origin)
	case c.roster[rank].ID != e.ID:
		return Errorf(CodeForbidden, "contributor %d is another device", e.Join.Origin)
	case c.others[e.Join.Origin].down:
		return Errorf(CodeLost, "the session goes on without contributor %d", e.Join.Origin)
	case c.others[e.Join.Origin].joined:
		return Errorf(CodeDuplicate, "contributor %d has joined", e.Join.Origin)
	}
	return nil
}

// receiveDirect takes a message of another contributor: over a direct link only a refusal or the end is said.
func (c *Contributor) receiveDirect(from int, m Message) error {
	if c.others[from] == nil {
		return Errorf(CodeForbidden, "%d is not a contributor of this session", from)
	}
	switch m := m.(type) {
	case Ping:
		if !m.Reply {
			c.send(from, Ping{m.Nonce, true})
		}
		return nil
	case Refuse:
		c.lose(from, m.Code, m.Err().Error())
		return nil
	case Abort:
		if err := c.inSession(m.Session); err != nil {
			return err
		}
		c.lose(from, m.Code, m.Err().Error())
		return nil
	case Done:
		return c.inSession(m.Session)
	}
	err := Errorf(CodeOrder, "a contributor sends no %v to another", m.messageType())
	c.lose(from, CodeOrder, err.Error())
	return err
}

func (c *Contributor) block(from int, h BlockHeader, take func(*Collector, int, BlockHeader) error) error {
	from, err := c.sealedFor(from, h)
	if err != nil {
		return err
	}
	o := c.others[from]
	if o == nil || !o.joined {
		return Errorf(CodeForbidden, "%d has not joined", from)
	}
	if c.state != contributorWorking {
		return Errorf(CodeLost, "no more rows are needed")
	}
	err = take(c.book, from, h)
	switch CodeOf(err) {
	case 0, CodeSession, CodeLost, CodeDuplicate:
		return err
	}
	c.lose(from, CodeOf(err), err.Error())
	return err
}

func (c *Contributor) blockSent(e BlockSent) error {
	if c.unsent[e.To] == 0 {
		if e.To != PublisherLink && c.others[e.To] != nil && c.others[e.To].down {
			return nil
		}
		return Errorf(CodeInternal, "no block was handed out for %d", e.To)
	}
	c.unsent[e.To]--
	c.bytes += int64(e.Header.Length)
	return nil
}

// proceed says Done once all rows are handed out and sent to all who are still there.
func (c *Contributor) proceed() {
	if c.state != contributorWorking || !c.out.OriginComplete(c.work.Origin) || !c.done() || c.plan.Home != 0 && !c.kept {
		return
	}
	for _, n := range c.unsent {
		if n > 0 {
			return
		}
	}
	c.state = contributorSent
	c.ready.Sent = true
	c.send(PublisherLink, Done{
		Session:    c.plan.Session,
		Rows:       c.out.Rows(c.work.Origin),
		Bytes:      c.bytes,
		PrefillMS:  milliseconds(c.handed - c.committed),
		TransferMS: milliseconds(c.now - c.handed),
	})
}

// done reports whether everything is computed that may be needed yet.
func (c *Contributor) done() bool {
	if c.work.Owes {
		for _, l := range c.work.Sends.Layers() {
			if !c.computed[l].cover(0, c.tokens) {
				return false
			}
		}
	}
	return true
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (c *Contributor) tick(now time.Duration) {
	c.now = max(c.now, now)
	if c.state == contributorWorking {
		for _, p := range c.earlier() {
			switch {
			case c.firstWaited(p.Origin) < 0:
			case c.now >= c.WaitBy():
				c.lose(p.Origin, CodeDeadline, fmt.Sprintf("its rows were not all here %v after the plan", c.WaitBy()-c.start))
			case c.now >= c.joinBy() && !c.others[p.Origin].joined:
				c.lose(p.Origin, CodeDeadline, fmt.Sprintf("it did not join within %v", joinGrace))
			}
		}
	}
	if c.state == contributorWorking && c.now >= c.relayBy() {
		for _, p := range c.roster {
			if o := c.others[p.Origin]; o != nil && o.waitsForPath() {
				c.lose(p.Origin, CodeDeadline, fmt.Sprintf("no direct link and no path through the publisher within %v", relayGrace))
			}
		}
	}
	if c.state == contributorWorking && !c.begun && c.now >= c.end {
		c.abort(Errorf(CodeDeadline, "the publisher's queries, which rows are chosen by, did not come within %v", c.end-c.start))
	}
	if c.state >= contributorTokenising && c.state <= contributorWorking && c.now >= c.end {
		c.abort(Errorf(CodeDeadline, "the rows were not all sent within %v", c.end-c.start))
	}
}

func (c *Contributor) peerDown(e PeerDown) {
	why := cause(e.Code, e.Text, CodeLost)
	if e.Origin != PublisherLink {
		c.lose(e.Origin, why.Code, why.Text)
		return
	}
	if c.state == contributorSent {
		c.finish()
		return
	}
	c.fail(&Error{why.Code, "the publisher is gone: " + why.Text})
}

// waitsForPath reports whether own rows wait for a path to a later contributor. An earlier one that asked is either
// answered at once or gone.
func (o *other) waitsForPath() bool { return o.asked && !o.relayed && !o.down }

// firstWaited is the first layer at which rows of a live earlier contributor are still waited for, or -1.
func (c *Contributor) firstWaited(origin int) int {
	if l := c.book.FirstPending(origin); l >= 0 && c.work.Waits.Sync(l) && !slices.Contains(c.book.Lost(), origin) {
		return l
	}
	return -1
}

// earlier is the roster's part before this device.
func (c *Contributor) earlier() []Participant { return c.roster[:c.work.Layout.rank(c.work.Origin)] }

// lose goes on without another contributor: an earlier one whose rows are not all here is missing, a later
// one gets no more.
func (c *Contributor) lose(origin int, code Code, text string) {
	o := c.others[origin]
	if o == nil || o.down {
		return
	}
	o.down = true
	delete(c.unsent, origin)
	if o.asked {
		c.endRelay(origin, &Error{code, text})
	}
	layer := c.firstWaited(origin)
	if layer < 0 {
		c.book.Lose(origin)
		return
	}
	phase := PhasePrefill
	if c.book.Rows(origin) > 0 {
		phase = PhaseTransfer
	}
	c.book.Lose(origin)
	name := c.roster[c.work.Layout.rank(origin)].Name
	c.ready.Missing = append(c.ready.Missing, Missing{origin, name, code, text, phase, layer})
}

// violation ends the session because of what the publisher or the driver asked for, and returns err.
func (c *Contributor) violation(err error) error {
	c.abort(err)
	return err
}

// abort says why and fails. Before a plan there is no session to abort, and closing the link says it.
func (c *Contributor) abort(err error) {
	if c.state == contributorGreeting {
		c.send(PublisherLink, RefuseOf(err))
	} else if c.plan.Session != (SessionID{}) {
		c.send(PublisherLink, AbortOf(c.plan.Session, err))
	}
	c.fail(err)
}

func (c *Contributor) fail(err error) {
	c.ready.Failed = err
	c.over()
}

func (c *Contributor) finish() {
	c.ready.Finished = true
	c.over()
}

// over ends everything here, joins that still wait for a commit included.
func (c *Contributor) over() {
	c.state = contributorOver
	for _, j := range c.waiting {
		_ = c.join(j) // answered in Ready
	}
	c.waiting = nil
}

func (c *Contributor) send(to int, m Message) {
	c.ready.Messages = append(c.ready.Messages, Outbound{to, m})
}

func (c *Contributor) inSession(id SessionID) error {
	if c.state < contributorTokenising || id != c.plan.Session {
		return Errorf(CodeSession, "there is no session %v here", id)
	}
	return nil
}
