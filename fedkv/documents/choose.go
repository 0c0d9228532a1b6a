package documents

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"fedattn/fedkv"
)

// choice is the passages of each document that go into a segment, by document.
type choice struct {
	device string
	tokens func(text string) ([]fedkv.Token, error)
	docs   []*document // that may be shared here, by name
	budget int         // tokens of the whole segment
	used   int
	chosen map[*document][]bool
	spent  map[*document]int // tokens, without what stands around passages
}

// header stands above a stretch of passages, so that whoever answers can say where something is from.
func header(device, document string) string { return "[" + device + ": " + document + "]\n" }

// around is what a stretch costs besides its passages.
func (c *choice) around(d *document) (int, error) {
	if d.heading == nil {
		var err error
		if d.heading, err = c.tokens(header(c.device, d.Name)); err != nil {
			return 0, err
		}
	}
	end, err := c.tokens(stretchEnd)
	return len(d.heading) + len(end), err
}

// cost is how many tokens a passage has.
func (c *choice) cost(d *document, i int) (int, error) {
	if d.parts[i].tokens == nil {
		tokens, err := c.tokens(d.parts[i].text)
		if err != nil {
			return 0, err
		}
		d.parts[i].tokens = tokens
	}
	return len(d.parts[i].tokens), nil
}

// whole is how many tokens all of a document has, and whether that is what its owner allows.
func (c *choice) whole(d *document) (tokens int, allowed bool, err error) {
	for i := range d.parts {
		n, err := c.cost(d, i)
		if err != nil {
			return 0, false, err
		}
		tokens += n
	}
	around, err := c.around(d)
	return tokens + around, d.Document.Tokens == 0 || tokens <= d.Document.Tokens, err
}

// add takes a passage in, if there is room for it.
func (c *choice) add(d *document, i int) (bool, error) {
	marks := c.chosen[d]
	if marks == nil {
		marks = make([]bool, len(d.parts))
	}
	if marks[i] {
		return true, nil
	}
	own, err := c.cost(d, i)
	if err != nil {
		return false, err
	}
	around, err := c.around(d)
	if err != nil {
		return false, err
	}
	need := own
	switch before, after := i > 0 && marks[i-1], i+1 < len(marks) && marks[i+1]; {
	case before && after:
		need -= around // two stretches become one
	case !before && !after:
		need += around
	}
	if c.used+need > c.budget || d.Document.Tokens > 0 && c.spent[d]+own > d.Document.Tokens {
		return false, nil
	}
	marks[i] = true
	c.chosen[d] = marks
	c.used += need
	c.spent[d] += own
	return true, nil
}

// all takes in everything, if it fits.
func (c *choice) all() (fits bool, err error) {
	sum := 0
	for _, d := range c.docs {
		n, allowed, err := c.whole(d)
		if err != nil {
			return false, err
		}
		if sum += n; sum > c.budget-c.used || !allowed {
			return false, nil
		}
	}
	for _, d := range c.docs {
		if err := c.fill(d); err != nil {
			return false, err
		}
	}
	return true, nil
}

// fill takes in as much of a document as fits: from its beginning, or of what grows at its end from there.
func (c *choice) fill(d *document) error {
	for n := range d.parts {
		i := n
		if d.grows {
			i = len(d.parts) - 1 - n
		}
		if fits, err := c.add(d, i); err != nil || !fits {
			return err
		}
	}
	return nil
}

// pinned takes in what its owner wants in every segment.
func (c *choice) pinned() error {
	for _, d := range c.docs {
		if !d.Pinned {
			continue
		}
		if err := c.fill(d); err != nil {
			return err
		}
	}
	return nil
}

// asked takes in what a question finds, the best first. A passage that is found weakly is not given away.
func (c *choice) asked(ctx context.Context, x *index, question string) (found bool, err error) {
	hits, err := x.search(ctx, question)
	if err != nil || len(hits) == 0 {
		return false, err
	}
	byName := map[string]*document{}
	for _, d := range c.docs {
		byName[d.Name] = d
	}
	best := 0.0
	for _, h := range hits {
		d := byName[h.document]
		if d == nil || h.part >= len(d.parts) { // not for this peer, or changed since
			continue
		}
		best = max(best, h.score)
		if h.score < weakHit*best {
			break
		}
		fits, err := c.add(d, h.part)
		if err != nil {
			return false, err
		}
		found = found || fits
	}
	return found, nil
}

// newest takes in documents in the owner's fixed order: the newest first.
func (c *choice) newest() error {
	docs := slices.Clone(c.docs)
	slices.SortStableFunc(docs, func(a, b *document) int {
		return cmp.Or(b.Modified.Compare(a.Modified), strings.Compare(a.Name, b.Name))
	})
	for _, d := range docs {
		if err := c.fill(d); err != nil {
			return err
		}
	}
	return nil
}

// stretchEnd is what follows a stretch of passages.
const stretchEnd = "\n"

// text is the segment: stretches in the order of documents and of their texts, each under its source.
func (c *choice) text(opening string) (t fedkv.Text, err error) {
	write := func(name string, tokens []fedkv.Token) {
		t.Tokens = append(t.Tokens, tokens...)
		if last := len(t.Sources) - 1; last >= 0 && t.Sources[last].Name == name {
			t.Sources[last].Tokens += len(tokens)
		} else if len(tokens) > 0 {
			t.Sources = append(t.Sources, fedkv.Source{Name: name, Tokens: len(tokens)})
		}
	}
	begin, err := c.tokens(opening)
	if err != nil {
		return t, err
	}
	end, err := c.tokens(stretchEnd)
	if err != nil {
		return t, err
	}
	write("", begin)
	for _, d := range c.docs {
		for i, in := range c.chosen[d] {
			if !in {
				continue
			}
			if i == 0 || !c.chosen[d][i-1] {
				write(d.Name, d.heading)
			}
			write(d.Name, d.parts[i].tokens)
			if i+1 == len(d.parts) || !c.chosen[d][i+1] {
				write(d.Name, end)
			}
		}
	}
	return t, nil
}
