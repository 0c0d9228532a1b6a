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

	// Layout is the evaluated stream, which may have gaps; nil: everybody's.
	Layout *fedkv.Layout
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
	var stream, positions, shifts []int // by token: place in the stream, position of its evaluation, K's rotation for others
	add := func(at, from, n int) {
		for i := range n {
			stream, positions, shifts = append(stream, at+i), append(positions, from+i), append(shifts, at-from)
		}
	}
	add(0, 0, l.Prefix)
	publisher := l.Segments[len(l.Segments)-1]
	for _, s := range l.Segments {
		tokens = append(tokens, o.Segments[s.Origin]...)
		from := s.Offset
		if o.Positions == fedkv.Canonical && s != publisher {
			from = l.Prefix
		}
		add(s.Offset, from, s.Tokens)
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
		pass.Attend(rows, func(q, k int) bool { return o.sees(l, layer, stream[q], stream[k/2], k%2 == 1) })
	}
	return single(pass.Logits()[len(tokens)-publisher.Tokens:])
}

// sees reports whether the token at position q attends to the one at position k in its owner's form or, if foreign, in
// everybody else's.
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
