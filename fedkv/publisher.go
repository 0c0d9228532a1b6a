package fedkv

import (
	"fmt"
	"slices"
	"time"
)

// PublisherConfig is what the publisher's owner wants.
type PublisherConfig struct {
	Session    SessionID
	Self       Hello  // what this device says of itself; its role is RolePublisher
	ID         string // of this device
	Shape      Shape
	Schedules  Schedules
	Wire       Wire
	Rows       RowPolicy // which rows of their segments contributors send
	Positions  Positions // InPlace in lockstep
	Prefix     []Token
	Own        int // tokens of the publisher's own segment, at least 1
	MaxContext int // positions that this device can hold at its sync layers: prefix, everybody's segments, own

	// Narrow, if set, is asked at the commit which part of the plan's publisher schedule and wire types the rows of so many
	// tokens may have, by origin, 0 for who is left out: gather only. Its error ends the session. It depends on nothing else.
	Narrow func(tokens []int) (Terms, error)

	// Home says whose rows stay where they are, by origin, shorter or nil where they are sent; HomeType is how queries and
	// outputs travel: F16 or Q8_0. Their segments take no room of MaxContext, but all positions are below MaxPositions.
	Home         []bool
	HomeType     Type
	MaxPositions int // 0: MaxContext

	// Question is told to those contributors for which ShareQuestion, by origin, is set, so that they choose passages by it.
	Question      string
	ShareQuestion []bool

	Contributors int      // devices asked: origins 0..Contributors-1; the publisher's origin is Contributors
	Names        []string // what the owner calls them, by origin; shorter or nil where unknown
	RequireAll   bool     // fail if anybody is missing
	MinPeers     int      // fail with fewer contributors than this

	SetupBy  time.Duration // who is not ready by then is left out
	GatherBy time.Duration // whose rows are not here by then is missing; at least SetupBy
}

func (c *PublisherConfig) validate() error {
	if err := first(
		c.Session.validate(),
		c.Self.validate(),
		check(c.Self.Role == RolePublisher, "this device says it is %v", c.Self.Role),
		checkName("id", c.ID, 1, MaxID),
		c.Shape.Validate(),
	); err != nil {
		return err
	}
	layers := c.Schedules.Contributors.union(c.Schedules.Publisher)
	if err := first(
		c.Schedules.Validate(len(c.Shape.Layers)),
		c.Wire.Validate(len(c.Shape.Layers)),
		checkTypesOffered(c.Self, c.Wire, layers),
		c.Rows.Validate(),
		check(c.Rows.Kind != RowsQuery || QueryVectors(c.Shape, layers) > 0,
			"the model's K rows are too long to be compared with queries; choose rows by norm or diverse"),
		check(len(c.Rows.Layers) == 0 || len(c.Rows.Layers) == len(c.Shape.Layers),
			"shares of rows for %d layers, the model has %d", len(c.Rows.Layers), len(c.Shape.Layers)),
	); err != nil {
		return err
	}
	return first(
		checkRows(c.Shape, c.Wire, layers),
		check(c.Positions == InPlace || c.Positions == Canonical && c.Schedules.Regime() == Gather,
			"%v positions in %v", c.Positions, c.Schedules.Regime()),
		check(c.Narrow == nil || c.Schedules.Regime() == Gather, "terms can be narrowed in gather only"),
		checkRange("prefix tokens", len(c.Prefix), 0, MaxPrefix),
		checkRange("own tokens", c.Own, 1, MaxTokens),
		checkRange("contributors", c.Contributors, 0, MaxParticipants-1),
		c.checkHome(layers),
		checkRange("bytes of the question", len(c.Question), 0, MaxQuestion),
		checkRange("least contributors", c.MinPeers, 0, c.Contributors),
		check(c.SetupBy >= 0 && c.GatherBy >= c.SetupBy, "rows are due at %v, before setup ends at %v", c.GatherBy, c.SetupBy),
		checkRange("deadline", int(min(c.GatherBy.Milliseconds(), MaxDeadlineMS+1)), 0, MaxDeadlineMS),
	)
}

