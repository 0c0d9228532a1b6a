package fedkv

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Two contributors of a lockstep session that cannot reach each other exchange rows through the publisher, which
// reaches both:
//
//	contributor n             publisher             contributor m > n
//	   │ ── relay ask ─────────── │ ──────────────────────▶ │  may n's rows come here?
//	   │ ◀─────────────────────── │ ──── relay open, nonce ─ │
//	   │ ══ sealed block ════════ │ ══════════════════════▶ │
//	   │ ── relay end ─────────── │ ──────────────────────▶ │  from either of the three, with the reason
//
// A sealed block is a block with a seal before its header: whom it is for, the owner's key, and the owner's signature
// over the recipient's nonce, the header and the payload. So the publisher can drop blocks, as it can drop anything, but
// neither make nor change one, nor bring one again from another session: the nonce is new in each.

// SealSize is the bytes of a seal, which stands before the header of a sealed block.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	| magic "fkvr"                                                  |  0
//	+-------------------------------+-------------------------------+
//	| version (1)                   | to                            |  4
//	+-------------------------------+-------------------------------+
//	| Ed25519 public key of the rows' owner, 32 bytes               |  8
//	+---------------------------------------------------------------+
//	| its signature, 64 bytes                                       | 40
//	+---------------------------------------------------------------+
const SealSize = 104

const (
	sealMagic   = "fkvr"
	sealVersion = 1
	sealPurpose = "fedattn relayed block\x00"
)

// Nonce is what a recipient adds to the signatures that it wants: random, and never all zero.
type Nonce [16]byte

// Seal is what lets a block go through the publisher. The zero value is a block that does not: it comes over its
// owner's own link, which proves whose it is.
type Seal struct {
	Sealed    bool
	To        int      // the contributor that it is for
	Key       [32]byte // Ed25519, of the rows' owner
	Signature [64]byte // of SealText
}

// SealText is what the owner of a block signs for a recipient: what the signature is for, the recipient's nonce, the
// block's header without a seal, and the SHA-256 of the payload.
func (h BlockHeader) SealText(nonce Nonce, payload []byte) ([]byte, error) {
	h.Seal = Seal{}
	text, err := h.AppendMarshal(append([]byte(sealPurpose), nonce[:]...))
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(payload)
	return append(text, digest[:]...), nil
}

func (s Seal) appendMarshal(b []byte) []byte {
	b = append(b, sealMagic...)
	b = binary.BigEndian.AppendUint16(b, sealVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(s.To))
	b = append(b, s.Key[:]...)
	return append(b, s.Signature[:]...)
}

// parseSeal reads the first SealSize bytes of a sealed block.
func parseSeal(b []byte) (Seal, error) {
	if v := binary.BigEndian.Uint16(b[4:]); v != sealVersion {
		return Seal{}, Errorf(CodeVersion, "a seal of version %d, must be %d", v, sealVersion)
	}
	s := Seal{Sealed: true, To: int(binary.BigEndian.Uint16(b[6:])), Key: [32]byte(b[8:40]), Signature: [64]byte(b[40:SealSize])}
	return s, nil
}

// checkSeal reports a seal that no block of that origin can have.
func checkSeal(s Seal, origin int) error {
	if !s.Sealed {
		return check(s == Seal{}, "a seal that does not count")
	}
	return checkRange("recipient", s.To, origin+1, MaxParticipants-2)
}

// RelayState is how far a relayed path has come.
type RelayState uint8

// The states.
const (
	RelayAsk  RelayState = 1 // From asks whether its rows may come to To through the publisher
	RelayOpen RelayState = 2 // To takes them
	RelayEnd  RelayState = 3 // no more of them, for a reason
)

// String is "ask", "open" or "end".
func (s RelayState) String() string {
	switch s {
	case RelayAsk:
		return "ask"
	case RelayOpen:
		return "open"
	case RelayEnd:
		return "end"
	}
	return fmt.Sprintf("relay(%d)", uint8(s))
}

