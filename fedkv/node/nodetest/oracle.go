package nodetest

import (
	"slices"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
)

// Oracle says what the publisher's logits of a session must be, bit for bit. It knows no participants: it is one pass
// over the whole token stream with an explicit mask (fedkv.Visible), in which every row exists twice, as its owner
// holds it and as it looks after the journey to somebody else.
type Oracle struct {
	Engine    *Engine
	Prefix    []fedkv.Token
	Segments  [][]fedkv.Token // by origin, the publisher's last
	Schedules fedkv.Schedules
	Types     fedkv.WireTypes
	Positions fedkv.Positions

	// Layout is the evaluated stream; nil: everybody's. Committed is the one that contributors' true positions come
	// from; nil: the same.
	Layout    *fedkv.Layout
	Committed *fedkv.Layout
	// Hidden says who went on without whose rows, and from which layer on.
	Hidden []fedkvtest.Hidden
}

// layout is the stream of all segments, or the one that was given.
func (o Oracle) layout() fedkv.Layout {
	if o.Layout != nil {
		return *o.Layout
	}
	lengths := make([]int, len(o.Segments))
	for i, s := range o.Segments {
		lengths[i] = len(s)
	}
	l, err := fedkv.NewLayout(len(o.Prefix), lengths)
	if err != nil {
		panic(err) // a test's own segments
	}
	return l
}

// Logits of the publisher's tokens, [tokens][vocabulary].
func (o Oracle) Logits() [][]float32 {
	l := o.layout()
	tokens := slices.Clone(o.Prefix)
	positions := make([]int, l.Total()) // at which each token was evaluated
	shifts := make([]int, l.Total())    // by which its K is rotated for others
	for i := range positions {
		positions[i] = i
	}
	publisher := l.Segments[len(l.Segments)-1]
	for _, s := range l.Segments {
		tokens = append(tokens, o.Segments[s.Origin]...)
		at := s.Offset
		switch {
		case s == publisher:
		case o.Positions == fedkv.Canonical:
			at = l.Prefix
		case o.Committed != nil:
			from, _ := o.Committed.Segment(s.Origin)
			at = from.Offset
		}
		for i := range s.Tokens {
			positions[s.Offset+i], shifts[s.Offset+i] = at+i, s.Offset-at
		}
	}
	pass := o.Engine.Model.Begin(tokens, positions)
	for layer := range o.Engine.Model.Layers {
		own := throughTypes(pass.Rows(), half)
		// row 2k is token k's as its owner holds it, 2k+1 as others do: the order of positions stays
		var rows fedkvtest.Rows
		for k := range tokens {
			row := own.Slice(k, k+1)
			rows = rows.Append(row).Append(o.Engine.placed(throughTypes(row, o.Types), shifts[k]))
		}
		pass.Attend(rows, func(q, k int) bool { return o.sees(l, layer, q, k/2, k%2 == 1) })
	}
	return single(pass.Logits()[publisher.Offset:])
}

// sees reports whether token q attends to token k in its owner's form or, if foreign, in everybody else's.
func (o Oracle) sees(l fedkv.Layout, layer, q, k int, foreign bool) bool {
	to, _ := l.Owner(q)
	from, _ := l.Owner(k)
	if foreign != (from != -1 && from != to) || !fedkv.Visible(l, o.Schedules, layer, q, k) {
		return false
	}
	return !slices.ContainsFunc(o.Hidden, func(h fedkvtest.Hidden) bool {
		return h.Receiver == to && h.Origin == from && layer >= h.Layer
	})
}