// checkHome reports why rows cannot stay home if that is asked for.
func (c *PublisherConfig) checkHome(layers Schedule) error {
	if !slices.Contains(c.Home, true) {
		return nil
	}
	for _, l := range layers.Layers() {
		if _, _, _, ok := c.Shape.Layers[l].HomeSizes(); !ok {
			return fmt.Errorf("attention of this model cannot be shared, so that rows cannot stay home: use gather")
		}
	}
	return first(check(c.HomeType != 0, "no type of queries"), checkHome(c.HomeType, c.Schedules))
}

func (c *PublisherConfig) home(origin int) bool { return origin < len(c.Home) && c.Home[origin] }

// positions is how many tokens the contributors may have together, those whose rows stay home included.
func (c *PublisherConfig) positions() int {
	if c.MaxPositions == 0 {
		return c.room()
	}
	return min(c.MaxPositions, MaxTokens) - len(c.Prefix) - c.Own
}

// PublisherReady is what the publisher's driver has to do.
type PublisherReady struct {
	// Messages are to be sent in this order. What cannot be sent is reported as PeerDown.
	Messages []Outbound

	// Waiting is what contributors said about their queues, the latest of each.
	Waiting []QueuePlace

	// Notes are sentences for the user, such as that a contributor's weights differ.
	Notes []string

	// Committed is set once, when the participants are frozen: the token stream of those who are in.
	Committed *Layout

	// Settled is set once, when evaluation of the own segment may begin, and it is the stream to evaluate:
	// positions, and whose rows are to be placed. In gather all rows are here, and who did not deliver has
	// gone from it: as if never in if positions are canonical, with its positions left empty if rows were
	// evaluated in place, or if it went so late that the rows that come into windows when its place closes did not
	// come in time. In lockstep it comes with Committed.
	Settled *Layout

	// Missing names those who went missing, in the order in which they did.
	Missing []Missing

	// Withdrawn is what contributors take back of what they gave, in this session or an earlier one.
	Withdrawn []Withdrawal

	// Failed ends the session: too few are left for RequireAll or MinPeers, or Stopped. It is an *Error.
	Failed error
}

// QueuePlace says that a contributor serves others before this session.
type QueuePlace struct {
	Origin int
	Place  int           // 1: this session is the next
	Wait   time.Duration // as the contributor expects; 0: it does not know
}

// Publisher is the machine of the task publisher: it asks contributors, commits those who are ready, keeps
// the book of their rows, and names who is missing.
//
//	setup      Plan to whoever is up; Ready, or out
//	committed  frozen; rows come in
//	settled    the own segment may be evaluated; in lockstep, rows still come in
//	over       failed, or closed by CloseMessages
//
// The events it takes are PeerUp, PeerDown, Received, BlockOffered, BlockIn, Queried, Tick and Stopped.
type Publisher struct {
	cfg   PublisherConfig
	now   time.Duration
	state publisherState
	peers []peer
	book  *Collector
	ready PublisherReady

	narrowed *Terms // what the commit says beside the plan, or nil

	relays map[[2]int]*relayed // by from and to

	queries []Queries // for every contributor of the roster; nil before Queried

	committed, settled Layout
	missing            []Missing
}

type publisherState uint8

const (
	publisherSetup publisherState = iota
	publisherCommitted
	publisherSettled
	publisherOver
)

// peer is what the publisher knows of a contributor.
type peer struct {
	state    peerState
	name     string
	id, addr string
	most     int // tokens that its plan allows
	tokens   int // tokens it said Ready with
	linked   bool
	kept     bool // its rows stay home, and are ready
	sources  []Source

	withdrawn bool // its owner took back what it had sent
}

type peerState uint8

const (
	peerAbsent  peerState = iota // asked, not up yet
	peerPlanned                  // has its plan
	peerReady                    // said Ready
	peerIn                       // committed
	peerOut                      // refused, left out or lost
)

