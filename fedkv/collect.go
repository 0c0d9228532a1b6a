package fedkv

import "slices"

// Collector is a receiver's book of the blocks of one session: which rows it expects, which have been offered
// and which are here. It never holds a row. Its invariants:
//
//  1. a row is offered at most once and accepted at most once, so what a peer can make a receiver stage is
//     bounded by what the plan expects of it;
//  2. an origin's rows come over its own link or not at all;
//  3. nothing of a lost origin is accepted any more.
//
// What the book says depends on which blocks came, never on the order in which they came.
type Collector struct {
	session SessionID
	shape   Shape
	types   WireTypes
	origins [MaxParticipants]*account // nil: nothing is expected of this origin
}

// account is the book's page for one origin.
type account struct {
	tokens int
	layers Schedule
	pages  []page // by layer
	lost   bool
	rows   int
	bytes  int64
}

// page holds the rows of one layer: those that are here, and those that have been offered and are not.
type page struct{ here, offered pieces }

// NewCollector is the empty book of a session whose rows have these shapes and types.
func NewCollector(session SessionID, shape Shape, types WireTypes) *Collector {
	return &Collector{session: session, shape: shape, types: types}
}

// Expect opens an origin's account: rows [0, tokens) of each of the layers. It fails if the origin has one, or
// if the rows of a layer cannot be stored in the session's types.
func (c *Collector) Expect(origin, tokens int, layers Schedule) error {
	if origin < 0 || origin >= MaxParticipants {
		return Errorf(CodeRange, "origin %d, must be 0 to %d", origin, MaxParticipants-1)
	}
	if c.origins[origin] != nil {
		return Errorf(CodeDuplicate, "rows of origin %d are expected already", origin)
	}
	if tokens < 1 || tokens > MaxTokens {
		return Errorf(CodeRange, "origin %d has %d tokens, must be 1 to %d", origin, tokens, MaxTokens)
	}
	if layers.Len() != len(c.shape.Layers) {
		return Errorf(CodeShape, "a schedule for %d layers, the model has %d", layers.Len(), len(c.shape.Layers))
	}
	for _, l := range layers.Layers() {
		if _, _, err := c.shape.Layers[l].BlockSize(c.types, 1); err != nil {
			return err
		}
	}
	c.origins[origin] = &account{tokens: tokens, layers: layers, pages: make([]page, layers.Len())}
	return nil
}

// Check says whether a block that came over the link of origin from may be read: it is of this session, of
// from's own rows, of a live origin, at an expected layer, of the agreed types, within the segment, of the
// length that all this implies, and holds no row that was offered or accepted before. Errors have the codes
// session, forbidden, lost, range, types and duplicate. Check changes nothing.
func (c *Collector) Check(from int, h BlockHeader) error {
	_, err := c.check(from, h)
	return err
}

func (c *Collector) check(from int, h BlockHeader) (*page, error) {
	if h.Session != c.session {
		return nil, Errorf(CodeSession, "a block of session %v in session %v", h.Session, c.session)
	}
	if h.Origin != from {
		return nil, Errorf(CodeForbidden, "origin %d sent a block of origin %d", from, h.Origin)
	}
	a := c.account(from)
	if a == nil {
		return nil, Errorf(CodeForbidden, "no rows are expected of origin %d", from)
	}
	if a.lost {
		return nil, Errorf(CodeLost, "the session goes on without origin %d", from)
	}
	if !a.layers.Sync(h.Layer) {
		return nil, Errorf(CodeRange, "layer %d of origin %d is not expected, only %v", h.Layer, from, a.layers)
	}
	if h.Types != c.types {
		return nil, Errorf(CodeTypes, "rows of %v in a session of %v", h.Types, c.types)
	}
	if h.First < 0 || h.Rows < 1 || h.First >= a.tokens || h.Rows > a.tokens-h.First {
		return nil, Errorf(CodeRange, "layer %d: %d rows from row %d of a segment of %d tokens", h.Layer, h.Rows, h.First, a.tokens)
	}
	if _, _, err := h.Split(c.shape.Layers[h.Layer]); err != nil {
		return nil, err
	}
	p := &a.pages[h.Layer]
	rows := piece{h.First, h.First + h.Rows}
	if p.here.overlap(rows) || p.offered.overlap(rows) {
		return nil, Errorf(CodeDuplicate, "layer %d: rows %d to %d of origin %d came before", h.Layer, rows.first, rows.end-1, from)
	}
	if len(p.here)+len(p.offered) >= maxPieces {
		return nil, Errorf(CodeRange, "layer %d: more than %d pieces", h.Layer, maxPieces)
	}
	return p, nil
}

// Offer is Check, and reserves the rows: no other block with any of them will pass until the session ends.
// Call it before the payload is read, and Accept once it is here and good; if it never is, lose the origin.
func (c *Collector) Offer(from int, h BlockHeader) error {
	p, err := c.check(from, h)
	if err != nil {
		return err
	}
	p.offered = p.offered.insert(piece{h.First, h.First + h.Rows})
	return nil
}

