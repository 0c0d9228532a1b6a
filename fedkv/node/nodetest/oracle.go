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
	Wire      fedkv.Wire
	Rows      fedkv.RowPolicy
	Local     fedkv.RowPolicy // which of their own rows participants attend to at local layers
	Positions fedkv.Positions

	// Batches is the contributors' micro-batches, by origin: rows are selected, and centred, among those of one. 0, or
	// none given: the whole segment.
	Batches []int
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
	var stream, positions []int // by token: place in the stream, position of its evaluation
	add := func(at, from, n int) {
		for i := range n {
			stream, positions = append(stream, at+i), append(positions, from+i)
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
		foreign := o.foreign(l, layer, own, positions)
		// row 2k is token k's as its owner holds it, 2k+1 as others do: the order of positions stays
		var rows fedkvtest.Rows
		for k := range tokens {
			rows = rows.Append(own.Slice(k, k+1)).Append(foreign.Slice(k, k+1))
		}
		pass.Attend(rows, func(q, k int) bool {
			if k%2 == 0 {
				return o.seesOwn(l, layer, stream[q], stream[k/2]) && o.Engine.Model.Reaches(layer, positions[q], positions[k/2])
			}
			return foreign.K[k/2] != nil && o.seesForeign(l, layer, stream[q], stream[k/2])
		})
	}
	return single(pass.Logits()[len(tokens)-publisher.Tokens:])
}

// foreign is the rows of a layer as those who do not own them hold them, nil where they are not sent.
func (o Oracle) foreign(l fedkv.Layout, layer int, own fedkvtest.Rows, positions []int) fedkvtest.Rows {
	out := fedkvtest.Rows{K: make([][]float64, len(own.K)), V: make([][]float64, len(own.V))}
	query := o.query(l, layer)
	base := l.Prefix // of the segment among the tokens
	for rank, s := range l.Segments[:len(l.Segments)-1] {
		rows, at := own.Slice(base, base+s.Tokens), positions[base:]
		selection := o.Rows.Of(s.Origin)
		for _, batch := range o.batches(s) {
			var keys []float32
			for _, k := range o.compared(selection, rows.K[batch.first:batch.end], at[batch.first:]) {
				for _, v := range k {
					keys = append(keys, float32(v))
				}
			}
			keep := selection.Select(layer, s.Tokens, batch.first, batch.end-batch.first, keys, query)
			for _, block := range o.blocks(l, layer, rank, batch) {
				var kept fedkvtest.Rows
				var from, to []int32
				for row := block.first; row < block.end; row++ {
					if keep == nil || keep[row-batch.first] {
						kept = kept.Append(rows.Slice(row, row+1))
						from, to = append(from, int32(at[row])), append(to, int32(s.Offset+row))
					}
				}
				if len(from) == 0 {
					continue
				}
				types := o.Wire.At(layer)
				came, err := o.Engine.decode(o.Engine.encode(nil, kept, from, types), layer, to, int(to[0]-from[0]), types)
				if err != nil {
					panic(err) // a test's own rows
				}
				for i := range to {
					row := base + int(to[i]) - s.Offset
					out.K[row], out.V[row] = came.K[i], came.V[i]
				}
			}
		}
		base += s.Tokens
	}
	return out
}

// compared is K rows as they are looked at to choose among them: those that are held against queries were centred at
// position 0, which costs them some bits.
func (o Oracle) compared(s fedkv.Selection, k [][]float64, at []int) [][]float64 {
	if !s.NeedsQueries() {
		return k
	}
	pos := make([]int32, len(k))
	for i := range pos {
		pos[i] = int32(at[i])
	}
	centred := fedkv.F16 | fedkv.Centred
	out, err := decode(encode(nil, o.Engine.turn(k, pos, -1), centred), len(k), len(k[0]), centred)
	if err != nil {
		panic(err) // a test's own rows
	}
	return out
}

// query is what the publisher's segment looks for at a layer if it stands alone behind the prefix: the last token's
// vector and the mean of all, as float16.
func (o Oracle) query(l fedkv.Layout, layer int) fedkv.Query {
	if o.Rows.Kind != fedkv.RowsQuery {
		return fedkv.Query{}
	}
	tokens := slices.Concat(o.Prefix, o.Segments[len(o.Segments)-1])
	positions := make([]int, len(tokens))
	for i := range positions {
		positions[i] = i
	}
	pass := o.Engine.Model.Begin(tokens, positions)
	for pass.Layer() < layer {
		pass.Attend(throughTypes(pass.Rows(), half), func(q, k int) bool { return o.Engine.Model.Reaches(pass.Layer(), q, k) })
	}
	own := single(pass.Queries()[l.Prefix:])
	mean := make([]float64, len(own[0]))
	for _, row := range own {
		for i, v := range row {
			mean[i] += float64(v)
		}
	}
	vectors := slices.Clone(own[len(own)-1])
	for _, v := range mean {
		vectors = append(vectors, float32(v/float64(len(own))))
	}
	q := fedkv.Query{Heads: o.Engine.Model.KVHeads, Vectors: make([]float32, len(vectors))}
	if err := fedkv.F16.DecodeRows(q.Vectors, len(mean), fedkv.F16.AppendRows(nil, vectors, len(mean))); err != nil {
		panic(err)
	}
	return q
}

// span is rows [first, end) of a segment.
type span struct{ first, end int }

// batches cuts a segment as its owner evaluates it.
func (o Oracle) batches(s fedkv.Segment) (list []span) {
	n := s.Tokens
	if s.Origin < len(o.Batches) && o.Batches[s.Origin] > 0 {
		n = o.Batches[s.Origin]
	}
	for first := 0; first < s.Tokens; first += n {
		list = append(list, span{first, min(first+n, s.Tokens)})
	}
	return list
}

// blocks cuts rows where the window of somebody who needs them begins.
func (o Oracle) blocks(l fedkv.Layout, layer, rank int, rows span) (list []span) {
	var cuts []int
	for _, to := range o.Schedules.Recipients(rank, layer, len(l.Segments)) {
		cuts = append(cuts, o.Engine.Shape().Layers[layer].FirstRow(l.Segments[rank], l.Segments[to].Offset))
	}
	slices.Sort(cuts)
	for _, cut := range append(cuts, rows.end) {
		if cut > rows.first && cut <= rows.end {
			list = append(list, span{rows.first, cut})
			rows.first = cut
		}
	}
	return list
}

// seesOwn reports whether the token at position q of the stream attends to the one at k as its owner holds it. Windows
// are for the positions at which the two were evaluated.
func (o Oracle) seesOwn(l fedkv.Layout, layer, q, k int) bool {
	to, _ := l.Owner(q)
	from, _ := l.Owner(k)
	return (from == -1 || from == to) && fedkv.Visible(l, o.Schedules, o.Local, fedkv.Shape{}, layer, q, k)
}

// seesForeign reports whether the token at position q attends to the one at k, which belongs to somebody else.
func (o Oracle) seesForeign(l fedkv.Layout, layer, q, k int) bool {
	to, _ := l.Owner(q)
	from, _ := l.Owner(k)
	if from == -1 || from == to || !fedkv.Visible(l, o.Schedules, o.Local, o.Engine.Shape(), layer, q, k) {
		return false
	}
	return !slices.ContainsFunc(o.Hidden, func(h fedkvtest.Hidden) bool {
		return h.Receiver == to && h.Origin == from && layer >= h.Layer
	})
}