// NewPublisher is the machine at time 0. Its first Ready has the commit already if there is nobody to ask.
// The error is about the configuration and has code plan, types or too-long.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if err := cfg.validate(); err != nil {
		if code := CodeOf(err); code != CodeInternal {
			return nil, err
		}
		return nil, Errorf(CodePlan, "%v", err)
	}
	if room := cfg.room(); room < 0 {
		return nil, Errorf(CodeTooLong, "the prefix and the question have %d tokens, %d more than fit", len(cfg.Prefix)+cfg.Own, -room)
	}
	p := &Publisher{
		cfg:   cfg,
		peers: make([]peer, cfg.Contributors),
		book:  NewCollector(cfg.Session, cfg.Shape, cfg.Wire),
	}
	for i := range min(len(cfg.Names), len(p.peers)) {
		p.peers[i].name = cfg.Names[i]
	}
	p.proceed()
	return p, nil
}

// room is how many tokens the contributors may have together.
func (c *PublisherConfig) room() int {
	return min(c.MaxContext, MaxTokens) - len(c.Prefix) - c.Own
}

// Step takes an event. An error is about the event: the message or block in it was refused, with the code that
// says why, and nothing of it has been used. The machine has drawn the consequences (who breaks the plan is
// out, who is late or repeats itself is ignored); the driver need not do more than log it.
func (p *Publisher) Step(e Event) error {
	if p.state == publisherOver {
		if farewell(e) {
			return nil
		}
		return Errorf(CodeSession, "the session is over")
	}
	err := p.step(e)
	p.proceed()
	return err
}

func (p *Publisher) step(e Event) error {
	switch e := e.(type) {
	case Tick:
		p.tick(e.Now)
		return nil
	case Stopped:
		p.fail(cause(e.Code, e.Text, CodeCancelled))
		return nil
	case PeerUp:
		return p.peerUp(e)
	case PeerDown:
		return p.peerDown(e)
	case Received:
		return p.receive(e.From, e.Message)
	case BlockOffered:
		return p.block(e.From, e.Header, (*Collector).Offer)
	case BlockIn:
		return p.block(e.From, e.Header, (*Collector).Accept)
	case Queried:
		return p.queried(e)
	}
	return Errorf(CodeInternal, "a publisher takes no %T", e)
}

// Ready is what is to be done since the last Advance.
func (p *Publisher) Ready() PublisherReady { return p.ready }

// Advance says that the driver has taken over all that Ready returned.
func (p *Publisher) Advance() { p.ready = PublisherReady{} }

// Pending lists the contributors whose rows of a layer are still to come, ascending. In lockstep the driver
// waits inside the layer until it is empty; deadlines and losses empty it too.
func (p *Publisher) Pending(layer int) []int { return p.book.Pending(layer) }

// Shift is by how many positions the K rows of an origin must be rotated when they are placed in the settled
// stream: 0 for rows that were evaluated in place.
func (p *Publisher) Shift(origin int) int {
	to, ok := p.settled.Segment(origin)
	if !ok || p.cfg.Positions == InPlace {
		return 0
	}
	return to.Offset - p.settled.Prefix
}

// Missing lists all who are missing so far, by origin.
func (p *Publisher) Missing() []Missing {
	var list []Missing
	for origin := range p.peers {
		for _, m := range p.missing {
			if m.Origin == origin {
				list = append(list, m)
			}
		}
	}
	return list
}

// Received counts what has been accepted from an origin: rows over all layers, and payload bytes.
func (p *Publisher) Received(origin int) (rows int, bytes int64) {
	return p.book.Rows(origin), p.book.Bytes(origin)
}

// Deadline is the time of the next Tick that changes something, or false if none would.
func (p *Publisher) Deadline() (time.Duration, bool) {
	switch {
	case p.state == publisherSetup:
		return p.cfg.SetupBy, true
	case p.state != publisherOver && !p.complete():
		return p.cfg.GatherBy, true
	}
	return 0, false
}

