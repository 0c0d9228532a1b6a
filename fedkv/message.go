package fedkv

import (
	"fmt"
	"math"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"
)

// Token is a token of the model's vocabulary.
type Token = int32

// Protocol is the version of the protocol that this package speaks, the number in Hello.
const Protocol = 1

// Message is one of the messages of the control stream. Only the types of this file, Queries, Relay, Sources and Withdraw
// implement it, as values, not pointers. What validate holds is checked on the way out and on the way in, so that no other
// code needs to ask again.
type Message interface {
	messageType() MessageType
	validate() error
}

// Role is what the sender of a Hello does on this connection.
type Role uint8

// The roles.
const (
	RolePublisher   Role = 1 // asks, and receives rows
	RoleContributor Role = 2 // owns a segment, and sends rows
)

// String is "publisher" or "contributor".
func (r Role) String() string {
	switch r {
	case RolePublisher:
		return "publisher"
	case RoleContributor:
		return "contributor"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Positions says at which positions a segment is evaluated.
type Positions uint8

// The choices of positions.
const (
	// Canonical: every segment is evaluated as if it stood right after the prefix, and the receiver rotates
	// K rows to their place. Rows then depend on nothing but the segment and the prefix. Gather only.
	Canonical Positions = 1
	// InPlace: every segment is evaluated at its true positions.
	InPlace Positions = 2
)

// String is the name that ParsePositions reads.
func (p Positions) String() string {
	switch p {
	case Canonical:
		return "canonical"
	case InPlace:
		return "inplace"
	}
	return fmt.Sprintf("positions(%d)", uint8(p))
}

// ParsePositions reads canonical or inplace.
func ParsePositions(name string) (Positions, error) {
	for _, p := range []Positions{Canonical, InPlace} {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, Errorf(CodePlan, "unknown positions %q; known are canonical, inplace", name)
}

// Hello opens a connection: whoever dialled sends it first, and nothing else before the answer.
type Hello struct {
	Protocol uint32      `cbor:"1,keyasint"` // the version spoken
	Name     string      `cbor:"2,keyasint"` // of the device, for people
	Engine   string      `cbor:"3,keyasint"` // commit of llama.cpp
	Model    Fingerprint `cbor:"4,keyasint"`
	Types    []Type      `cbor:"5,keyasint"` // base types that it can send and receive, best first; may hold types unknown here
	Role     Role        `cbor:"6,keyasint"`
	Canary   Canary      `cbor:"7,keyasint"` // what its engine makes of public tokens
}

// Welcome accepts a Hello and says the same of the other side. A peer counts only after it.
type Welcome struct {
	Protocol uint32      `cbor:"1,keyasint"`
	Name     string      `cbor:"2,keyasint"`
	Engine   string      `cbor:"3,keyasint"`
	Model    Fingerprint `cbor:"4,keyasint"`
	Types    []Type      `cbor:"5,keyasint"`
	Role     Role        `cbor:"6,keyasint"`
	Note     string      `cbor:"7,keyasint"` // a sentence for the user, such as that weights differ; may be empty
	Canary   Canary      `cbor:"8,keyasint"`
}

// Hello is the part that both messages share.
func (m Welcome) Hello() Hello {
	return Hello{m.Protocol, m.Name, m.Engine, m.Model, m.Types, m.Role, m.Canary}
}

// Welcome answers a Hello: what it says of this side, and a note.
func (m Hello) Welcome(note string) Welcome {
	return Welcome{m.Protocol, m.Name, m.Engine, m.Model, m.Types, m.Role, note, m.Canary}
}

// Compatible is nil if two sides may exchange rows, and otherwise one sentence with its code: other protocol,
// other engine, a model that differs in more than weights, no row type in common, or engines that compute different
// numbers. m is ours, o is theirs.
func (m Hello) Compatible(o Hello) error {
	if m.Protocol != o.Protocol {
		return Errorf(CodeVersion, "we speak protocol %d and the peer speaks %d: install the same release of fedattn on both devices", m.Protocol, o.Protocol)
	}
	if m.Engine != o.Engine {
		return Errorf(CodeVersion, "our engine is llama.cpp %s and the peer's is %s: install the same release of fedattn on both devices", m.Engine, o.Engine)
	}
	if err := m.Model.Compatible(o.Model); err != nil {
		return err
	}
	if len(m.CommonTypes(o)) == 0 {
		return Errorf(CodeTypes, "the peer offers no row type that we know")
	}
	return m.sameNumbers(o)
}

// CommonTypes lists the base types that both sides offer and this version knows, in m's order.
func (m Hello) CommonTypes(o Hello) []Type {
	var common []Type
	for _, t := range m.Types {
		if t.Valid() && t == t.Base() && slices.Contains(o.Types, t) {
			common = append(common, t)
		}
	}
	return common
}

// Refuse answers a Hello that is not accepted; the connection closes after it. Its layout is the same in
// every version.
type Refuse struct {
	Code Code   `cbor:"1,keyasint"`
	Text string `cbor:"2,keyasint"` // one sentence; when empty, the code's own
}

// Err is the refusal as an error.
func (m Refuse) Err() error { return &Error{m.Code, m.Text} }

// RefuseOf is the refusal that reports err.
func RefuseOf(err error) Refuse { return Refuse{CodeOf(err), CleanText(err.Error())} }

// Plan is what the publisher wants of one contributor. Nothing in it is private but the question, which is only there
// where the publisher's owner shares it.
type Plan struct {
	Session    SessionID
	Origin     int // the receiver's number in this session, 0-based in token order
	Schedules  Schedules
	Wire       Wire
	Rows       Selection // which rows of its segment it sends
	Positions  Positions
	Prefix     []Token // evaluated by everybody, sent by nobody; at most MaxPrefix
	MaxTokens  int     // most tokens that the segment may have
	DeadlineMS int     // milliseconds from receipt to the end of the session; if rows stay home, of any wait for a query
	Home       Type    // 0: rows are sent; F16 or Q8_0: they stay home, and queries and outputs travel in this type
	Question   string  // what is asked, for who has to choose passages; empty: not shared
	Budget     int     // tokens that the segment should not exceed if its owner can choose; 0: MaxTokens
}

// Ready answers a Plan: the segment is tokenised and has this many tokens, at least 1.
type Ready struct {
	Session SessionID `cbor:"1,keyasint"`
	Tokens  int       `cbor:"2,keyasint"`
}

// Commit freezes the participants and their positions. It goes to every contributor in the roster. In gather with
// canonical positions it may come again with fewer of them, if layers have windows: see Contributor.Owed.
type Commit struct {
	Session SessionID
	Prefix  int           // tokens of the prefix
	Roster  []Participant // in token order, origins ascending, the publisher last
	Terms   *Terms        // nil: the plan's
}

// Participant is one line of the roster: it owns positions [Offset, Offset+Tokens).
type Participant struct {
	Origin int    `cbor:"1,keyasint"`
	ID     string `cbor:"2,keyasint"` // identity of its key; whoever joins must prove it
	Addr   string `cbor:"3,keyasint"` // host:port; empty if nobody needs to dial it
	Name   string `cbor:"4,keyasint"`
	Offset int    `cbor:"5,keyasint"`
	Tokens int    `cbor:"6,keyasint"`
}

// Layout is the committed token stream.
func (m Commit) Layout() Layout {
	l := Layout{Prefix: m.Prefix, Segments: make([]Segment, len(m.Roster))}
	for i, p := range m.Roster {
		l.Segments[i] = Segment{Origin: p.Origin, Offset: p.Offset, Tokens: p.Tokens}
	}
	return l
}

// Join opens a direct link between two contributors in lockstep; Origin is the sender's number.
type Join struct {
	Session SessionID `cbor:"1,keyasint"`
	Origin  int       `cbor:"2,keyasint"`
}

// Done ends a participant's part: from a contributor, all its blocks are sent; from the publisher, the
// session is over. The numbers are for people.
type Done struct {
	Session    SessionID `cbor:"1,keyasint"`
	Rows       int       `cbor:"2,keyasint"` // K and V rows counted once per token and layer
	Bytes      int64     `cbor:"3,keyasint"` // payload, headers not counted
	PrefillMS  float64   `cbor:"4,keyasint"` // milliseconds
	TransferMS float64   `cbor:"5,keyasint"` // milliseconds
}

// Abort ends a session for the receiver, from either side and at any time.
type Abort struct {
	Session SessionID `cbor:"1,keyasint"`
	Code    Code      `cbor:"2,keyasint"`
	Text    string    `cbor:"3,keyasint"` // one sentence; when empty, the code's own
}

// Err is the abort as an error.
func (m Abort) Err() error { return &Error{m.Code, m.Text} }

// AbortOf is the abort of a session that reports err.
func AbortOf(session SessionID, err error) Abort {
	return Abort{session, CodeOf(err), CleanText(err.Error())}
}

// Receipt tells a contributor what the publisher placed of it, and who was missing from the answer.
type Receipt struct {
	Session SessionID `cbor:"1,keyasint"`
	Tokens  int       `cbor:"2,keyasint"` // rows placed at each layer
	Layers  int       `cbor:"3,keyasint"` // layers placed
	Bytes   int64     `cbor:"4,keyasint"` // payload received
	Missing []int     `cbor:"5,keyasint"` // origins, ascending
}

// Waiting tells the publisher that a contributor serves others first. It may come again, from the plan on and until the
// first rows do.
type Waiting struct {
	Session SessionID `cbor:"1,keyasint"`
	Place   int       `cbor:"2,keyasint"` // in the queue; 1: it is the next
	WaitMS  int       `cbor:"3,keyasint"` // milliseconds until its turn, as the contributor expects; 0: it does not know
}

// Wait is the time until its turn; 0: not known.
func (m Waiting) Wait() time.Duration { return time.Duration(m.WaitMS) * time.Millisecond }

// Ping asks for the same message with Reply set.
type Ping struct {
	Nonce uint64 `cbor:"1,keyasint"`
	Reply bool   `cbor:"2,keyasint"`
}

// Fetch opens a link in place of Hello, from a device that may have no model yet: what follows on streams of its own is
// HTTP, about the model's file and about the link.
type Fetch struct {
	Protocol uint32 `cbor:"1,keyasint"` // the version spoken
}

func (Hello) messageType() MessageType   { return MessageHello }
func (Welcome) messageType() MessageType { return MessageWelcome }
func (Refuse) messageType() MessageType  { return MessageRefuse }
func (Plan) messageType() MessageType    { return MessagePlan }
func (Ready) messageType() MessageType   { return MessageReady }
func (Commit) messageType() MessageType  { return MessageCommit }
func (Join) messageType() MessageType    { return MessageJoin }
func (Done) messageType() MessageType    { return MessageDone }
func (Abort) messageType() MessageType   { return MessageAbort }
func (Receipt) messageType() MessageType { return MessageReceipt }
func (Ping) messageType() MessageType    { return MessagePing }
func (Waiting) messageType() MessageType { return MessageWaiting }
func (Fetch) messageType() MessageType   { return MessageFetch }

// A Hello of another protocol is valid whatever else it says, so that it can be refused by its version.
func (m Hello) validate() error {
	if m.Protocol != Protocol {
		return nil
	}
	return first(
		checkName("name", m.Name, 1, MaxName),
		checkName("engine", m.Engine, 1, MaxName),
		m.Model.validate(),
		checkTypes(m.Types),
		check(m.Role == RolePublisher || m.Role == RoleContributor, "unknown %v", m.Role),
		m.Canary.validate(m.Model.Layers),
	)
}

func (m Welcome) validate() error {
	return first(
		check(m.Protocol == Protocol, "protocol %d, must be %d", m.Protocol, Protocol),
		m.Hello().validate(),
		checkName("note", m.Note, 0, MaxText),
	)
}

func (f Fingerprint) validate() error {
	return first(
		checkName("architecture", f.Architecture, 1, MaxName),
		checkRange("layers", f.Layers, 1, MaxLayers),
		checkRange("training context", f.ContextTrain, 0, math.MaxInt32),
	)
}

func (m Refuse) validate() error {
	return first(
		check(m.Code != 0, "code 0"),
		checkName("text", m.Text, 0, MaxText),
	)
}

func (m Plan) validate() error {
	layers := m.Schedules.Publisher.Len()
	return first(
		m.Session.validate(),
		checkRange("origin", m.Origin, 0, MaxParticipants-2),
		checkRange("layers", layers, 1, MaxLayers),
		check(m.Schedules.Contributors.Len() == layers, "schedules are for %d and %d layers", m.Schedules.Contributors.Len(), layers),
		m.Wire.Validate(layers),
		m.Rows.validateFor(layers),
		check(m.Positions == InPlace || m.Positions == Canonical && m.Schedules.Regime() == Gather,
			"%v in %v; canonical positions are for gather", m.Positions, m.Schedules.Regime()),
		checkRange("prefix tokens", len(m.Prefix), 0, MaxPrefix),
		check(len(m.Prefix) == 0 || slices.Min(m.Prefix) >= 0, "a negative token in the prefix"),
		checkRange("most tokens", m.MaxTokens, 1, MaxTokens),
		checkRange("deadline", m.DeadlineMS, 1, MaxDeadlineMS),
		checkHome(m.Home, m.Schedules),
		checkRange("bytes of the question", len(m.Question), 0, MaxQuestion),
		check(utf8.ValidString(m.Question), "the question is not UTF-8"),
		checkRange("budget", m.Budget, 0, m.MaxTokens),
	)
}

// checkHome says whether rows may stay home: contributors must not need each other's.
func checkHome(t Type, s Schedules) error {
	return first(
		check(t == 0 || t == F16 || t == Q8_0, "queries as %v; f16 and q8_0 are possible", t),
		check(t == 0 || s.Regime() == Gather, "rows stay home in %v; that is for gather", s.Regime()),
	)
}

func (m Ready) validate() error {
	return first(m.Session.validate(), checkRange("tokens", m.Tokens, 1, MaxTokens))
}

func (m Commit) validate() error {
	if err := first(
		m.Session.validate(),
		checkRange("prefix", m.Prefix, 0, MaxPrefix),
		checkRange("participants", len(m.Roster), 1, MaxParticipants),
	); err != nil {
		return err
	}
	origin, offset := -1, m.Prefix
	for _, p := range m.Roster {
		if err := first(
			checkRange("origin", p.Origin, origin+1, MaxParticipants-1),
			checkName("id", p.ID, 1, MaxID),
			checkName("address", p.Addr, 0, MaxAddr),
			checkName("name", p.Name, 1, MaxName),
			check(p.Offset == offset, "participant %d at position %d, must be %d", p.Origin, p.Offset, offset),
			checkRange("tokens", p.Tokens, 1, MaxTokens),
		); err != nil {
			return err
		}
		origin, offset = p.Origin, offset+p.Tokens
	}
	if m.Terms != nil {
		layers := m.Terms.Publisher.Len()
		if err := first(checkRange("layers", layers, 1, MaxLayers), m.Terms.Wire.Validate(layers)); err != nil {
			return err
		}
	}
	return checkRange("tokens of the session", offset, 1, MaxTokens)
}

func (m Join) validate() error {
	return first(m.Session.validate(), checkRange("origin", m.Origin, 0, MaxParticipants-2))
}

func (m Done) validate() error {
	return first(
		m.Session.validate(),
		checkRange("rows", m.Rows, 0, MaxTokens*MaxLayers),
		check(m.Bytes >= 0, "%d bytes", m.Bytes),
		checkDuration("prefill", m.PrefillMS),
		checkDuration("transfer", m.TransferMS),
	)
}

func (m Abort) validate() error {
	return first(m.Session.validate(), Refuse{m.Code, m.Text}.validate())
}

func (m Receipt) validate() error {
	if err := first(
		m.Session.validate(),
		checkRange("tokens", m.Tokens, 0, MaxTokens),
		checkRange("layers", m.Layers, 0, MaxLayers),
		check(m.Bytes >= 0, "%d bytes", m.Bytes),
		checkRange("missing", len(m.Missing), 0, MaxParticipants-1),
	); err != nil {
		return err
	}
	least := 0
	for _, origin := range m.Missing {
		if err := checkRange("missing origin", origin, least, MaxParticipants-2); err != nil {
			return err
		}
		least = origin + 1
	}
	return nil
}

func (m Waiting) validate() error {
	return first(
		m.Session.validate(),
		checkRange("place", m.Place, 1, MaxQueue),
		checkRange("wait", m.WaitMS, 0, MaxDeadlineMS),
	)
}

// A Fetch of another protocol is valid, so that it can be refused by its version.
func (Fetch) validate() error { return nil }

func (Ping) validate() error { return nil }

func (id SessionID) validate() error { return check(id != SessionID{}, "session of all zeros") }

// first is the first error of a list.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func checkRange(what string, n, least, most int) error {
	return check(n >= least && n <= most, "%s %d, must be %d to %d", what, n, least, most)
}

// checkName accepts what can be shown on a terminal as it is: no control characters, no bidirectional
// overrides, no invalid UTF-8. What it refuses is not repeated in the error.
func checkName(what, s string, least, most int) error {
	if len(s) < least || len(s) > most {
		return fmt.Errorf("%s of %d bytes, must be %d to %d", what, len(s), least, most)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", what)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s has a character that cannot be printed (%U)", what, r)
		}
	}
	return nil
}

// checkTypes accepts types that this version does not know: they are offers, and CommonTypes drops them.
func checkTypes(list []Type) error {
	if err := checkRange("row types", len(list), 1, MaxTypes); err != nil {
		return err
	}
	var seen [256]bool
	for _, t := range list {
		if t == 0 || seen[t] {
			return fmt.Errorf("row type %d, must be above 0 and once", uint8(t))
		}
		seen[t] = true
	}
	return nil
}

func checkDuration(what string, ms float64) error {
	return check(ms >= 0 && ms <= MaxDeadlineMS, "%s of %g ms, must be 0 to %d", what, ms, MaxDeadlineMS)
}