// Relay is about the path of From's rows to To through the publisher.
type Relay struct {
	Session SessionID  `cbor:"1,keyasint"`
	From    int        `cbor:"2,keyasint"` // a contributor
	To      int        `cbor:"3,keyasint"` // a later one
	State   RelayState `cbor:"4,keyasint"`
	Nonce   Nonce      `cbor:"5,keyasint"` // of RelayOpen: what To wants signed; otherwise zero
	Code    Code       `cbor:"6,keyasint"` // of RelayEnd, otherwise 0
	Text    string     `cbor:"7,keyasint"` // of RelayEnd: one sentence; when empty, the code's own
}

// Err is the end of a path as an error.
func (m Relay) Err() error { return &Error{m.Code, m.Text} }

func (Relay) messageType() MessageType { return MessageRelay }

func (m Relay) validate() error {
	return first(
		m.Session.validate(),
		checkRange("from", m.From, 0, MaxParticipants-3),
		checkRange("to", m.To, m.From+1, MaxParticipants-2),
		check(m.State >= RelayAsk && m.State <= RelayEnd, "unknown %v", m.State),
		check((m.State == RelayOpen) == (m.Nonce != Nonce{}), "a nonce in %v, or none", m.State),
		check((m.State == RelayEnd) == (m.Code != 0), "code %d in %v", m.Code, m.State),
		check(m.State == RelayEnd || m.Text == "", "a text in %v", m.State),
		checkName("text", m.Text, 0, MaxText),
	)
}

// Unreachable is for Contributor: no direct link to a later contributor can be opened, for a reason that is nobody's
// decision. Its rows may still go through the publisher.
type Unreachable struct {
	Origin int
	Code   Code
	Text   string
}

// RelayTaken is for Contributor, the answer to ContributorReady.Vouched: rows of an earlier contributor are taken
// from the publisher, signed for this nonce, or not, for the reason in Code and Text.
type RelayTaken struct {
	Origin int
	Nonce  Nonce
	Code   Code // 0: they are taken
	Text   string
}

func (Unreachable) event() {}
func (RelayTaken) event()  {}

// Path is where own rows go through the publisher.
type Path struct {
	To    int
	Nonce Nonce
}

// unreachable asks the publisher for a path to a later contributor.
func (c *Contributor) unreachable(e Unreachable) error {
	o := c.others[e.Origin]
	switch {
	case o == nil || c.state < contributorWorking || c.work.Layout.rank(e.Origin) < c.work.Layout.rank(c.work.Origin):
		return Errorf(CodeInternal, "nobody dials contributor %d", e.Origin)
	case o.down:
		return nil
	case o.asked:
		return Errorf(CodeInternal, "a path to contributor %d is asked for already", e.Origin)
	}
	o.asked = true
	c.sendRelay(Relay{From: c.work.Origin, To: e.Origin, State: RelayAsk})
	return nil
}

// relayBy is until when a path through the publisher may take to open.
func (c *Contributor) relayBy() time.Duration { return min(c.committed+relayGrace, c.end) }

// relay takes what the publisher says about a path that begins or ends here.
func (c *Contributor) relay(m Relay) error {
	if c.state < contributorWorking || c.work.Schedules.Regime() != Lockstep {
		return c.violation(Errorf(CodeOrder, "relay came in the wrong place"))
	}
	other := m.To
	if m.To == c.work.Origin {
		other = m.From
	} else if m.From != c.work.Origin {
		return c.violation(Errorf(CodeRange, "a relayed path from %d to %d does not touch contributor %d", m.From, m.To, c.work.Origin))
	}
	o := c.others[other]
	switch {
	case o == nil:
		return c.violation(Errorf(CodeRange, "%d is not a contributor of this session", other))
	case m.State == RelayEnd:
		if !o.asked || o.down {
			return nil // it ended on both sides at once
		}
		o.asked = false // the other side knows
		c.lose(other, m.Code, m.Err().Error())
		return nil
	case m.State == RelayAsk && other == m.From:
		return c.vouched(m.From, o)
	case m.State == RelayOpen && other == m.To:
		if o.down {
			return Errorf(CodeLost, "the session goes on without contributor %d", other)
		}
		if !o.asked || o.relayed {
			return c.violation(Errorf(CodeOrder, "nobody waits for a path to contributor %d", other))
		}
		o.relayed = true
		c.ready.Paths = append(c.ready.Paths, Path{other, m.Nonce})
		return nil
	}
	return c.violation(Errorf(CodeOrder, "relay %v goes the other way", m.State))
}