// CloseMessages ends the session and lists what remains to be sent: to each contributor that delivered a
// Receipt and Done, or to whoever still takes part an Abort if the rows never settled. A failed session has
// said its Aborts before. The second call lists nothing.
func (p *Publisher) CloseMessages() []Outbound {
	if p.state == publisherOver {
		return nil
	}
	if p.state != publisherSettled {
		return p.abortAll(&Error{Code: CodeCancelled})
	}
	var rows int
	var bytes int64
	var missing []int
	for origin := range p.peers {
		rows += p.book.Rows(origin)
		bytes += p.book.Bytes(origin)
	}
	for _, m := range p.Missing() {
		missing = append(missing, m.Origin)
	}
	var out []Outbound
	for origin, peer := range p.peers {
		if peer.state != peerIn || !peer.linked {
			continue
		}
		s, _ := p.settled.Segment(origin)
		out = append(out,
			Outbound{origin, Receipt{p.cfg.Session, s.Tokens, p.book.layersComplete(origin), p.book.Bytes(origin), missing}},
			Outbound{origin, Done{Session: p.cfg.Session, Rows: rows, Bytes: bytes}})
	}
	p.state = publisherOver
	return out
}

func (p *Publisher) peerUp(e PeerUp) error {
	peer, err := p.peer(e.Origin)
	if err != nil {
		return err
	}
	if peer.state == peerOut {
		peer.linked = true
		err := Errorf(CodeDeadline, "the session goes on without this device")
		p.send(e.Origin, AbortOf(p.cfg.Session, err))
		return err
	}
	if peer.state != peerAbsent {
		return Errorf(CodeOrder, "contributor %d is up already", e.Origin)
	}
	hello := e.Welcome.Hello()
	peer.id, peer.addr, peer.linked = e.ID, e.Addr, true
	if err := first(hello.validate(), checkName("id", e.ID, 1, MaxID), checkName("address", e.Addr, 0, MaxAddr)); err != nil {
		return p.violation(e.Origin, Errorf(CodeProtocol, "%v", err))
	}
	if checkName("name", hello.Name, 1, MaxName) == nil { // unchecked so far if it speaks another protocol
		peer.name = hello.Name
	}
	if err := p.suits(hello); err != nil {
		return p.violation(e.Origin, err)
	}
	peer.most = min(p.cfg.room(), MaxTokens)
	if p.cfg.home(e.Origin) {
		peer.most = min(p.cfg.positions(), MaxTokens)
	}
	if peer.most < 1 {
		p.out(e.Origin, CodeTooLong, "the context is full with the prefix and the question", true)
		return nil
	}
	peer.state = peerPlanned
	if note := weightsNote(p.cfg.Self, hello); note != "" {
		p.ready.Notes = append(p.ready.Notes, note)
	}
	p.send(e.Origin, Plan{
		Session:    p.cfg.Session,
		Origin:     e.Origin,
		Schedules:  p.cfg.Schedules,
		Wire:       p.cfg.Wire,
		Rows:       p.cfg.Rows.Of(e.Origin),
		Positions:  p.cfg.Positions,
		Prefix:     p.cfg.Prefix,
		MaxTokens:  peer.most,
		DeadlineMS: int(max(1, (p.cfg.GatherBy - p.now).Milliseconds())),
		Home:       p.homeType(e.Origin),
		Question:   p.question(e.Origin),
		Budget:     p.budget(peer.most),
	})
	return nil
}

// homeType is 0 for contributors whose rows are sent.
func (p *Publisher) homeType(origin int) Type {
	if p.cfg.home(origin) {
		return p.cfg.HomeType
	}
	return 0
}

// question is what a contributor may choose its passages by.
func (p *Publisher) question(origin int) string {
	if origin < len(p.cfg.ShareQuestion) && p.cfg.ShareQuestion[origin] {
		return p.cfg.Question
	}
	return ""
}

