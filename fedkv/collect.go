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
// Rows that the sender did not select are here with the block that says so: the book keeps [First, First+Rows) of
// blocks, and only counts what they hold.
//
// What the book says depends on which blocks came, never on the order in which they came.
type Collector struct {
	session SessionID
	shape   Shape
	wire    Wire
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
type page struct {
	here, offered pieces
	blocks        int // taken, of any kind

	first  int // rows [first, tokens) are expected
	opened int // what first was when the account was opened; it may have been extended since
	least  int // what it was at its lowest
}

// NewCollector is the empty book of a session whose rows have these shapes and types.
func NewCollector(session SessionID, shape Shape, wire Wire) *Collector {
	return &Collector{session: session, shape: shape, wire: wire}
}

// Expect opens an origin's account: rows [first[l], tokens) of each layer l of the layers; first may be nil, which is
// 0 everywhere. It fails if the origin has an account, or if the rows of a layer cannot be stored in its types.
func (c *Collector) Expect(origin, tokens int, layers Schedule, first []int) error {
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
	if first != nil && len(first) != layers.Len() {
		return Errorf(CodeRange, "first rows of %d layers, the model has %d", len(first), layers.Len())
	}
	a := &account{tokens: tokens, layers: layers, pages: make([]page, layers.Len())}
	for _, l := range layers.Layers() {
		if _, _, err := c.shape.Layers[l].BlockSize(c.wire.At(l), 1); err != nil {
			return err
		}
		if first != nil {
			row := min(max(0, first[l]), tokens)
			a.pages[l].first, a.pages[l].opened, a.pages[l].least = row, row, row
		}
	}
	c.origins[origin] = a
	return nil
}

// Extend expects rows [first[l], tokens) of an origin's layers where that is more than before.
func (c *Collector) Extend(origin int, first []int) {
	a := c.account(origin)
	if a == nil {
		return
	}
	for _, l := range a.layers.Layers() {
		p := &a.pages[l]
		p.first = min(p.first, max(0, first[l]))
		p.least = min(p.least, p.first)
	}
}

// Retract expects no more of an origin than when its account was opened.
func (c *Collector) Retract(origin int) {
	if a := c.account(origin); a != nil {
		for l := range a.pages {
			a.pages[l].first = a.pages[l].opened
		}
	}
}

// expects reports whether rows [first[l], tokens) of all of an origin's layers are expected already.
func (c *Collector) expects(origin int, first []int) bool {
	a := c.account(origin)
	if a == nil {
		return true
	}
	for _, l := range a.layers.Layers() {
		if first[l] < a.pages[l].first {
			return false
		}
	}
	return true
}

// Has reports whether rows [first[l], tokens) of all of an origin's layers are here.
func (c *Collector) Has(origin int, first []int) bool {
	a := c.account(origin)
	if a == nil {
		return false
	}
	for _, l := range a.layers.Layers() {
		if !a.pages[l].here.cover(min(first[l], a.tokens), a.tokens) {
			return false
		}
	}
	return true
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
	if types := c.wire.At(h.Layer); h.Types != types {
		return nil, Errorf(CodeTypes, "layer %d: rows of %v, the plan says %v", h.Layer, h.Types, types)
	}
	if h.First < 0 || h.Rows < 1 || h.First >= a.tokens || h.Rows > a.tokens-h.First {
		return nil, Errorf(CodeRange, "layer %d: %d rows from row %d of a segment of %d tokens", h.Layer, h.Rows, h.First, a.tokens)
	}
	if _, _, _, err := h.Split(c.shape.Layers[h.Layer]); err != nil {
		return nil, err
	}
	p := &a.pages[h.Layer]
	switch {
	case h.First < p.least:
		return nil, Errorf(CodeRange, "layer %d: row %d of origin %d is in nobody's window, only those from %d on are", h.Layer, h.First, from, p.least)
	case h.First < p.first:
		return nil, Errorf(CodeLost, "layer %d: rows from %d on came too late", h.Layer, h.First)
	case p.blocks >= maxCentred(a.tokens) && (h.Types.K.IsCentred() || h.Types.V.IsCentred()):
		return nil, Errorf(CodeRange, "layer %d: more than %d blocks with means", h.Layer, p.blocks)
	}
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
	p.blocks++
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
		p.blocks++
	}
	p.here = p.here.insert(rows).merge()
	a := c.origins[from]
	a.rows += h.Kept
	a.bytes += int64(h.Length)
	return nil
}

// offer is the page on which exactly this block was offered, or nil.
func (c *Collector) offer(from int, h BlockHeader) *page {
	a := c.account(from)
	if h.Session != c.session || h.Origin != from || a == nil || a.lost || h.Layer < 0 || h.Layer >= len(a.pages) || h.Types != c.wire.At(h.Layer) {
		return nil
	}
	if _, _, _, err := h.Split(c.shape.Layers[h.Layer]); err != nil {
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

// Rows is the number of rows that came from an origin over all layers, a token's K and V counted as one.
func (c *Collector) Rows(origin int) int {
	if a := c.account(origin); a != nil {
		return a.rows
	}
	return 0
}

// layersComplete is how many of an origin's layers are all here, those of which nothing was expected not counted.
func (c *Collector) layersComplete(origin int) int {
	n := 0
	if a := c.account(origin); a != nil {
		for _, l := range a.layers.Layers() {
			if a.pages[l].first < a.tokens && a.complete(l) {
				n++
			}
		}
	}
	return n
}

func (a *account) complete(layer int) bool {
	p := &a.pages[layer]
	return p.here.cover(p.first, a.tokens)
}

// maxCentred bounds the blocks of a segment at a layer whose types are centred: each has a mean, which is as large as
// several rows. It allows for micro-batches of 16 tokens, and for any in short segments.
func maxCentred(tokens int) int { return 64 + tokens/16 }

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

// cover reports whether rows [first, end) are among pieces that are merged.
func (s pieces) cover(first, end int) bool {
	i := s.after(first)
	return first >= end || i < len(s) && s[i].first <= first && s[i].end >= end
}

// gaps is what pieces that are merged leave of rows [first, end).
func (s pieces) gaps(first, end int) (left pieces) {
	for _, x := range s {
		if x.end <= first {
			continue
		}
		if x.first >= end {
			break
		}
		if x.first > first {
			left = append(left, piece{first, x.first})
		}
		first = x.end
	}
	if first < end {
		left = append(left, piece{first, end})
	}
	return left
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