// vouched decides whether rows of an earlier contributor may come through the publisher, as far as the roster says;
// the driver asks the owner.
func (c *Contributor) vouched(from int, o *other) error {
	rank := c.work.Layout.rank(from)
	refusal := c.mayJoin(Joined{c.roster[rank].ID, Join{c.plan.Session, from}})
	if refusal == nil && o.asked {
		refusal = Errorf(CodeDuplicate, "contributor %d asks again", from)
	}
	if refusal == nil && c.state != contributorWorking {
		refusal = Errorf(CodeLost, "no more rows are needed")
	}
	if refusal != nil {
		c.endRelay(from, refusal)
		return refusal
	}
	o.asked = true
	c.ready.Vouched = append(c.ready.Vouched, c.roster[rank])
	return nil
}

// taken opens the path, or refuses it.
func (c *Contributor) taken(e RelayTaken) error {
	o := c.others[e.Origin]
	switch {
	case o == nil || o.relayed:
		return Errorf(CodeInternal, "nobody asked about contributor %d", e.Origin)
	case o.down || !o.asked:
		return nil
	case e.Code != 0:
		c.lose(e.Origin, e.Code, cause(e.Code, e.Text, e.Code).Text)
		return nil
	}
	o.joined, o.relayed = true, true
	c.sendRelay(Relay{From: e.Origin, To: c.work.Origin, State: RelayOpen, Nonce: e.Nonce})
	return nil
}

// endRelay tells the publisher, and through it the other side, that a path is no more.
func (c *Contributor) endRelay(other int, why error) {
	m := Relay{From: c.work.Origin, To: other, State: RelayEnd, Code: CodeOf(why), Text: CleanText(why.Error())}
	if c.work.Layout.rank(other) < c.work.Layout.rank(c.work.Origin) {
		m.From, m.To = other, c.work.Origin
	}
	c.sendRelay(m)
}

func (c *Contributor) sendRelay(m Relay) {
	m.Session = c.plan.Session
	c.send(PublisherLink, m)
}

// sealedFor is whose block came: over the publisher's link only sealed ones of those whose path is open, over a direct
// link only its own.
func (c *Contributor) sealedFor(from int, h BlockHeader) (origin int, err error) {
	if from != PublisherLink {
		if o := c.others[from]; h.Seal.Sealed || o == nil || o.relayed {
			return 0, Errorf(CodeForbidden, "%d sends no rows over a link of its own", from)
		}
		return from, nil
	}
	if o := c.others[h.Origin]; !h.Seal.Sealed || h.Seal.To != c.work.Origin || o == nil || !o.relayed {
		return 0, Errorf(CodeForbidden, "no rows of %d are expected from the publisher", h.Origin)
	}
	return h.Origin, nil
}

// Lost reports whether a contributor was given up: nothing needs to be sent to it.
func (c *Contributor) Lost(origin int) bool {
	o := c.others[origin]
	return o == nil || o.down
}

// relayed is a path through the publisher, from one contributor to a later one.
type relayed struct {
	open, ended bool
	book        *Collector // of From's rows that went this way; nil until it is open
}

// Relayed says how much of one contributor's rows went to a later one through the publisher.
type Relayed struct {
	From, To int
	Bytes    int64 // payload
}

// Relays lists the paths that were opened, by From and To, but for those to documents of this device.
func (p *Publisher) Relays() (list []Relayed) {
	for path, r := range p.relays {
		if r.book != nil && p.peers[path[1]].id != p.cfg.ID {
			list = append(list, Relayed{path[0], path[1], r.book.Bytes(path[0])})
		}
	}
	slices.SortFunc(list, func(a, b Relayed) int { return (a.From-b.From)*MaxParticipants + a.To - b.To })
	return list
}