// budget is a contributor's part of the room, if all had as much; who cannot choose what it shares may take all of it.
func (p *Publisher) budget(most int) int {
	if len(p.peers) == 1 {
		return 0
	}
	return max(1, most/len(p.peers))
}

// suits reports why a device cannot contribute to this session.
func (p *Publisher) suits(hello Hello) error {
	if err := p.cfg.Self.Compatible(hello); err != nil {
		return err
	}
	if hello.Role != RoleContributor {
		return Errorf(CodeProtocol, "the peer says it is %v", hello.Role)
	}
	return checkTypesOffered(hello, p.cfg.Wire, p.cfg.Schedules.Contributors.union(p.cfg.Schedules.Publisher))
}

func (p *Publisher) peerDown(e PeerDown) error {
	peer, err := p.peer(e.Origin)
	if err != nil {
		return err
	}
	peer.linked = false
	why := cause(e.Code, e.Text, CodeLost)
	p.endRelays(e.Origin, why)
	p.out(e.Origin, why.Code, why.Text, false)
	return nil
}

func (p *Publisher) receive(from int, m Message) error {
	peer, err := p.peer(from)
	if err != nil {
		return err
	}
	if ping, ok := m.(Ping); ok {
		if !ping.Reply {
			p.send(from, Ping{ping.Nonce, true})
		}
		return nil
	}
	if peer.state == peerOut {
		if farewell(Received{from, m}) {
			return nil
		}
		return Errorf(CodeLost, "the session goes on without contributor %d", from)
	}
	switch m := m.(type) {
	case Refuse:
		p.out(from, m.Code, m.Err().Error(), false)
		return nil
	case Abort:
		if err := p.inSession(m.Session); err != nil {
			return err
		}
		p.out(from, m.Code, m.Err().Error(), false)
		return nil
	case Ready:
		if err := p.inSession(m.Session); err != nil {
			return err
		}
		if peer.state != peerPlanned {
			return p.violation(from, Errorf(CodeOrder, "ready came in the wrong place"))
		}
		if m.Tokens < 1 || m.Tokens > peer.most {
			return p.violation(from, Errorf(CodeTooLong, "its segment has %d tokens, the plan allows 1 to %d", m.Tokens, peer.most))
		}
		peer.state, peer.tokens = peerReady, m.Tokens
		return nil
	case Done:
		// Blocks have streams of their own and may come after it, so Done proves nothing and is not waited for.
		if err := p.inSession(m.Session); err != nil {
			return err
		}
		if peer.state != peerIn {
			return p.violation(from, Errorf(CodeOrder, "done came before the session was committed"))
		}
		peer.kept = p.cfg.home(from) // then it says that the rows are ready
		return nil
	case Waiting:
		if err := p.inSession(m.Session); err != nil {
			return err
		}
		if peer.state == peerAbsent {
			return p.violation(from, Errorf(CodeOrder, "waiting came before the plan"))
		}
		p.ready.Waiting = slices.DeleteFunc(p.ready.Waiting, func(q QueuePlace) bool { return q.Origin == from })
		p.ready.Waiting = append(p.ready.Waiting, QueuePlace{from, m.Place, m.Wait()})
		return nil
	case Sources:
		return p.sourced(from, m)
	case Withdraw:
		p.withdraw(from, m)
		return nil
	case Relay:
		return p.relay(from, m)
	}
	return p.violation(from, Errorf(CodeOrder, "a contributor sends no %v", m.messageType()))
}

// proceed commits as soon as nobody is left to wait for, and settles as soon as no row is.
func (p *Publisher) proceed() {
	if p.state == publisherSetup {
		for i := range p.peers {
			if s := p.peers[i].state; s == peerAbsent || s == peerPlanned {
				return
			}
		}
		p.commit()
	}
	if p.state == publisherCommitted && (p.cfg.Schedules.Regime() == Lockstep || p.complete()) {
		p.settle()
	}
}

