package fedkv

import (
	"fmt"
	"slices"
)

// Segment is the part of the token stream that one participant owns: positions [Offset, Offset+Tokens).
type Segment struct{ Origin, Offset, Tokens int }

// End is the position after the segment's last token.
func (s Segment) End() int { return s.Offset + s.Tokens }

// Layout says who owns which position of the token stream prefix ‖ segment 1 ‖ … ‖ segment N (the paper's
// concatenation of the participants' inputs). Its invariants, held by NewLayout, Without and Vacate:
//
//  1. positions [0, Prefix) are the public prefix and belong to nobody;
//  2. Segments are in token order, the first begins at Prefix, each begins where the one before ends; only
//     Vacate leaves gaps;
//  3. origins ascend, and the last segment is the publisher's.
type Layout struct {
	Prefix   int
	Segments []Segment
}

// NewLayout lays out one segment per entry of tokens, in this order: origin i owns tokens[i] ≥ 1 tokens, and
// the last origin is the publisher. The whole stream has at most MaxTokens tokens.
func NewLayout(prefix int, tokens []int) (Layout, error) {
	if prefix < 0 || prefix > MaxPrefix {
		return Layout{}, fmt.Errorf("layout: prefix of %d tokens, must be 0 to %d", prefix, MaxPrefix)
	}
	if n := len(tokens); n < 1 || n > MaxParticipants {
		return Layout{}, fmt.Errorf("layout: %d participants, must be 1 to %d", n, MaxParticipants)
	}
	segments := make([]Segment, len(tokens))
	for i, n := range tokens {
		if n < 1 || n > MaxTokens {
			return Layout{}, fmt.Errorf("layout: participant %d owns %d tokens, must be 1 to %d", i, n, MaxTokens)
		}
		segments[i] = Segment{Origin: i, Tokens: n}
	}
	l := place(prefix, segments)
	if l.Total() > MaxTokens {
		return Layout{}, fmt.Errorf("layout: %d tokens in all, must be at most %d", l.Total(), MaxTokens)
	}
	return l, nil
}

// place gives segments, which are in token order, their offsets. It writes to the slice.
func place(prefix int, segments []Segment) Layout {
	offset := prefix
	for i := range segments {
		segments[i].Offset = offset
		offset += segments[i].Tokens
	}
	return Layout{Prefix: prefix, Segments: segments}
}

// Total is the number of positions, prefix included.
func (l Layout) Total() int {
	if len(l.Segments) == 0 {
		return l.Prefix
	}
	return l.Segments[len(l.Segments)-1].End()
}

// Participants is the number of origins of the session, those missing from this layout included: the last
// segment is the publisher's, and its origin is the highest. It is what Schedules takes as participants.
func (l Layout) Participants() int {
	if len(l.Segments) == 0 {
		return 0
	}
	return l.Segments[len(l.Segments)-1].Origin + 1
}

// Segment is the segment of an origin, or false if this layout has none.
func (l Layout) Segment(origin int) (Segment, bool) {
	if rank := l.rank(origin); rank >= 0 {
		return l.Segments[rank], true
	}
	return Segment{}, false
}

// rank is an origin's place in token order among those who are in the layout, or -1. Sessions ask Schedules
// about ranks rather than origins: nobody computes or sends what only somebody absent would need.
func (l Layout) rank(origin int) int {
	return slices.IndexFunc(l.Segments, func(s Segment) bool { return s.Origin == origin })
}

// Owner is the origin that owns a position, or -1 for the prefix. It is false for positions outside
// [0, Total).
func (l Layout) Owner(pos int) (origin int, ok bool) {
	if pos >= 0 && pos < l.Prefix {
		return -1, true
	}
	for _, s := range l.Segments {
		if pos >= s.Offset && pos < s.End() {
			return s.Origin, true
		}
	}
	return 0, false
}

// Without is the layout as if the lost origins had never joined: their segments are gone, later segments
// move down to close the gaps, and everybody keeps the origin number. The publisher cannot be lost; its
// origin is ignored. The receiver is not changed.
func (l Layout) Without(lost ...int) Layout { return place(l.Prefix, l.stay(lost)) }

// Vacate is the layout without the lost origins' segments, everybody else staying where they are: for rows
// that were evaluated in place, and need not move. The publisher cannot be lost. The receiver is not changed.
func (l Layout) Vacate(lost ...int) Layout { return Layout{Prefix: l.Prefix, Segments: l.stay(lost)} }

// stay lists the segments of those who are not lost, and the publisher's.
func (l Layout) stay(lost []int) []Segment {
	var stay []Segment
	for i, s := range l.Segments {
		if i == len(l.Segments)-1 || !slices.Contains(lost, s.Origin) {
			stay = append(stay, s)
		}
	}
	return stay
}

// Span lists the positions [first, first+n), none if n is not positive.
func Span(first, n int) []int32 {
	pos := make([]int32, max(n, 0))
	for i := range pos {
		pos[i] = int32(first + i)
	}
	return pos
}
