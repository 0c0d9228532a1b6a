package documents

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"fedattn/fedkv"
)

// View is what of a library some peer may have. It gives the peer's segments, as node.Source asks for them.
type View struct {
	library *Library
	shares  func(document string) bool
	most    int // tokens of one segment; 0: no limit of its own
}

// View is the part of the library that a peer may have: documents for which shares says so (nil: all), of which at most so
// many tokens go into one segment (0: as many as the plan allows).
func (l *Library) View(shares func(document string) bool, most int) *View {
	return &View{l, shares, most}
}

// Names lists the documents of the view that rules let out at all, by name.
func (v *View) Names() (names []string) {
	v.library.mu.Lock()
	defer v.library.mu.Unlock()
	for _, d := range v.allowed(true) {
		names = append(names, d.Name)
	}
	return names
}

// allowed is the documents of the view, by name; those that stay home are among them if home is set. The library is
// locked.
func (v *View) allowed(home bool) (docs []*document) {
	for name, d := range v.library.docs {
		if d.Policy == Refuse || d.Policy == Home && !home || v.shares != nil && !v.shares(name) {
			continue
		}
		docs = append(docs, d)
	}
	slices.SortFunc(docs, func(a, b *document) int { return strings.Compare(a.Name, b.Name) })
	return docs
}

// Segment chooses what fits: everything, or what the plan's question finds, or the newest. What its owner has pinned comes
// first in any case. It fails with code home if all documents stay home and rows are asked for, too-long if not even one
// passage fits, and forbidden if there is no document for this peer.
func (v *View) Segment(ctx context.Context, plan fedkv.Plan) (fedkv.Text, error) {
	l := v.library
	l.mu.Lock()
	live := len(l.live) > 0
	l.mu.Unlock()
	if live {
		if err := l.Look(ctx); err != nil {
			return fedkv.Text{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	docs := v.allowed(plan.Home != 0)
	if len(docs) == 0 {
		if len(v.allowed(true)) > 0 {
			return fedkv.Text{}, fedkv.Errorf(fedkv.CodeHome, "its documents stay home: ask with --schedule home")
		}
		return fedkv.Text{}, fedkv.Errorf(fedkv.CodeForbidden, "its owner shares no document with this device now")
	}
	budget := plan.MaxTokens
	for _, limit := range []int{plan.Budget, v.most} {
		if limit > 0 {
			budget = min(budget, limit)
		}
	}
	opening := fmt.Sprintf("Notes of %s:\n", l.cfg.Device)
	begin, err := l.tokens(opening)
	if err != nil {
		return fedkv.Text{}, err
	}
	c := &choice{
		device: l.cfg.Device, tokens: l.tokens, docs: docs, budget: budget, used: len(begin),
		chosen: map[*document][]bool{}, spent: map[*document]int{},
	}
	if err := c.fit(ctx, l.index, plan.Question); err != nil {
		return fedkv.Text{}, err
	}
	if len(c.chosen) == 0 {
		return fedkv.Text{}, fedkv.Errorf(fedkv.CodeTooLong, "not one passage of this device's documents fits into %d tokens; ask with a larger --context", budget)
	}
	text, err := c.text(opening)
	if err == nil {
		l.remember(text.Tokens, c)
	}
	return text, err
}

// fit chooses.
func (c *choice) fit(ctx context.Context, x *index, question string) error {
	fits, err := c.all()
	if err != nil || fits {
		return err
	}
	if err := c.pinned(); err != nil {
		return err
	}
	if question != "" {
		if found, err := c.asked(ctx, x, question); err != nil || found {
			return err
		}
	}
	return c.newest()
}

// tokens tokenises what stands around passages once, and passages for whoever keeps them. The lock is held.
func (l *Library) tokens(text string) ([]fedkv.Token, error) {
	if t, known := l.frame[text]; known {
		return t, nil
	}
	t, err := l.cfg.Tokenize(text)
	if err == nil && (text == stretchEnd || strings.HasPrefix(text, "Notes of ")) && len(l.frame) < 16 {
		l.frame[text] = t
	}
	return t, err
}

// composed is a segment that was given, and of what.
type composed struct {
	tokens []fedkv.Token
	of     map[string][32]byte // documents' digests by name
}

// remember notes what a segment is of; the lock is held.
func (l *Library) remember(tokens []fedkv.Token, c *choice) {
	l.composed = slices.DeleteFunc(l.composed, func(old composed) bool { return slices.Equal(old.tokens, tokens) })
	of := map[string][32]byte{}
	for d := range c.chosen {
		of[d.Name] = d.digest
	}
	l.composed = append(l.composed, composed{tokens, of})
	l.composed = slices.Clone(l.composed[max(0, len(l.composed)-maxRemembered):])
}

// Holds reports whether a segment that was given, for which is says yes, is of documents that are still shared as they
// were then.
func (l *Library) Holds(is func(tokens []fedkv.Token) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.composed, func(c composed) bool {
		for name, digest := range c.of {
			d := l.docs[name]
			if d == nil || d.Policy == Refuse || d.digest != digest {
				return false
			}
		}
		return is(c.tokens)
	})
}

// Whole is how many tokens the documents that rules let out have together.
func (l *Library) Whole() (tokens int, err error) {
	v := l.View(nil, 0)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &choice{device: l.cfg.Device, tokens: l.tokens}
	for _, d := range v.allowed(true) {
		n, _, err := c.whole(d)
		if err != nil {
			return 0, err
		}
		tokens += n
	}
	return tokens, nil
}