// delivered reports whether a contributor of the roster has done what the evaluation waits for.
func (p *Publisher) delivered(origin int) bool {
	return p.book.OriginComplete(origin) && (p.peers[origin].kept || !p.cfg.home(origin))
}

// complete reports whether nobody is waited for.
func (p *Publisher) complete() bool {
	for origin := range p.peers {
		if p.peers[origin].state == peerIn && !p.delivered(origin) {
			return false
		}
	}
	return p.book.Complete()
}

// commit freezes the participants. Contributors that do not fit beside those before them are refused, the
// last first.
func (p *Publisher) commit() {
	used, all := 0, 0 // tokens whose rows come; everybody's
	for i := range p.peers {
		switch {
		case p.peers[i].state != peerReady:
		case p.cfg.home(i):
			all += p.peers[i].tokens
		default:
			used, all = used+p.peers[i].tokens, all+p.peers[i].tokens
		}
	}
	room := p.cfg.room()
	for origin := len(p.peers) - 1; origin >= 0 && all > p.cfg.positions(); origin-- {
		if p.peers[origin].state != peerReady || !p.cfg.home(origin) {
			continue
		}
		all -= p.peers[origin].tokens
		p.out(origin, CodeTooLong, fmt.Sprintf("its %d tokens do not fit: there are positions for %d of all contributors", p.peers[origin].tokens, p.cfg.positions()), true)
		if p.state == publisherOver {
			return
		}
	}
	for origin := len(p.peers) - 1; origin >= 0 && used > room; origin-- {
		if p.peers[origin].state != peerReady || p.cfg.home(origin) {
			continue
		}
		used -= p.peers[origin].tokens
		p.out(origin, CodeTooLong, fmt.Sprintf("its %d tokens do not fit: the context has room for %d of all contributors", p.peers[origin].tokens, room), true)
		if p.state == publisherOver {
			return
		}
	}

	n := len(p.peers)
	var segments []Segment
	for origin := range p.peers {
		if peer := &p.peers[origin]; peer.state == peerReady {
			peer.state = peerIn
			segments = append(segments, Segment{Origin: origin, Tokens: peer.tokens})
		}
	}
	p.committed = place(len(p.cfg.Prefix), append(segments, Segment{Origin: n, Tokens: p.cfg.Own}))
	if p.narrow(); p.state == publisherOver {
		return
	}
	p.state = publisherCommitted

	roster := p.roster(p.committed)
	for _, s := range p.committed.Segments[:len(roster)-1] {
		// The shapes, types and tokens were checked when they came in, so that nothing can fail here.
		_ = p.book.Expect(s.Origin, s.Tokens, p.cfg.Schedules.Publisher, p.firstNeeded(p.committed, s.Origin))
		p.send(s.Origin, Commit{p.cfg.Session, p.committed.Prefix, roster, p.narrowed})
		p.sendQueries(s.Origin)
	}
	layout := p.committed
	p.ready.Committed = &layout
}

// queried takes the queries and sends them to those who wait for them.
func (p *Publisher) queried(e Queried) error {
	if p.cfg.Rows.Kind != RowsQuery || p.queries != nil {
		return Errorf(CodeOrder, "nobody waits for queries")
	}
	layers := p.cfg.Schedules.Any()
	list, err := queryMessages(p.cfg.Session, p.cfg.Shape, layers, e.Layers)
	if err != nil {
		p.fail(err)
		return err
	}
	p.queries = list
	for origin := range p.peers {
		if p.peers[origin].state == peerIn {
			p.sendQueries(origin)
		}
	}
	return nil
}

func (p *Publisher) sendQueries(origin int) {
	for _, m := range p.queries {
		p.send(origin, m)
	}
}

