package fedkv

// Visible is FedAttn in one predicate: whether the token at position q attends to the token at position k in
// the given layer. It is the mask of a centralised run that computes what the participants compute together
// (the paper's local and global self-attention), and the oracle for everything faster.
//
//  1. Nobody sees the future: k ≤ q.
//  2. Everybody sees the prefix, and the prefix sees only itself.
//  3. Within a segment attention is causal at every layer. At local layers a participant may leave out rows of its own
//     segment: these are then seen by their own token only (the paper's sparse local attention).
//  4. Rows of another participant are seen only at the sync layers of q's owner.
//  5. At a layer whose attention has a window W, nobody sees further back than k > q - W, the prefix included.
//
// Because of rule 1 the rows of rule 4 always come from earlier segments: a triangle, not an all-gather.
// Positions outside [0, l.Total()) see nothing and are not seen.
func Visible(l Layout, s Schedules, local RowPolicy, shape Shape, layer, q, k int) bool {
	if window := shape.Window(layer); k > q || window > 0 && k <= q-window {
		return false
	}
	to, ok := l.Owner(q)
	if !ok {
		return false
	}
	from, ok := l.Owner(k)
	if !ok {
		return false
	}
	switch {
	case from == -1 || s.Of(to, l.Participants()).Sync(layer):
		return true
	case from != to:
		return false
	}
	own, _ := l.Segment(to)
	return q == k || local.Of(to).Keeps(layer, own.Tokens, k-own.Offset)
}
