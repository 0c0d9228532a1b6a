package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"fedattn/fedkv"
)

// Policy is what a device's owner gives away, in a file or by flags. The zero value adds nothing to pairing. As YAML:
//
//	ask: [laptop, phone]      # who may ask; without it, whoever is paired with that right
//	rows: [laptop]            # to whom rows may go; without it, whoever is trusted with them
//	min_layer: 2              # rows of earlier layers stay here
//	session: {tokens: 2000, bytes: 50MB}
//	day: {tokens: 20000}      # of each peer, from midnight to midnight
//	documents: ["garden*"]    # of those that the node holds, by name
//	ask_me_first: true        # at the node's terminal
//	peers:                    # what is other for some, by name or ID
//	  phone: {documents: [shopping.txt], ask_me_first: false}
type Policy struct {
	Ask   []string         `yaml:"ask"`
	Rows  []string         `yaml:"rows"`
	Terms `yaml:",inline"` // for everybody
	Peers map[string]Terms `yaml:"peers"` // each field that is set takes the place of the one above
}

// Terms are the conditions of sessions. What is not set does not limit.
type Terms struct {
	MinLayer   *int     `yaml:"min_layer"`
	Session    Amount   `yaml:"session"`
	Day        Amount   `yaml:"day"`
	Documents  []string `yaml:"documents"` // patterns such as garden*; nil: all
	AskMeFirst *bool    `yaml:"ask_me_first"`
}

// Amount is of rows that leave; 0 is no limit.
type Amount struct {
	Tokens int   `yaml:"tokens"`
	Bytes  Bytes `yaml:"bytes"`
}

// Bytes is a number of bytes that reads as 50MB or 1GiB.
type Bytes int64

// maxPolicy bounds a policy file in bytes, and maxLimit every number in it.
const (
	maxPolicy = 64 << 10
	maxLimit  = 1 << 50
)

// Parse reads a policy. Keys that it does not know are errors: a limit with a typing error would be none.
func Parse(text []byte) (p Policy, err error) {
	if len(text) > maxPolicy {
		return p, fmt.Errorf("it has %d bytes, a policy at most %d", len(text), maxPolicy)
	}
	// errors of the library are many lines with the source; the first says what and where
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&p); err != nil && err != io.EOF {
		first, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
		return Policy{}, fmt.Errorf("%s", first)
	}
	return p, p.validate()
}

func (p Policy) validate() error {
	for name, terms := range p.Peers {
		if err := terms.validate(); err != nil {
			return fmt.Errorf("peers, %s: %w", name, err)
		}
	}
	return p.Terms.validate()
}

func (t Terms) validate() error {
	if t.MinLayer != nil && (*t.MinLayer < 0 || *t.MinLayer > fedkv.MaxLayers) {
		return fmt.Errorf("min_layer %d, must be 0 to %d", *t.MinLayer, fedkv.MaxLayers)
	}
	for _, a := range []Amount{t.Session, t.Day} {
		if a.Tokens < 0 || a.Tokens > maxLimit || a.Bytes < 0 || a.Bytes > maxLimit {
			return fmt.Errorf("an amount of %d tokens and %d bytes", a.Tokens, a.Bytes)
		}
	}
	for _, pattern := range t.Documents {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("documents: %q is not a pattern such as garden*", pattern)
		}
	}
	return nil
}

// UnmarshalText reads a number with B, kB, MB, GB, KiB, MiB, GiB or nothing behind it.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, unit := strings.TrimSpace(string(text)), int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if n, found := strings.CutSuffix(number, u.suffix); found {
			number, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0) || n*float64(unit) > maxLimit {
		return fmt.Errorf("%q is not a number of bytes such as 50MB", text)
	}
	*b = Bytes(n * float64(unit))
	return nil
}

// over is t with what o sets in its place.
func (t Terms) over(o Terms) Terms {
	t.MinLayer = cmp.Or(o.MinLayer, t.MinLayer)
	t.AskMeFirst = cmp.Or(o.AskMeFirst, t.AskMeFirst)
	t.Session = Amount{cmp.Or(o.Session.Tokens, t.Session.Tokens), cmp.Or(o.Session.Bytes, t.Session.Bytes)}
	t.Day = Amount{cmp.Or(o.Day.Tokens, t.Day.Tokens), cmp.Or(o.Day.Bytes, t.Day.Bytes)}
	if o.Documents != nil {
		t.Documents = o.Documents
	}
	return t
}