// roster is a layout with everybody's identity.
func (p *Publisher) roster(l Layout) []Participant {
	n := len(p.peers)
	roster := make([]Participant, len(l.Segments))
	for rank, s := range l.Segments {
		roster[rank] = Participant{Origin: s.Origin, ID: p.cfg.ID, Name: p.cfg.Self.Name, Offset: s.Offset, Tokens: s.Tokens}
		if s.Origin == n {
			continue
		}
		peer := &p.peers[s.Origin]
		roster[rank].ID, roster[rank].Name = peer.id, peer.name
		if rank > 0 && p.cfg.Schedules.Regime() == Lockstep {
			roster[rank].Addr = peer.addr // earlier contributors dial it; otherwise nobody needs to know
		}
	}
	return roster
}

// firstNeeded is the first row of a contributor that the publisher's windows reach, by layer, if it stands in this
// layout.
func (p *Publisher) firstNeeded(l Layout, origin int) []int {
	s, _ := l.Segment(origin)
	if p.cfg.home(origin) {
		return slices.Repeat([]int{s.Tokens}, len(p.cfg.Shape.Layers)) // none of them
	}
	return p.cfg.Shape.FirstRows(s, l.Segments[len(l.Segments)-1].Offset)
}

// closeUp asks for the rows that come into the publisher's windows when the stream closes up where the lost were.
// Whoever has left and owes some is lost too. Once the time for rows is over, nothing more is asked for.
func (p *Publisher) closeUp() {
	if p.state != publisherCommitted || p.now >= p.cfg.GatherBy || !closesUp(p.cfg.Positions, p.cfg.Schedules, p.cfg.Shape) {
		return
	}
	l := p.committed.Without(p.book.Lost()...)
	contributors := l.Segments[:len(l.Segments)-1]
	for _, s := range contributors {
		if !p.peers[s.Origin].linked && !p.book.Has(s.Origin, p.firstNeeded(l, s.Origin)) {
			p.book.Extend(s.Origin, p.firstNeeded(l, s.Origin))
			p.out(s.Origin, CodeLost, "it had left when another was lost and more of its rows were needed", false)
			return // which closed up
		}
	}
	for _, s := range contributors {
		first := p.firstNeeded(l, s.Origin)
		if p.book.expects(s.Origin, first) {
			continue
		}
		p.book.Extend(s.Origin, first)
		p.send(s.Origin, Commit{p.cfg.Session, l.Prefix, p.roster(l), p.narrowed})
	}
}

// block takes a block's header through the book, by Offer or by Accept. Late, repeated and foreign blocks are
// dropped; a block that contradicts the plan ends its sender's part.
func (p *Publisher) block(from int, h BlockHeader, take func(*Collector, int, BlockHeader) error) error {
	if _, err := p.peer(from); err != nil {
		return err
	}
	if h.Seal.Sealed {
		return p.relayBlock(from, h, take)
	}
	err := take(p.book, from, h)
	switch CodeOf(err) {
	case 0:
		return nil
	case CodeSession, CodeLost, CodeDuplicate:
		return err
	}
	if p.peers[from].state == peerOut {
		return Errorf(CodeLost, "the session goes on without contributor %d", from)
	}
	return p.violation(from, err)
}

func (p *Publisher) settle() {
	p.settled = p.committed
	switch {
	case p.cfg.Schedules.Regime() == Lockstep: // whoever is lost from now on is masked where it stands
	case p.cfg.Positions == Canonical && p.closed():
		p.settled = p.committed.Without(p.book.Lost()...)
	default:
		p.settled = p.committed.Vacate(p.book.Lost()...)
	}
	p.state = publisherSettled
	layout := p.settled
	p.ready.Settled = &layout
}

// closed reports whether all rows are here that the stream needs when it closes up.
func (p *Publisher) closed() bool {
	l := p.committed.Without(p.book.Lost()...)
	for _, s := range l.Segments[:len(l.Segments)-1] {
		if !p.book.Has(s.Origin, p.firstNeeded(l, s.Origin)) {
			return false
		}
	}
	return true
}

