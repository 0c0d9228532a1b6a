package fedkv

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	bookSession = SessionID{15: 1}
	bookTypes   = WireTypes{K: Q8_0, V: F16}
)

// bookShape is layers layers of rows with 32 elements of K and 3 of V: 34 and 6 bytes.
func bookShape(layers int) Shape {
	return Shape{Layers: slices.Repeat([]LayerShape{{K: 32, V: 3}}, layers)}
}

const bookRowBytes = 34 + 6

func bookHeader(origin, layer, first, rows int) BlockHeader {
	return BlockHeader{
		Session: bookSession, Origin: origin, Layer: layer, First: first, Rows: rows, Kept: rows,
		Types: bookTypes, Length: rows * bookRowBytes,
	}
}

// failer is testing.TB or rapid's twin of it.
type failer interface {
	Helper()
	Fatal(args ...any)
}

func mustSchedule(t failer, spec string, layers int) Schedule {
	t.Helper()
	s, err := ParseSchedule(spec, layers)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// aBook expects 10 rows of origin 0 and 4 rows of origin 2 at layers 1 and 3 of 4.
func aBook(t failer) *Collector {
	t.Helper()
	c := NewCollector(bookSession, bookShape(4), Uniform(bookTypes, 4))
	for origin, tokens := range map[int]int{0: 10, 2: 4} {
		if err := c.Expect(origin, tokens, mustSchedule(t, "1,3", 4), nil); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestCollectorRefusesWhatThePlanDoesNotSay(t *testing.T) {
	for _, test := range []struct {
		name   string
		from   int
		change func(h *BlockHeader)
		want   error
	}{
		{"a good block", 0, func(*BlockHeader) {}, nil},
		{"another session", 0, func(h *BlockHeader) { h.Session[0] = 9 }, ErrSession},
		{"another's rows", 2, func(*BlockHeader) {}, ErrForbidden},
		{"an origin without rows", 1, func(h *BlockHeader) { h.Origin = 1 }, ErrForbidden},
		{"a negative origin", -1, func(h *BlockHeader) { h.Origin = -1 }, ErrForbidden},
		{"an origin beyond all", MaxParticipants, func(h *BlockHeader) { h.Origin = MaxParticipants }, ErrForbidden},
		{"a local layer", 0, func(h *BlockHeader) { h.Layer = 2 }, ErrRange},
		{"a layer beyond the model", 0, func(h *BlockHeader) { h.Layer = 4 }, ErrRange},
		{"a negative layer", 0, func(h *BlockHeader) { h.Layer = -1 }, ErrRange},
		{"other types", 0, func(h *BlockHeader) { h.Types.V = Q8_0 }, ErrTypes},
		{"no rows", 0, func(h *BlockHeader) { h.Rows, h.Kept, h.Length = 0, 0, 0 }, ErrRange},
		{"none of its rows", 0, func(h *BlockHeader) { h.Kept, h.Length = 0, 1 }, nil},
		{"some of its rows", 0, func(h *BlockHeader) { h.Kept, h.Length = 2, 1+2*bookRowBytes }, nil},
		{"some of its rows and no bitmap", 0, func(h *BlockHeader) { h.Kept, h.Length = 2, 2*bookRowBytes }, ErrRange},
		{"more than its rows", 0, func(h *BlockHeader) { h.Kept, h.Length = 4, 4*bookRowBytes }, ErrRange},
		{"fewer than none of its rows", 0, func(h *BlockHeader) { h.Kept = -1 }, ErrRange},
		{"negative rows", 0, func(h *BlockHeader) { h.Rows = -1 }, ErrRange},
		{"a negative first row", 0, func(h *BlockHeader) { h.First = -1 }, ErrRange},
		{"rows past the end", 0, func(h *BlockHeader) { h.First = 8 }, ErrRange},
		{"rows whose end overflows", 0, func(h *BlockHeader) { h.First, h.Rows = 1, int(^uint(0)>>1) }, ErrRange},
		{"a byte too many", 0, func(h *BlockHeader) { h.Length++ }, ErrRange},
		{"a byte too few", 0, func(h *BlockHeader) { h.Length-- }, ErrRange},
	} {
		for _, take := range []struct {
			name string
			by   func(*Collector, int, BlockHeader) error
		}{{"Check", (*Collector).Check}, {"Offer", (*Collector).Offer}, {"Accept", (*Collector).Accept}} {
			c := aBook(t)
			h := bookHeader(0, 1, 2, 3)
			test.change(&h)
			if err := take.by(c, test.from, h); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("%s: %s: %v, want %v", test.name, take.name, err, test.want)
			}
			if rows := c.Rows(0) + c.Rows(2); rows != 0 && (test.want != nil || take.name != "Accept") {
				t.Errorf("%s: %s booked %d rows", test.name, take.name, rows)
			}
		}
	}
}

func TestCollectorTakesARowOnce(t *testing.T) {
	for _, second := range []struct{ first, rows int }{{2, 3}, {0, 3}, {4, 6}, {0, 10}, {3, 1}} {
		for _, step := range []struct {
			name string
			by   func(*Collector, int, BlockHeader) error
		}{{"Offer", (*Collector).Offer}, {"Accept", (*Collector).Accept}} {
			c := aBook(t)
			if err := step.by(c, 0, bookHeader(0, 1, 2, 3)); err != nil {
				t.Fatal(err)
			}
			again := bookHeader(0, 1, second.first, second.rows)
			for name, err := range map[string]error{"Check": c.Check(0, again), "Offer": c.Offer(0, again)} {
				if !errors.Is(err, ErrDuplicate) {
					t.Errorf("rows %v after %s of [2,5): %s: %v", second, step.name, name, err)
				}
			}
			if err := c.Accept(0, bookHeader(0, 3, second.first, second.rows)); err != nil {
				t.Errorf("the same rows of another layer: %v", err)
			}
		}
	}
}

func TestCollectorAcceptsWhatItOffered(t *testing.T) {
	c := aBook(t)
	h := bookHeader(0, 1, 0, 10)
	if err := c.Offer(0, h); err != nil {
		t.Fatal(err)
	}
	if got := c.Pending(1); !slices.Equal(got, []int{0, 2}) {
		t.Errorf("an offer is not a row: Pending = %v", got)
	}
	if err := c.Accept(0, h); err != nil {
		t.Fatal(err)
	}
	if err := c.Accept(0, h); !errors.Is(err, ErrDuplicate) {
		t.Errorf("the second Accept: %v", err)
	}
	if got := c.Pending(1); !slices.Equal(got, []int{2}) {
		t.Errorf("Pending = %v", got)
	}
	if c.Rows(0) != 10 || c.Bytes(0) != 10*bookRowBytes {
		t.Errorf("%d rows, %d bytes", c.Rows(0), c.Bytes(0))
	}
}

func TestCollectorTakesNothingOfTheLost(t *testing.T) {
	c := aBook(t)
	staged := bookHeader(0, 1, 0, 4)
	if err := c.Offer(0, staged); err != nil {
		t.Fatal(err)
	}
	c.Lose(0)
	c.Lose(1) // nothing was expected of it
	for _, h := range []BlockHeader{staged, bookHeader(0, 3, 0, 1)} {
		if err := c.Accept(0, h); !errors.Is(err, ErrLost) {
			t.Errorf("after the loss: %v", err)
		}
	}
	if got := c.Lost(); !slices.Equal(got, []int{0}) {
		t.Errorf("Lost = %v", got)
	}
	if got := c.Pending(1); !slices.Equal(got, []int{2}) {
		t.Errorf("Pending = %v", got)
	}
	if c.OriginComplete(0) || c.FirstPending(0) != 1 {
		t.Errorf("the lost origin: complete %v, first pending %d", c.OriginComplete(0), c.FirstPending(0))
	}
	c.Lose(2)
	if !c.Complete() {
		t.Error("rows of the lost are waited for")
	}
}

func TestCollectorExpectsWithinItsLimits(t *testing.T) {
	for _, test := range []struct {
		name           string
		origin, tokens int
		layers         Schedule
		shape          Shape
		want           error
	}{
		{"good", 1, 1, mustSchedule(t, "all", 4), bookShape(4), nil},
		{"an origin twice", 0, 1, mustSchedule(t, "all", 4), bookShape(4), ErrDuplicate},
		{"a negative origin", -1, 1, mustSchedule(t, "all", 4), bookShape(4), ErrRange},
		{"an origin too many", MaxParticipants, 1, mustSchedule(t, "all", 4), bookShape(4), ErrRange},
		{"no tokens", 1, 0, mustSchedule(t, "all", 4), bookShape(4), ErrRange},
		{"too many tokens", 1, MaxTokens + 1, mustSchedule(t, "all", 4), bookShape(4), ErrRange},
		{"another model's schedule", 1, 1, mustSchedule(t, "all", 5), bookShape(4), ErrShape},
		{"rows that the types cannot hold", 1, 1, mustSchedule(t, "all", 1), Shape{[]LayerShape{{K: 31, V: 1}}}, ErrTypes},
		{"such rows at local layers only", 1, 1, mustSchedule(t, "none", 1), Shape{[]LayerShape{{K: 31, V: 1}}}, nil},
	} {
		c := NewCollector(bookSession, test.shape, Uniform(bookTypes, len(test.shape.Layers)))
		if err := c.Expect(0, 1, Schedule{layers: len(test.shape.Layers)}, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Expect(test.origin, test.tokens, test.layers, nil); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// With windows, rows before the first one are nobody's; more may be asked for, and given up again.
func TestCollectorExpectsRowsFromTheFirstOn(t *testing.T) {
	c := NewCollector(bookSession, bookShape(3), Uniform(bookTypes, 3))
	if err := c.Expect(0, 10, mustSchedule(t, "0-1", 3), []int{4, 10, 0}); err != nil {
		t.Fatal(err)
	}
	if err := c.Expect(1, 10, mustSchedule(t, "0-1", 3), []int{4, 10}); !errors.Is(err, ErrRange) {
		t.Errorf("first rows of two layers: %v", err)
	}
	if !slices.Equal(c.Pending(0), []int{0}) || len(c.Pending(1)) > 0 || c.FirstPending(0) != 0 {
		t.Errorf("pending %v, %v", c.Pending(0), c.Pending(1))
	}
	for _, h := range []BlockHeader{bookHeader(0, 0, 3, 2), bookHeader(0, 0, 0, 10), bookHeader(0, 1, 9, 1), bookHeader(0, 2, 0, 1)} {
		if err := c.Offer(0, h); !errors.Is(err, ErrRange) {
			t.Errorf("rows [%d,%d) of layer %d: %v", h.First, h.First+h.Rows, h.Layer, err)
		}
	}
	if err := c.Accept(0, bookHeader(0, 0, 4, 6)); err != nil || !c.OriginComplete(0) || c.layersComplete(0) != 1 {
		t.Errorf("complete %v, %d layers, %v", c.OriginComplete(0), c.layersComplete(0), err)
	}

	wider := []int{2, 8, 0}
	if c.expects(0, wider) || c.Has(0, wider) || !c.Has(0, []int{5, 10, 0}) {
		t.Error("rows are here that never came")
	}
	c.Extend(0, wider)
	c.Extend(0, []int{9, 9, 9}) // is less, and changes nothing
	if !c.expects(0, wider) || c.Complete() || c.FirstPending(0) != 0 || !slices.Equal(c.Pending(1), []int{0}) {
		t.Errorf("nothing more is expected: pending %v, %v", c.Pending(0), c.Pending(1))
	}
	offered := bookHeader(0, 0, 3, 1)
	for _, h := range []BlockHeader{bookHeader(0, 1, 8, 2), offered} {
		if err := c.Offer(0, h); err != nil {
			t.Error(err)
		}
	}
	c.Retract(0)
	if !c.Complete() {
		t.Errorf("pending %v, %v", c.Pending(0), c.Pending(1))
	}
	if err := c.Accept(0, offered); err != nil {
		t.Errorf("what was on its way: %v", err)
	}
	if err := c.Offer(0, bookHeader(0, 0, 2, 1)); !errors.Is(err, ErrLost) {
		t.Errorf("what was owed and is no more: %v", err)
	}
	if err := c.Offer(0, bookHeader(0, 0, 1, 1)); !errors.Is(err, ErrRange) {
		t.Errorf("what was never owed: %v", err)
	}
	c.Extend(7, wider)
	c.Retract(7)
	if c.Has(7, wider) {
		t.Error("rows of nobody are here")
	}
}

func TestPiecesLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s pieces
		var here [20]bool
		for range rapid.IntRange(0, 6).Draw(t, "pieces") {
			x := piece{rapid.IntRange(0, 18).Draw(t, "first"), 0}
			x.end = rapid.IntRange(x.first+1, 19).Draw(t, "end")
			if s.overlap(x) {
				continue
			}
			s = s.insert(x).merge()
			for row := x.first; row < x.end; row++ {
				here[row] = true
			}
		}
		first := rapid.IntRange(0, 19).Draw(t, "from")
		end := rapid.IntRange(0, 19).Draw(t, "to")
		gaps := s.gaps(first, end)
		covered := true
		for row := first; row < end; row++ {
			covered = covered && here[row]
			if gaps.overlap(piece{row, row + 1}) == here[row] {
				t.Fatalf("%v leave %v of [%d,%d)", s, gaps, first, end)
			}
		}
		for _, g := range gaps {
			if g.first < first || g.end > end || g.first >= g.end {
				t.Fatalf("%v leave %v of [%d,%d)", s, gaps, first, end)
			}
		}
		if s.cover(first, end) != covered {
			t.Fatalf("%v cover [%d,%d): %v", s, first, end, covered)
		}
	})
}

func TestCollectorBoundsBlocksWithMeans(t *testing.T) {
	types := WireTypes{Q8_0 | Centred, F16}
	c := NewCollector(bookSession, bookShape(1), Uniform(types, 1))
	if err := c.Expect(0, 1000, mustSchedule(t, "all", 1), nil); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for row := range 1000 {
		h, err := BlockHeader{Session: bookSession, First: row, Rows: 1, Kept: 1, Types: types}.Sized(LayerShape{K: 32, V: 3})
		if err != nil {
			t.Fatal(err)
		}
		if row%2 == 0 {
			err = c.Offer(0, h)
		} else {
			err = c.Accept(0, h)
		}
		if err == nil {
			taken++
		} else if !errors.Is(err, ErrRange) {
			t.Fatal(err)
		}
	}
	if taken != 64+1000/16 {
		t.Errorf("%d blocks were taken", taken)
	}
}

func TestCollectorBoundsTheBookOfPieces(t *testing.T) {
	c := NewCollector(bookSession, bookShape(1), Uniform(bookTypes, 1))
	if err := c.Expect(0, MaxTokens, mustSchedule(t, "all", 1), nil); err != nil {
		t.Fatal(err)
	}
	for i := range maxPieces {
		if err := c.Accept(0, bookHeader(0, 0, 2*i, 1)); err != nil {
			t.Fatalf("piece %d: %v", i, err)
		}
	}
	if err := c.Accept(0, bookHeader(0, 0, 2*maxPieces, 1)); !errors.Is(err, ErrRange) {
		t.Errorf("a piece too many: %v", err)
	}
}

// cut draws blocks that cover rows [0, tokens) of every layer of an origin.
func cut(t *rapid.T, origin, tokens int, layers Schedule) []BlockHeader {
	var blocks []BlockHeader
	for _, l := range layers.Layers() {
		for first := 0; first < tokens; {
			rows := rapid.IntRange(1, tokens-first).Draw(t, "rows")
			blocks = append(blocks, bookHeader(origin, l, first, rows))
			first += rows
		}
	}
	return blocks
}

func TestCollectorLawArrivalOrderNeverMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const layers = 4
		c := NewCollector(bookSession, bookShape(layers), Uniform(bookTypes, layers))
		var blocks []BlockHeader
		want := map[int]int{}
		for origin := range rapid.IntRange(1, 4).Draw(t, "origins") {
			tokens := rapid.IntRange(1, 9).Draw(t, "tokens")
			s := drawSchedule(t, layers, "layers")
			if err := c.Expect(origin, tokens, s, nil); err != nil {
				t.Fatal(err)
			}
			want[origin] = tokens * s.Count()
			blocks = append(blocks, cut(t, origin, tokens, s)...)
		}
		offered := map[BlockHeader]bool{}
		for i, h := range rapid.Permutation(blocks).Draw(t, "order") {
			if rapid.Bool().Draw(t, "offer first") {
				if err := c.Offer(h.Origin, h); err != nil {
					t.Fatal(err)
				}
				offered[h] = true
			}
			if !slices.Contains(c.Pending(h.Layer), h.Origin) || c.Complete() || c.OriginComplete(h.Origin) {
				t.Fatalf("block %d of %d: %v is still to come, but Pending(%d) = %v", i, len(blocks), h, h.Layer, c.Pending(h.Layer))
			}
			if err := c.Accept(h.Origin, h); err != nil {
				t.Fatal(err)
			}
			if err := c.Check(h.Origin, h); !errors.Is(err, ErrDuplicate) {
				t.Fatalf("the same block again: %v", err)
			}
		}
		for l := range layers {
			if len(c.Pending(l)) > 0 {
				t.Fatalf("Pending(%d) = %v after all blocks", l, c.Pending(l))
			}
		}
		got := map[int]int{}
		for origin, rows := range want {
			got[origin] = c.Rows(origin)
			if !c.OriginComplete(origin) || c.Bytes(origin) != int64(rows)*bookRowBytes {
				t.Fatalf("origin %d: complete %v, %d bytes", origin, c.OriginComplete(origin), c.Bytes(origin))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || !c.Complete() {
			t.Fatalf("complete %v, rows: %s", c.Complete(), diff)
		}
	})
}

// Whatever headers a peer makes up, what a receiver would stage for them is bounded by the plan.
func TestCollectorLawStagedRowsAreBoundedByThePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := aBook(t)
		var staged int
		for range rapid.IntRange(0, 60).Draw(t, "blocks") {
			h := bookHeader(
				rapid.IntRange(0, 2).Draw(t, "origin"), rapid.IntRange(0, 3).Draw(t, "layer"),
				rapid.IntRange(0, 10).Draw(t, "first"), rapid.IntRange(0, 10).Draw(t, "rows"))
			if h.Kept = rapid.IntRange(0, h.Rows).Draw(t, "kept"); h.Kept < h.Rows {
				h.Length = (h.Rows+7)/8 + h.Kept*bookRowBytes
			}
			if c.Offer(0, h) == nil {
				staged += h.Length
			}
		}
		if most := 2 * 10 * bookRowBytes; staged > most {
			t.Fatalf("%d bytes staged, the plan says %d", staged, most)
		}
	})
}