// Accept books a block whose payload is here and good. A block that was not offered must pass Check.
func (c *Collector) Accept(from int, h BlockHeader) error {
	rows := piece{h.First, h.First + h.Rows}
	p := c.offer(from, h)
	if p != nil {
		p.offered = p.offered.remove(rows)
	} else {
		var err error
		if p, err = c.check(from, h); err != nil {
			return err
		}
	}
	p.here = p.here.insert(rows).merge()
	a := c.origins[from]
	a.rows += h.Rows
	a.bytes += int64(h.Length)
	return nil
}

// offer is the page on which exactly this block was offered, or nil.
func (c *Collector) offer(from int, h BlockHeader) *page {
	a := c.account(from)
	if h.Session != c.session || h.Origin != from || a == nil || a.lost || h.Layer < 0 || h.Layer >= len(a.pages) || h.Types != c.types {
		return nil
	}
	if _, _, err := h.Split(c.shape.Layers[h.Layer]); err != nil {
		return nil
	}
	p := &a.pages[h.Layer]
	if !slices.Contains(p.offered, piece{h.First, h.First + h.Rows}) {
		return nil
	}
	return p
}

func (c *Collector) account(origin int) *account {
	if origin < 0 || origin >= MaxParticipants {
		return nil
	}
	return c.origins[origin]
}

// Pending lists the live origins whose rows of a layer are expected and not all here, ascending.
func (c *Collector) Pending(layer int) []int {
	var pending []int
	for origin, a := range c.origins {
		if a != nil && !a.lost && a.layers.Sync(layer) && !a.complete(layer) {
			pending = append(pending, origin)
		}
	}
	return pending
}

// FirstPending is the first layer of an origin whose rows are not all here, or -1 if there is none. Whether
// the origin is lost makes no difference: of a lost one it is where its rows ended.
func (c *Collector) FirstPending(origin int) int {
	a := c.account(origin)
	if a == nil {
		return -1
	}
	for _, l := range a.layers.Layers() {
		if !a.complete(l) {
			return l
		}
	}
	return -1
}

// OriginComplete reports whether all rows that are expected of an origin are here.
func (c *Collector) OriginComplete(origin int) bool {
	return c.account(origin) != nil && c.FirstPending(origin) == -1
}

// Complete reports whether all rows of all live origins are here.
func (c *Collector) Complete() bool {
	for origin, a := range c.origins {
		if a != nil && !a.lost && c.FirstPending(origin) != -1 {
			return false
		}
	}
	return true
}

// Lose gives an origin up: nothing is pending of it, and nothing more is accepted.
func (c *Collector) Lose(origin int) {
	if a := c.account(origin); a != nil {
		a.lost = true
	}
}

// Lost lists the origins that were given up, ascending.
func (c *Collector) Lost() []int {
	var lost []int
	for origin, a := range c.origins {
		if a != nil && a.lost {
			lost = append(lost, origin)
		}
	}
	return lost
}

// Bytes is the payload accepted from an origin.
func (c *Collector) Bytes(origin int) int64 {
	if a := c.account(origin); a != nil {
		return a.bytes
	}
	return 0
}

// Rows is the number of rows accepted from an origin over all layers, a token's K and V counted as one.
func (c *Collector) Rows(origin int) int {
	if a := c.account(origin); a != nil {
		return a.rows
	}
	return 0
}

// layersComplete is how many of an origin's layers are all here.
func (c *Collector) layersComplete(origin int) int {
	n := 0
	if a := c.account(origin); a != nil {
		for _, l := range a.layers.Layers() {
			if a.complete(l) {
				n++
			}
		}
	}
	return n
}

func (a *account) complete(layer int) bool {
	here := a.pages[layer].here
	return len(here) == 1 && here[0] == piece{0, a.tokens}
}

// maxPieces bounds the pieces of one segment at one layer that the book keeps apart: twice what the longest
// segment makes in micro-batches of 512 tokens. Rows that meet count as one piece.
const maxPieces = 2 * MaxTokens / 512

// piece is rows [first, end).
type piece struct{ first, end int }

// pieces is disjoint, ascending.
type pieces []piece

// after is the index of the first piece that ends after row.
func (s pieces) after(row int) int {
	i, _ := slices.BinarySearchFunc(s, row, func(x piece, row int) int {
		if x.end > row {
			return 1
		}
		return -1
	})
	return i
}

func (s pieces) overlap(x piece) bool {
	i := s.after(x.first)
	return i < len(s) && s[i].first < x.end
}

// insert adds a piece that overlaps none.
func (s pieces) insert(x piece) pieces { return slices.Insert(s, s.after(x.first), x) }

// remove takes away a piece that is there.
func (s pieces) remove(x piece) pieces {
	i := slices.Index(s, x)
	return slices.Delete(s, i, i+1)
}

// merge joins pieces that meet.
func (s pieces) merge() pieces {
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && out[n-1].end == x.first {
			out[n-1].end = x.end
			continue
		}
		out = append(out, x)
	}
	return out
}