// relay takes what a contributor says about a path, and passes it on.
func (p *Publisher) relay(from int, m Relay) error {
	if err := p.inSession(m.Session); err != nil {
		return err
	}
	if p.peers[from].state != peerIn || p.cfg.Schedules.Regime() != Lockstep {
		return p.violation(from, Errorf(CodeOrder, "relay came in the wrong place"))
	}
	path := [2]int{m.From, m.To}
	r := p.relays[path]
	switch {
	case m.State == RelayAsk && from == m.From:
		if r != nil {
			return p.violation(from, Errorf(CodeDuplicate, "a path from %d to %d is asked for again", m.From, m.To))
		}
		if p.relays == nil {
			p.relays = map[[2]int]*relayed{}
		}
		r = &relayed{}
		p.relays[path] = r
		if _, in := p.committed.Segment(m.To); !in || m.To >= len(p.peers) || p.peers[m.To].state != peerIn || !p.peers[m.To].linked {
			r.ended = true
			err := Errorf(CodeLost, "the session goes on without contributor %d", m.To)
			p.send(from, Relay{p.cfg.Session, m.From, m.To, RelayEnd, Nonce{}, CodeLost, err.Error()})
			return err
		}
		p.send(m.To, m)
		return nil
	case m.State == RelayOpen && from == m.To:
		switch {
		case r == nil || r.open:
			return p.violation(from, Errorf(CodeOrder, "nobody asked for a path from %d to %d", m.From, m.To))
		case r.ended:
			return Errorf(CodeLost, "the path from %d to %d has ended", m.From, m.To)
		}
		r.open = true
		p.openRelay(r, m)
		p.send(m.From, m)
		return nil
	case m.State == RelayEnd && (from == m.From || from == m.To):
		if r != nil && !r.ended {
			r.ended = true
			p.send(m.From+m.To-from, m)
		}
		return nil
	}
	return p.violation(from, Errorf(CodeRange, "contributor %d says relay %v of the path from %d to %d", from, m.State, m.From, m.To))
}

// openRelay expects on a path what its end expects: no more is passed on.
func (p *Publisher) openRelay(r *relayed, m Relay) {
	n := len(p.committed.Segments)
	from, _ := p.committed.Segment(m.From)
	to, _ := p.committed.Segment(m.To)
	r.book = NewCollector(p.cfg.Session, p.cfg.Shape, p.cfg.Wire)
	// shapes, types and tokens were checked when they came in, so that nothing can fail here
	_ = r.book.Expect(m.From, from.Tokens, p.cfg.Schedules.Of(p.committed.rank(m.To), n), p.cfg.Shape.FirstRows(from, to.Offset))
	if p.peers[m.To].id == p.cfg.ID {
		return // own documents: the rows came to where they are meant to be
	}
	p.ready.Notes = append(p.ready.Notes, fmt.Sprintf("%s and %s cannot reach each other: the first one's rows reach the second one via %s",
		p.peers[m.From].name, p.peers[m.To].name, p.cfg.Self.Name))
}

// endRelays ends all paths from and to a contributor that is out.
func (p *Publisher) endRelays(origin int, why *Error) {
	for other := range p.peers {
		for _, path := range [][2]int{{origin, other}, {other, origin}} {
			if r := p.relays[path]; r != nil && !r.ended {
				r.ended = true
				p.send(other, Relay{p.cfg.Session, path[0], path[1], RelayEnd, Nonce{}, why.Code, CleanText(why.Error())})
			}
		}
	}
}

// relayBlock takes the header of a block that is to be passed on through the path's book. What contradicts the plan
// ends its sender's part, as with rows that are for the publisher.
func (p *Publisher) relayBlock(from int, h BlockHeader, take func(*Collector, int, BlockHeader) error) error {
	r := p.relays[[2]int{from, h.Seal.To}]
	switch {
	case p.peers[from].state == peerOut || r != nil && r.ended:
		return Errorf(CodeLost, "the path from %d to %d has ended", from, h.Seal.To)
	case r == nil || !r.open:
		return p.violation(from, Errorf(CodeOrder, "there is no path from %d to %d", from, h.Seal.To))
	}
	err := take(r.book, from, h)
	switch CodeOf(err) {
	case 0, CodeSession, CodeLost, CodeDuplicate:
		return err
	}
	return p.violation(from, err)
}