func (p *Publisher) tick(now time.Duration) {
	p.now = max(p.now, now)
	if p.state == publisherSetup && p.now >= p.cfg.SetupBy {
		for origin := range p.peers {
			switch p.peers[origin].state {
			case peerAbsent:
				p.out(origin, CodeDeadline, fmt.Sprintf("no connection within %v", p.cfg.SetupBy), true)
			case peerPlanned:
				p.out(origin, CodeDeadline, fmt.Sprintf("not ready within %v", p.cfg.SetupBy), true)
			}
		}
	}
	p.proceed()
	if p.state != publisherOver && p.now >= p.cfg.GatherBy {
		for origin := range p.peers {
			if p.state == publisherCommitted {
				p.book.Retract(origin) // rows that are owed are nobody's fault
			}
			if p.peers[origin].state == peerIn && !p.delivered(origin) {
				p.out(origin, CodeDeadline, fmt.Sprintf("its rows were not all here within %v", p.cfg.GatherBy), true)
			}
		}
	}
}

// violation ends a contributor's part because of what it sent, and returns err.
func (p *Publisher) violation(origin int, err error) error {
	p.out(origin, CodeOf(err), err.Error(), true)
	return err
}

// out ends a contributor's part and says so to it if tell is set. Somebody whose rows are all here has done
// that part and is not missing.
func (p *Publisher) out(origin int, code Code, text string, tell bool) {
	peer := &p.peers[origin]
	if peer.state == peerOut || p.state == publisherOver {
		return
	}
	m := Missing{Origin: origin, Name: peer.name, Code: code, Text: text, Phase: PhaseConnect, Layer: -1}
	committed := peer.state == peerIn
	if tell { // it gets an abort, and does nothing for others either
		p.endRelays(origin, &Error{code, text})
	}
	switch {
	case committed && p.delivered(origin) && !p.cfg.home(origin) && !peer.withdrawn:
		return
	case peer.withdrawn:
		m.Phase = PhaseSetup
		p.book.Lose(origin)
	case committed:
		m.Phase, m.Layer = PhasePrefill, p.book.FirstPending(origin)
		switch {
		case p.book.Rows(origin) > 0:
			m.Phase = PhaseTransfer
		case peer.kept:
			m.Phase = PhaseAnswer
		}
		p.book.Lose(origin)
	case peer.state != peerAbsent:
		m.Phase = PhaseSetup
	}
	peer.state = peerOut
	p.missing = append(p.missing, m)
	p.ready.Missing = append(p.ready.Missing, m)
	if tell {
		p.send(origin, AbortOf(p.cfg.Session, &Error{code, text}))
	}

	live := 0
	for i := range p.peers {
		if p.peers[i].state != peerOut {
			live++
		}
	}
	switch {
	case p.cfg.RequireAll:
		p.fail(m.err())
	case live < p.cfg.MinPeers:
		p.fail(Errorf(code, "%d of the %d contributors that are needed are left: %v", live, p.cfg.MinPeers, m))
	case committed:
		p.closeUp()
	}
}

// fail ends the session for everybody.
func (p *Publisher) fail(err error) {
	p.ready.Failed = err
	p.ready.Messages = append(p.ready.Messages, p.abortAll(err)...)
}

// abortAll tells everybody who still takes part that the session is over.
func (p *Publisher) abortAll(err error) []Outbound {
	var out []Outbound
	for origin, peer := range p.peers {
		if peer.state != peerOut && peer.linked {
			out = append(out, Outbound{origin, AbortOf(p.cfg.Session, err)})
		}
	}
	p.state = publisherOver
	return out
}

func (p *Publisher) send(to int, m Message) {
	if p.peers[to].linked {
		p.ready.Messages = append(p.ready.Messages, Outbound{to, m})
	}
}

func (p *Publisher) peer(origin int) (*peer, error) {
	if origin < 0 || origin >= len(p.peers) {
		return nil, Errorf(CodeForbidden, "there is no contributor %d", origin)
	}
	return &p.peers[origin], nil
}

func (p *Publisher) inSession(id SessionID) error {
	if id != p.cfg.Session {
		return Errorf(CodeSession, "a message of session %v in session %v", id, p.cfg.Session)
	}
	return nil
}