// terms for a peer.
func (p Policy) terms(peer Peer) Terms {
	t := p.Terms
	for _, name := range []string{peer.ID, peer.Name} {
		if own, found := p.Peers[name]; found && name != "" {
			t = t.over(own)
		}
	}
	return t
}

// names reports whether a list has a peer by name or ID.
func names(list []string, peer Peer) bool {
	return slices.ContainsFunc(list, func(name string) bool { return name != "" && (name == peer.Name || name == peer.ID) })
}

// MayAsk is nil if a peer may be a publisher to this device.
func (p Policy) MayAsk(peer Peer) error {
	if err := peer.MayAsk(); err != nil {
		return err
	}
	if p.Ask != nil && !names(p.Ask, peer) {
		return fedkv.Errorf(fedkv.CodeForbidden, "its owner lets only some devices ask, and this one is not among them")
	}
	return nil
}

// MayHaveRows is nil if rows of this device may go to a peer.
func (p Policy) MayHaveRows(peer Peer) error {
	if err := peer.MayHaveRows(); err != nil {
		return err
	}
	if p.Rows != nil && !names(p.Rows, peer) {
		return fedkv.Errorf(fedkv.CodeHome, "its owner hands rows to some devices only, and this one is not among them")
	}
	return nil
}

// Grant is what a peer may have in its next session.
type Grant struct {
	MinLayer   int
	MaxTokens  int   // 0: no limit
	MaxBytes   int64 // 0: no limit
	Documents  []string
	AskMeFirst bool
}

// Grant says what a peer may have that has had used today, or that it may have no more.
func (p Policy) Grant(peer Peer, used Amount) (Grant, error) {
	t := p.terms(peer)
	g := Grant{MaxTokens: t.Session.Tokens, MaxBytes: int64(t.Session.Bytes), Documents: t.Documents}
	if t.MinLayer != nil {
		g.MinLayer = *t.MinLayer
	}
	if t.AskMeFirst != nil {
		g.AskMeFirst = *t.AskMeFirst
	}
	if most := t.Day.Tokens; most > 0 {
		left := most - used.Tokens
		if left <= 0 {
			return Grant{}, fedkv.Errorf(fedkv.CodeLimit, "its owner gives this device at most %d tokens a day, and they are used up: ask again tomorrow", most)
		}
		g.MaxTokens = smaller(g.MaxTokens, left)
	}
	if most := t.Day.Bytes; most > 0 {
		left := int64(most - used.Bytes)
		if left <= 0 {
			return Grant{}, fedkv.Errorf(fedkv.CodeLimit, "its owner gives this device at most %d bytes of rows a day, and they are used up: ask again tomorrow", most)
		}
		g.MaxBytes = smaller(g.MaxBytes, left)
	}
	return g, nil
}

// smaller of two limits; a is none if it is 0.
func smaller[N int | int64](a, b N) N {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// Shares reports whether a document is among those that the grant is for.
func (g Grant) Shares(document string) bool {
	return g.Documents == nil || slices.ContainsFunc(g.Documents, func(pattern string) bool {
		matched, _ := path.Match(pattern, document)
		return matched
	})
}

// Admits is nil if a session of so many tokens and at most so many bytes is within the grant.
func (g Grant) Admits(tokens int, bytes int64) error {
	switch {
	case g.MaxTokens > 0 && tokens > g.MaxTokens:
		return fedkv.Errorf(fedkv.CodeLimit, "its owner gives away at most %d tokens now, and its texts have %d: ask its owner to share fewer texts or allow more",
			g.MaxTokens, tokens)
	case g.MaxBytes > 0 && bytes > g.MaxBytes:
		return fedkv.Errorf(fedkv.CodeLimit, "its owner lets out at most %d bytes of rows now, and this session takes %d: ask with a smaller --wire",
			g.MaxBytes, bytes)
	}
	return nil
}

// AsksAnybody reports whether the owner wants to be asked about any peer's sessions.
func (p Policy) AsksAnybody() bool {
	asks := func(t Terms) bool { return t.AskMeFirst != nil && *t.AskMeFirst }
	for _, t := range p.Peers {
		if asks(t) {
			return true
		}
	}
	return asks(p.Terms)
}
