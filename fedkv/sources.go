package fedkv

import (
	"fmt"
	"slices"
)

// What a contributor says about its segment beside the rows: which documents it is of, and when one of them is not shared
// any more. Both are for people, and who does not know them skips them.

// Source is a stretch of a segment: so many tokens that a document gave, or none if Name is empty.
type Source struct {
	Name   string `cbor:"1,keyasint"`
	Tokens int    `cbor:"2,keyasint"`
}

// Text is a segment as its owner composed it.
type Text struct {
	Tokens  []Token
	Sources []Source // in order, together as many tokens as there are; nil: nothing is said about them
}

// Sources tells the publisher, after Ready, of which documents the segment is: in the order of its tokens, all of them.
// It does not come where rows stay home.
type Sources struct {
	Session   SessionID
	Documents []Source
}

// Withdraw tells the publisher that what it has of this session is not to be used any more: the owner has withdrawn or
// changed a document. It comes after all rows were sent, and after the publisher's Done too, for as long as the link is
// held. That the publisher forgets the rows is asked, and cannot be made sure.
type Withdraw struct {
	Session SessionID `cbor:"1,keyasint"`
	Text    string    `cbor:"2,keyasint"` // one sentence; may be empty
}

// Withdrawal is a Withdraw as the publisher's machine saw it.
type Withdrawal struct {
	Origin  int
	Session SessionID // of this session or an earlier one over the same link
	Text    string
}

// Described is for Contributor: of which documents the segment is. It comes after Tokenised.
type Described struct{ Sources []Source }

// Withdrawn is for Contributor: the owner has withdrawn or changed a document of the segment.
type Withdrawn struct{ Text string }

func (Described) event() {}
func (Withdrawn) event() {}

func (Sources) messageType() MessageType  { return MessageSources }
func (Withdraw) messageType() MessageType { return MessageWithdraw }

func (m Sources) validate() error {
	if err := first(m.Session.validate(), checkRange("sources", len(m.Documents), 1, MaxSources)); err != nil {
		return err
	}
	for _, s := range m.Documents {
		if err := first(checkName("name", s.Name, 0, MaxSourceName), checkRange("tokens", s.Tokens, 1, MaxTokens)); err != nil {
			return err
		}
	}
	return nil
}

func (m Withdraw) validate() error {
	return first(m.Session.validate(), checkName("text", m.Text, 0, MaxText))
}

// sourcesBody is Sources on the wire.
type sourcesBody struct {
	Session   SessionID  `cbor:"1,keyasint"`
	Documents sourceList `cbor:"2,keyasint"`
}

// sourceList meets its limit before it is allocated, as rosterBody.
type sourceList []Source

// UnmarshalCBOR decodes an array of at most MaxSources.
func (l *sourceList) UnmarshalCBOR(data []byte) error {
	major, n, _, err := cborHead(data)
	if err != nil {
		return err
	}
	if major != cborArray || n > MaxSources {
		return fmt.Errorf("sources must be an array of 1 to %d", MaxSources)
	}
	return decMode.Unmarshal(data, (*[]Source)(l))
}

// Fold shortens a list of sources to so many lines: what is behind them is one more stretch, of several documents.
func Fold(sources []Source, most int) []Source {
	if len(sources) <= most {
		return sources
	}
	rest := sources[most-1:]
	return append(slices.Clone(sources[:most-1]), Source{fmt.Sprintf("and %d more", len(rest)), sumOf(rest)})
}

// sumOf is how many tokens sources have.
func sumOf(sources []Source) (tokens int) {
	for _, s := range sources {
		tokens += s.Tokens
	}
	return tokens
}

// described tells the publisher about the segment.
func (c *Contributor) described(sources []Source) error {
	m := Sources{c.plan.Session, sources}
	if c.state != contributorReady || c.plan.Home != 0 {
		return Errorf(CodeOrder, "there is nobody to tell about the segment")
	}
	if err := m.validate(); err != nil {
		return Errorf(CodeInternal, "%v: %v", m.messageType(), err)
	}
	if n := sumOf(sources); n != c.tokens {
		return Errorf(CodeInternal, "sources of %d tokens, the segment has %d", n, c.tokens)
	}
	c.send(PublisherLink, m)
	return nil
}

// withdrawn asks the publisher to forget the rows, if it may have them; otherwise the session ends.
func (c *Contributor) withdrawn(text string) error {
	switch {
	case c.state < contributorTokenising || c.state > contributorSent:
		return Errorf(CodeOrder, "there is nothing to withdraw")
	case c.state == contributorSent && c.plan.Home == 0:
		c.send(PublisherLink, Withdraw{c.plan.Session, text})
	default:
		_ = c.violation(Errorf(CodeForbidden, "%s", text))
	}
	return nil
}

// sourced takes what a contributor says about its segment.
func (p *Publisher) sourced(from int, m Sources) error {
	peer := &p.peers[from]
	if err := p.inSession(m.Session); err != nil {
		return err
	}
	if peer.state < peerReady || peer.sources != nil || p.cfg.home(from) {
		return p.violation(from, Errorf(CodeOrder, "sources came in the wrong place"))
	}
	if sumOf(m.Documents) != peer.tokens {
		return p.violation(from, Errorf(CodeRange, "sources of %d tokens, its segment has %d", sumOf(m.Documents), peer.tokens))
	}
	peer.sources = m.Documents
	return nil
}

// withdraw takes back what a contributor gave. Before anything is computed with it, it is out as if it had never been
// asked, even if all its rows are here; later the driver decides.
func (p *Publisher) withdraw(from int, m Withdraw) {
	if m.Session != p.cfg.Session || p.state >= publisherSettled {
		p.ready.Withdrawn = append(p.ready.Withdrawn, Withdrawal{from, m.Session, m.Text})
		return
	}
	p.peers[from].withdrawn = true
	p.out(from, CodeForbidden, m.Text, true)
}

// Sources is of which documents a contributor's segment is, as it says; nil if it says nothing.
func (p *Publisher) Sources(origin int) []Source { return p.peers[origin].sources }
