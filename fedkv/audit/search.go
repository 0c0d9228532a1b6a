package audit

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"fedattn/fedkv"
)

// Search tries the model's own guesses behind the text that is known so far.
type Search struct {
	Trials Trials
	Layers int           // of the model
	Prefix []fedkv.Token // public tokens before the text, at least one
	// Batch of candidates are tried at a time, at most Tries in all. A candidate whose rows are much nearer than all others'
	// of its batch ends the search for a token.
	Batch, Tries int
}

// clear: the best candidate's distance is at most this share of the second best's. The right one is as near as the wire
// type's rounding lets it be; wrong ones are about equally far.
const clear = 0.3

// Text reads every exposure, all of one text. Those that agree about the text so far share evaluations.
//
// A token whose rows were not sent is first the likeliest one; as soon as rows follow it, likely ones are tried in its place
// and the one after which these rows are nearest stays.
func (s Search) Text(ctx context.Context, exposures []Exposure) ([]Reading, error) {
	switch {
	case len(exposures) == 0:
		return nil, nil
	case len(s.Prefix) == 0 || s.Batch < 2 || s.Tries < 1:
		return nil, fmt.Errorf("audit: a search of %d candidates, %d at a time, behind %d tokens", s.Tries, s.Batch, len(s.Prefix))
	}
	if err := valid(exposures, s.Layers); err != nil {
		return nil, err
	}
	readers := make([]*reader, len(exposures))
	for i, e := range exposures {
		readers[i] = &reader{Exposure: e}
	}
	for at := range exposures[0].K {
		for _, group := range agreeing(readers) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := s.token(group, at); err != nil {
				return nil, err
			}
		}
	}
	readings := make([]Reading, len(readers))
	for i, r := range readers {
		readings[i] = r.text
	}
	return readings, nil
}

// reader is an exposure and what was read of it so far.
type reader struct {
	Exposure
	text []fedkv.Token

	// while a token is searched for: the best two candidates
	best          fedkv.Token
	first, second float64
	settled       bool
}

// begin forgets the candidates for the token before.
func (r *reader) begin(best fedkv.Token) {
	r.best, r.first, r.second, r.settled = best, math.Inf(1), math.Inf(1), false
}

// agreeing groups readers by what they have read.
func agreeing(readers []*reader) (groups [][]*reader) {
	for _, r := range readers {
		i := slices.IndexFunc(groups, func(g []*reader) bool { return slices.Equal(g[0].text, r.text) })
		if i < 0 {
			groups = append(groups, []*reader{r})
		} else {
			groups[i] = append(groups[i], r)
		}
	}
	return groups
}

// token reads the next one for a group that agrees about the text before it.
func (s Search) token(group []*reader, at int) error {
	before := slices.Clone(group[0].text)
	likely, err := s.likely(before)
	if err != nil {
		return err
	}
	var searching []*reader
	for _, r := range group {
		r.begin(likely[0])
		if r.K[at] != nil {
			searching = append(searching, r)
		}
	}
	for from := 0; from < min(s.Tries, len(likely)) && len(searching) > 0; from += s.Batch {
		candidates := likely[from:min(from+s.Batch, s.Tries, len(likely))]
		layers, err := s.layers(searching)
		if err != nil {
			return err
		}
		rows, err := s.Trials.Try(singles(candidates), layers)
		if err != nil {
			return err
		}
		for _, r := range searching {
			r.consider(rows[r.Layer], candidates, at)
		}
		searching = slices.DeleteFunc(searching, func(r *reader) bool { return r.settled })
	}
	for _, r := range group {
		r.text = append(r.text, r.best)
	}
	for _, r := range group {
		if err := s.fill(r, at); err != nil {
			return err
		}
	}
	return nil
}

// likely is the vocabulary in the order in which the model expects it after a text.
func (s Search) likely(text []fedkv.Token) ([]fedkv.Token, error) {
	next, err := s.Trials.Know(slices.Concat(s.Prefix, text))
	if err != nil {
		return nil, err
	}
	order := make([]fedkv.Token, len(next))
	for i := range order {
		order[i] = fedkv.Token(i)
	}
	slices.SortFunc(order, func(a, b fedkv.Token) int { return cmp.Or(cmp.Compare(next[b], next[a]), cmp.Compare(a, b)) })
	return order, nil
}

func (s Search) layers(readers []*reader) (fedkv.Schedule, error) {
	var layers []int
	for _, r := range readers {
		layers = append(layers, r.Layer)
	}
	return fedkv.NewSchedule(s.Layers, layers...)
}

func singles(tokens []fedkv.Token) [][]fedkv.Token {
	out := make([][]fedkv.Token, len(tokens))
	for i := range tokens {
		out[i] = tokens[i : i+1]
	}
	return out
}

// consider compares candidates with the rows at a position.
func (r *reader) consider(rows Rows, candidates []fedkv.Token, at int) {
	scale := newScale(rows, len(candidates))
	for i, c := range candidates {
		d := scale.distance(rows, i, r.K[at], r.V[at])
		switch {
		case d < r.first:
			r.second, r.first, r.best = r.first, d, c
		case d < r.second:
			r.second = d
		}
	}
	r.settled = r.first <= clear*r.second
}

// fill looks again at the tokens without rows just before one with rows: at several twice, since each is judged with the
// others as they are known.
func (s Search) fill(r *reader, at int) error {
	if r.K[at] == nil {
		return nil
	}
	from := at
	for from > 0 && r.K[from-1] == nil {
		from--
	}
	layers, err := s.layers([]*reader{r})
	if err != nil {
		return err
	}
	rounds := 1
	if at-from > 1 {
		rounds = 2
	}
	for i := range rounds * (at - from) {
		gap := from + i%(at-from)
		likely, err := s.likely(r.text[:gap])
		if err != nil {
			return err
		}
		candidates := likely[:min(s.Batch, len(likely))]
		lines := make([][]fedkv.Token, len(candidates))
		for i, c := range candidates {
			lines[i] = append([]fedkv.Token{c}, r.text[gap+1:at+1]...)
		}
		rows, err := s.Trials.Try(lines, layers)
		if err != nil {
			return err
		}
		r.begin(likely[0])
		r.consider(rows[r.Layer], candidates, at)
		r.text[gap] = r.best
	}
	return nil
}
