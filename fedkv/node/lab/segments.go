package lab

import (
	"errors"
	"fmt"
	"slices"

	"fedattn/fedkv"
)

// Windows cuts a text into n parts of equal length and returns the beginning of each: start, what the model wants at
// the beginning of every stream, then as many of the part's tokens as make total. So one window is the beginning of the
// text, and several are as far apart as they can be.
func Windows(start, text []fedkv.Token, total, n int) ([][]fedkv.Token, error) {
	own := total - len(start)
	switch {
	case n < 1 || own < 1:
		return nil, fmt.Errorf("%d windows of %d tokens: there must be at least one, and room for its text", n, total)
	case len(text)/n < own:
		return nil, fmt.Errorf("the text has %d tokens, %s asked for", len(start)+len(text), asked(n, total))
	}
	windows := make([][]fedkv.Token, n)
	for i := range windows {
		first := i * (len(text) / n)
		windows[i] = slices.Concat(start, text[first:first+own])
	}
	return windows, nil
}

func asked(windows, tokens int) string {
	if windows == 1 {
		return fmt.Sprintf("%d are", tokens)
	}
	return fmt.Sprintf("%d windows of %d are", windows, tokens)
}

// Segmentation shares tokens out among n participants: n segments, none empty, which are the tokens in their order.
type Segmentation func(tokens []fedkv.Token, n int) ([][]fedkv.Token, error)

// Evenly is the paper's tok: segments of equal length, wherever they begin; the last one gets the remainder.
func Evenly(tokens []fedkv.Token, n int) ([][]fedkv.Token, error) {
	if len(tokens) < n {
		return nil, fmt.Errorf("%d tokens leave none for some of %d participants", len(tokens), n)
	}
	segments := make([][]fedkv.Token, 0, n)
	each := len(tokens) / max(1, n)
	for i := range n {
		end := (i + 1) * each
		if i == n-1 {
			end = len(tokens)
		}
		segments = append(segments, tokens[i*each:end:end])
	}
	return segments, nil
}

// Whole is the paper's sem: every unit, be it an example, a paragraph or a document, belongs to one participant. Of the
// places between units, the i-th cut takes the one nearest to i/n of the tokens.
func Whole(units [][]fedkv.Token, n int) ([][]fedkv.Token, error) {
	units = slices.DeleteFunc(slices.Clone(units), func(u []fedkv.Token) bool { return len(u) == 0 })
	if len(units) < n {
		return nil, fmt.Errorf("%d whole units leave none for some of %d participants", len(units), n)
	}
	ends := make([]int, len(units)+1) // ends[u] is how many tokens the first u units have
	for i, u := range units {
		ends[i+1] = ends[i] + len(u)
	}
	all, total := slices.Concat(units...), ends[len(units)]
	segments := make([][]fedkv.Token, 0, n)
	from := 0
	for i := 1; i <= n; i++ {
		to := len(units)
		if i < n {
			to = from + 1 // this one's; those to come need one each
			for u := to; u <= len(units)-(n-i); u++ {
				if distance(n*ends[u], i*total) < distance(n*ends[to], i*total) {
					to = u
				}
			}
		}
		segments = append(segments, all[ends[from]:ends[to]:ends[to]])
		from = to
	}
	return segments, nil
}

func distance(a, b int) int { return max(a-b, b-a) }

// Units cuts tokens after each one that ends a unit.
func Units(tokens []fedkv.Token, ends func(fedkv.Token) bool) [][]fedkv.Token {
	var units [][]fedkv.Token
	first := 0
	for i, t := range tokens {
		if i == len(tokens)-1 || ends(t) {
			units = append(units, tokens[first:i+1])
			first = i + 1
		}
	}
	return units
}

// Paragraphs is a Segmentation into whole lines of text: a unit ends with a token that has a line feed in it.
func Paragraphs(e interface{ Piece(fedkv.Token) []byte }) Segmentation {
	return func(tokens []fedkv.Token, n int) ([][]fedkv.Token, error) {
		segments, err := Whole(Units(tokens, func(t fedkv.Token) bool { return slices.Contains(e.Piece(t), '\n') }), n)
		if err != nil {
			return nil, fmt.Errorf("cut into paragraphs, %w", err)
		}
		return segments, nil
	}
}

// Cut takes the first total tokens of a text: prefix, then contributors' segments of equal length (the last one gets
// the remainder), then the publisher's.
func Cut(tokens []fedkv.Token, total, prefix, publisher, participants int) (Prompt, error) {
	return CutBy(Evenly, tokens, total, prefix, publisher, participants)
}

// CutBy is Cut with another way to share out the contributors' tokens.
func CutBy(share Segmentation, tokens []fedkv.Token, total, prefix, publisher, participants int) (Prompt, error) {
	switch {
	case participants < 1 || participants > fedkv.MaxParticipants:
		return Prompt{}, fmt.Errorf("%d participants: there must be 1 to %d", participants, fedkv.MaxParticipants)
	case prefix < 0 || publisher < 1:
		return Prompt{}, fmt.Errorf("%d prefix and %d publisher tokens: the publisher needs at least one", prefix, publisher)
	case len(tokens) < total:
		return Prompt{}, fmt.Errorf("the text has %d tokens, %d are asked for", len(tokens), total)
	case participants == 1 && total != prefix+publisher:
		return Prompt{}, fmt.Errorf("one participant holds all: %d prefix and %d publisher tokens are not %d", prefix, publisher, total)
	case total-prefix-publisher < participants-1:
		return Prompt{}, fmt.Errorf("%d tokens leave none for some of %d contributors", total, participants-1)
	}
	p := Prompt{Prefix: tokens[:prefix]}
	if participants > 1 {
		var err error
		if p.Segments, err = share(tokens[prefix:total-publisher], participants-1); err != nil {
			return Prompt{}, err
		}
	}
	p.Segments = append(p.Segments, tokens[total-publisher:total])
	return p, nil
}

// CutExamples shares out worked examples and a question. Exclusive, the paper's Q-ex: the publisher alone holds the
// question, and contributors the examples. Otherwise, Q-ag: the question is one more unit of what is cut, and the
// publisher has the last part. With whole, units stay whole.
func CutExamples(prefix []fedkv.Token, examples [][]fedkv.Token, question []fedkv.Token, participants int, whole, exclusive bool) (Prompt, error) {
	units, n := examples, participants
	if exclusive {
		n--
	} else {
		units = append(slices.Clone(examples), question)
	}
	p := Prompt{Prefix: prefix}
	var err error
	switch {
	case participants < 1 || len(question) == 0:
		return Prompt{}, errors.New("there must be a question and somebody who asks it")
	case n == 0 && len(examples) > 0:
		return Prompt{}, errors.New("one participant alone cannot hold the question and nothing else; give it no examples, or let it be cut too")
	case n == 0:
	case whole:
		p.Segments, err = Whole(units, n)
	default:
		p.Segments, err = Evenly(slices.Concat(units...), n)
	}
	if exclusive {
		p.Segments = append(p.Segments, question)
	}
	return p, err
}
