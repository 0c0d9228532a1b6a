package node

import (
	"cmp"
	"math"
	"slices"

	"fedattn/fedkv"
)

// Attended is how much the beginning of an answer looked at a contributor's rows. Shares of attention by themselves tell
// little: most goes to the prefix and to what the user says, and long texts collect some everywhere. Who knows the answer has
// single rows that are looked at sharply, so squares of shares are summed, over these rows, some layers and all heads.
type Attended struct {
	Number   int // of the share
	Name     string
	Document string // of which the rows are, if the contributor says; empty: of all that it shares
	Weight   float64
}

// watching notes what the last token of the question, from which the answer begins, looks for: its queries, and the
// logarithm of what all rows together amount to. What each contributor's rows amount to is computed afterwards.
type watching struct {
	asking *asking
	layers fedkv.Schedule
	looks  map[int]look // by layer
}

// look is what the token looked for at a layer.
type look struct {
	pos     int
	queries []float32 // [heads × head dim]
	sums    []float32 // [heads]; nil: the layer was not evaluated to the end
}

// watched chooses the sync layers from half of the depth to five sixths, where models look up what they will say; of a
// schedule without these, its last third.
func watched(sync fedkv.Schedule) fedkv.Schedule {
	depth, all := sync.Len(), sync.Layers()
	chosen := slices.DeleteFunc(slices.Clone(all), func(l int) bool { return l < depth/2 || l >= depth*5/6 })
	if len(chosen) == 0 {
		chosen = all[len(all)-(len(all)+2)/3:]
	}
	s, _ := fedkv.NewSchedule(max(1, depth), chosen...) // none of them is beyond the last
	return s
}

// watch begins to look, with the next evaluation, until unwatch. An engine that cannot show what is looked for names no
// sources, and rows that stay home are none.
func (c *Conversation) watch() {
	c.looked = nil
	if !c.chat.Sources || c.talk.sync.Count() == 0 || len(c.talk.placed) == 0 && len(c.joining) == 0 {
		return
	}
	c.watching = &watching{asking: c.asking, layers: watched(c.talk.sync), looks: map[int]look{}}
	if c.shareAttention() != nil {
		c.watching = nil
		_ = c.shareAttention()
	}
}

// unwatch ends that. What was seen is kept for tellSources.
func (c *Conversation) unwatch() {
	if c.watching != nil {
		c.looked, c.watching = c.watching, nil
		_ = c.shareAttention() // it worked before
	}
}

// shareAttention has the cache show its attention to those who have to see it.
func (c *Conversation) shareAttention() error {
	cache, ok := c.talk.cache.(HomeCache)
	if !ok {
		return fedkv.Errorf(fedkv.CodePlan, "this engine cannot query rows that stay elsewhere; use gather")
	}
	w := c.watching
	if w == nil {
		if len(c.asking.members) == 0 {
			return cache.SetHome(nil)
		}
		return cache.SetHome(c.asking.home())
	}
	return cache.SetHome(&Home{
		Layers: fedkv.Schedules{Contributors: w.layers, Publisher: c.asking.shared()}.Any(),
		Ask: func(layer, first, n int, queries []float32) error {
			w.ask(layer, first, n, queries)
			if !c.asking.shared().Sync(layer) {
				return nil
			}
			return c.asking.ask(layer, first, n, queries)
		},
		Merge: func(layer, first, n int, own fedkv.Partial) error {
			if c.asking.shared().Sync(layer) {
				if err := c.asking.merge(layer, first, n, own); err != nil {
					return err
				}
			}
			w.merge(layer, n, own.LSE)
			return nil
		},
	})
}

// last is the last of n tokens' part of values, which are the engine's own.
func last(n int, values []float32) []float32 {
	return slices.Clone(values[len(values)/n*(n-1):])
}

func (w *watching) ask(layer, first, n int, queries []float32) {
	if w.layers.Sync(layer) { // of several micro-batches the last one stays
		w.looks[layer] = look{pos: first + n - 1, queries: last(n, queries)}
	}
}

func (w *watching) merge(layer, n int, sums []float32) {
	if l, ok := w.looks[layer]; ok {
		l.sums = last(n, sums)
		w.looks[layer] = l
	}
}

// tellSources says in the report what was looked at, the most first, once an answer.
func (c *Conversation) tellSources() {
	w := c.looked
	if w == nil {
		return
	}
	c.looked = nil
	var list []Attended
	for _, s := range c.talk.placed {
		if s.contact.Home {
			continue
		}
		for _, part := range partsOf(s) {
			weight := 0.0
			for _, layer := range w.layers.Layers() {
				weight += c.weight(s, part, layer, w.looks[layer])
			}
			list = append(list, Attended{Number: s.number, Name: s.contact.Name, Document: part.document, Weight: weight})
		}
	}
	slices.SortStableFunc(list, func(a, b Attended) int { return cmp.Compare(b.Weight, a.Weight) })
	c.note(func(r *Report) { r.Sources = list })
}

// part is tokens [first, end) of a segment.
type part struct {
	document   string
	first, end int
}

// partsOf is a contributor's documents, as far as it says which they are; what stands around them is part of none.
func partsOf(s *share) (list []part) {
	if s.gathering != nil {
		at := 0
		s.gathering.x.mu.Lock()
		for _, d := range s.gathering.machine.Sources(s.origin) {
			if d.Name != "" {
				list = append(list, part{d.Name, at, at + d.Tokens})
			}
			at += d.Tokens
		}
		s.gathering.x.mu.Unlock()
	}
	if len(list) == 0 {
		list = []part{{"", 0, s.tokens}}
	}
	return list
}

// weight sums, over heads, the squares of the shares of attention that went to a part of a contributor's rows at a layer. With
// scores s and their logarithm of the sum of exponentials over all rows L, that is the sum of exp(2s - 2L): what twice
// the queries amount to over these rows.
func (c *Conversation) weight(s *share, p part, layer int, l look) (sum float64) {
	if l.sums == nil {
		return 0
	}
	rows := c.rows(s, p, layer)
	if rows == nil {
		return 0
	}
	defer rows.Close()
	for i := range l.queries {
		l.queries[i] *= 2
	}
	partial := resized(fedkv.Partial{}, c.chat.Engine.Shape().Layers[layer], 1)
	err := rows.Attend(layer, 0, l.pos, 1, l.queries, partial)
	for i := range l.queries {
		l.queries[i] /= 2
	}
	if err != nil || len(partial.LSE) != len(l.sums) {
		return 0
	}
	for i, whole := range l.sums {
		sum += math.Exp(math.Min(0, float64(partial.LSE[i])-2*float64(whole)))
	}
	return sum
}

// rows copies a part of a contributor's rows of a layer out of the cache; nil if there are none.
func (c *Conversation) rows(s *share, p part, layer int) KeptRows {
	if s.masked || layer >= len(s.written) {
		return nil
	}
	var there []int32
	for _, row := range s.written[layer] {
		if int(row) >= p.first && int(row) < p.end {
			there = append(there, row)
		}
	}
	if len(there) == 0 {
		return nil
	}
	only, err := fedkv.NewSchedule(len(s.written), layer)
	if err != nil {
		return nil
	}
	rows, err := c.talk.cache.(HomeCache).KeepRows(only, moved(there, s.at)) // it is one: it was watched
	if err != nil {
		return nil
	}
	return rows
}
