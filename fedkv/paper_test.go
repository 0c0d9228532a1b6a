package fedkv_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
)

// The tests of this file hold the package to the paper, a test per claim: Federated Attention (Deng et al.,
// arXiv 2511.02647) and the semantics that this project derived from it. They run on Tiny, in float64, and
// compare bits unless they say otherwise.

var (
	tiny    = fedkvtest.NewTiny(fedkvtest.Small())
	sliding = fedkvtest.NewTiny(fedkvtest.Sliding())
)

type failer interface {
	Helper()
	Fatal(args ...any)
}

func schedules(t failer, spec string) fedkv.Schedules {
	t.Helper()
	s, err := fedkv.ParseSchedules(spec, tiny.Layers)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t failer, f fedkvtest.Federation) *fedkvtest.Result {
	t.Helper()
	r, err := f.Run()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// text is n tokens that follow from a seed.
func text(seed, n int) []fedkv.Token {
	tokens := make([]fedkv.Token, n)
	for i := range tokens {
		seed = (seed*7919 + 104729) % 1000003
		tokens[i] = fedkv.Token(seed % tiny.Vocabulary)
	}
	return tokens
}

// federation has a prefix of 2 tokens and four participants.
func federation(t failer, spec string) fedkvtest.Federation {
	t.Helper()
	f := fedkvtest.Federation{
		Model: tiny, Schedules: schedules(t, spec), Positions: fedkv.InPlace,
		Prefix: text(1, 2), Segments: [][]fedkv.Token{text(2, 4), text(3, 3), text(4, 5), text(5, 3)},
	}
	return f
}

// drawFederation is any session of 1 to 4 participants in any order of events.
func drawFederation(t *rapid.T) fedkvtest.Federation {
	draw := func(label string) fedkv.Schedule {
		s, err := fedkv.NewSchedule(tiny.Layers, rapid.SliceOf(rapid.IntRange(0, tiny.Layers-1)).Draw(t, label)...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	f := fedkvtest.Federation{
		Model:     tiny,
		Schedules: fedkv.Schedules{Contributors: draw("contributors"), Publisher: draw("publisher")},
		Positions: fedkv.InPlace,
		Prefix:    text(rapid.IntRange(0, 99).Draw(t, "prefix"), rapid.IntRange(0, 3).Draw(t, "prefix length")),
		Batch:     rapid.IntRange(0, 3).Draw(t, "rows of a batch"),
		Choose:    func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "next") },
	}
	if rapid.Bool().Draw(t, "windows") {
		f.Model = sliding
	}
	for range rapid.IntRange(1, 4).Draw(t, "participants") {
		f.Segments = append(f.Segments, text(rapid.IntRange(0, 99).Draw(t, "segment"), rapid.IntRange(1, 4).Draw(t, "length")))
	}
	return f
}

// drawRows lets contributors send some of their rows.
func drawRows(t *rapid.T) fedkv.RowPolicy {
	spec := rapid.SampledFrom([]string{"all", "random=", "layer-random=", "recent=", "norm=", "diverse=", "private="}).Draw(t, "rows")
	if strings.HasSuffix(spec, "=") {
		spec += rapid.SampledFrom([]string{"0.3", "0.1", "0.3333"}).Draw(t, "share")
	}
	p, err := fedkv.ParseRowPolicy(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Seed = rapid.Uint64().Draw(t, "seed")
	return p
}

// masked is the run of one process that computes what a session computed, given which rows came: a foreign row is seen
// only where it was sent to.
func masked(f fedkvtest.Federation, r *fedkvtest.Result) [][]float64 {
	type way struct{ from, to, layer, row int }
	came := map[way]bool{}
	for _, b := range r.Transfers {
		for _, row := range b.Rows {
			came[way{b.From, b.To, b.Layer, row}] = true
		}
	}
	l, shape := r.Settled, f.Model.Shape()
	return f.Model.Run(stream(f), func(layer, q, k int) bool {
		to, _ := l.Owner(q)
		from, _ := l.Owner(k)
		if !fedkv.Visible(l, f.Schedules, f.Local, shape, layer, q, k) {
			return false
		}
		segment, foreign := l.Segment(from)
		return !foreign || from == to || came[way{from, to, layer, k - segment.Offset}]
	})
}

// stream is all tokens of a session in the order of their positions.
func stream(f fedkvtest.Federation) []fedkv.Token {
	return slices.Concat(append([][]fedkv.Token{f.Prefix}, f.Segments...)...)
}

// sameBits fails unless got is exactly the end of want.
func sameBits(t failer, want, got [][]float64) {
	t.Helper()
	if len(want) < len(got) || len(got) == 0 {
		t.Fatal(fmt.Sprintf("%d outputs of %d", len(got), len(want)))
	}
	for i, row := range want[len(want)-len(got):] {
		for j := range row {
			if math.Float64bits(row[j]) != math.Float64bits(got[i][j]) {
				t.Fatal(fmt.Sprintf("token %d, logit %d: %v, want %v", i, j, got[i][j], row[j]))
			}
		}
	}
}

// distance is the largest difference of two outputs of one size.
func distance(a, b [][]float64) (most float64) {
	for i := range a {
		for j := range a[i] {
			most = max(most, math.Abs(a[i][j]-b[i][j]))
		}
	}
	return most
}

// Claim: with H = 1 every block of the model is a global one, and FedAttn is centralised attention.
func TestPaperSyncAtEveryLayerIsCentralisedAttention(t *testing.T) {
	for _, spec := range []string{"H=1", "lockstep"} {
		f := federation(t, spec)
		sameBits(t, tiny.Centralised(stream(f)), run(t, f).Logits)
	}
}

// Claim: with one participant there is nobody to synchronise with, and every H is centralised attention.
func TestPaperOneParticipantIsCentralisedForAnyH(t *testing.T) {
	for _, spec := range []string{"none", "gather", "lockstep", "H=2", "head=3", "contributors=all;publisher=none"} {
		f := federation(t, spec)
		f.Segments = [][]fedkv.Token{stream(f)}
		f.Prefix = nil
		sameBits(t, tiny.Centralised(stream(f)), run(t, f).Logits)
	}
}

// Claim (Algorithm 1): what the participants compute apart, exchanging rows at sync layers, is one run with
// the FedAttn mask. It holds for any schedules and any order of events.
func TestPaperParticipantsComputeTheMaskedRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		r := run(t, f)
		sameBits(t, f.Model.Masked(stream(f), r.Settled, f.Schedules, f.Local), r.Logits)
	})
}

// Claim (sparse local attention): at local layers participants attend to some of their own tokens, at sync layers to all;
// it is one run with that mask, and with a ratio of 1 as if it had not been said.
func TestPaperSparseLocalAttentionIsTheMaskedRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		spec := rapid.SampledFrom([]string{"random=0.25", "layer-random=0.5:0.75:1", "recent=0.4"}).Draw(t, "local rows")
		f.Local = localRows(t, spec)
		f.Local.Seed = rapid.Uint64().Draw(t, "seed")
		r := run(t, f)
		sameBits(t, f.Model.Masked(stream(f), r.Settled, f.Schedules, f.Local), r.Logits)
	})
	for _, spec := range []string{"gather", "H=2", "lockstep"} {
		f := federation(t, spec)
		dense := run(t, f)
		f.Local = localRows(t, "random=1")
		sameBits(t, dense.Logits, run(t, f).Logits)
		f.Local = localRows(t, "random=0.25")
		sparse := run(t, f)
		if same := reflect.DeepEqual(dense.Logits, sparse.Logits); same != (spec == "lockstep") {
			t.Errorf("%s: with and without local rows the same: %v", spec, same)
		}
		if sparse.Bytes() != dense.Bytes() {
			t.Errorf("%s: %d bytes are sent, %d if all local rows are attended to", spec, sparse.Bytes(), dense.Bytes())
		}
	}
}

func localRows(t rapid.TB, spec string) fedkv.RowPolicy {
	p, err := fedkv.ParseLocalRows(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Claim (sparse KV exchange): participants attend to the rows that were sent, at their true positions, whichever
// they are; the publisher's own are never left out. What is sent is the share that was asked for.
func TestPaperSparseExchangeIsTheMaskedRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		f.Rows = drawRows(t)
		r := run(t, f)
		sameBits(t, masked(f, r), r.Logits)
		if f.Model == sliding {
			return // windows take rows away too
		}
		n := len(f.Segments)
		for from := range n - 1 {
			for _, layer := range f.Schedules.Publisher.Layers() {
				got := 0
				for _, b := range r.Transfers {
					if b.From == from && b.To == n-1 && b.Layer == layer {
						got += len(b.Rows)
					}
				}
				tokens, share := float64(len(f.Segments[from])), 1.0
				if len(f.Rows.Shares) > 0 {
					share = float64(f.Rows.Shares[0]) / float64(fedkv.WholeShare)
				}
				if want := int(max(1, math.Round(share*tokens))); got != want {
					t.Fatalf("%d rows of %v came at layer %d, %v makes %d", got, tokens, layer, f.Rows, want)
				}
			}
		}
	})
}

// Derived: where attention has a window, nobody sends a row that none of the receiver's tokens can see.
func TestPaperRowsOutsideOfWindowsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		f.Model = sliding
		r := run(t, f)
		for _, b := range r.Transfers {
			owner, _ := r.Committed.Segment(b.From)
			to, _ := r.Committed.Segment(b.To)
			for _, row := range b.Rows {
				if !sliding.Reaches(b.Layer, to.Offset, owner.Offset+row) {
					t.Fatalf("row %d of %d, at layer %d, is sent to %d, whose first token is at %d", row, b.From, b.Layer, b.To, to.Offset)
				}
			}
		}
	})
}

// Claim: the segments keep their order in one token stream; positions are global and contiguous.
func TestPaperPositionsAreGlobalAndContiguous(t *testing.T) {
	f := federation(t, "H=2")
	want := fedkv.Layout{Prefix: 2, Segments: []fedkv.Segment{{0, 2, 4}, {1, 6, 3}, {2, 9, 5}, {3, 14, 3}}}
	r := run(t, f)
	if diff := cmp.Diff(want, r.Committed); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, r.Settled); diff != "" {
		t.Error(diff)
	}
}

// Derived: with causal attention nobody needs rows of later segments, so that the exchange is a triangle and
// not the paper's all-gather: half the bytes, the publisher sends nothing, the first participant never waits.
func TestPaperExchangeIsATriangle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		n := len(f.Segments)
		r := run(t, f)
		type way struct{ from, to, layer int }
		rows := map[way]int{}
		for _, b := range r.Transfers {
			if b.From >= b.To || b.From == n-1 {
				t.Fatalf("%d sends to %d", b.From, b.To)
			}
			rows[way{b.From, b.To, b.Layer}] += len(b.Rows)
		}
		for from := range n {
			for to := range n {
				for layer := range tiny.Layers {
					want := 0
					if from < to && f.Schedules.Of(to, n).Sync(layer) {
						owner, _ := r.Committed.Segment(from)
						receiver, _ := r.Committed.Segment(to)
						want = owner.Tokens - f.Model.Shape().Layers[layer].FirstRow(owner, receiver.Offset)
					}
					got := rows[way{from, to, layer}]
					if to < n-1 && layer >= lastNeeded(f, r.Committed, to) && got < want {
						continue // a contributor attends no more at its last layer, and may have left before these came
					}
					if got != want {
						t.Fatalf("%d rows of origin %d went to %d at layer %d, want %d", got, from, to, layer, want)
					}
				}
			}
		}
	})
}

// lastNeeded is the last layer at which anybody can see rows of an origin, or -1.
func lastNeeded(f fedkvtest.Federation, l fedkv.Layout, origin int) int {
	owner, _ := l.Segment(origin)
	last := -1
	for layer, shape := range f.Model.Shape().Layers {
		for _, to := range f.Schedules.Recipients(origin, layer, len(l.Segments)) {
			if shape.FirstRow(owner, l.Segments[to].Offset) < owner.Tokens {
				last = layer
			}
		}
	}
	return last
}

// Derived: contributors stop after the last layer that anybody needs of them, where K and V are all they
// compute; who is needed for nothing computes nothing.
func TestPaperContributorsStopEarly(t *testing.T) {
	for _, test := range []struct {
		spec string
		want []int // layers that each contributor evaluates in full
	}{
		{"gather", []int{5, 5, 5}},
		{"contributors=none;publisher=1-3", []int{3, 3, 3}},
		{"contributors=none;publisher=0", []int{0, 0, 0}},
		{"contributors=4;publisher=1", []int{4, 4, 1}},
		{"none", []int{0, 0, 0}},
	} {
		f := federation(t, test.spec)
		r := run(t, f)
		if diff := cmp.Diff(test.want, r.Attended); diff != "" {
			t.Errorf("%s: %s", test.spec, diff)
		}
		sameBits(t, tiny.Masked(stream(f), r.Settled, f.Schedules, f.Local), r.Logits)
	}
}

// bytesOf is what a session has to send, each block once per recipient.
func bytesOf(t failer, s fedkv.Schedules, tokens []int, types fedkv.WireTypes) (sum int) {
	t.Helper()
	for origin, n := range tokens {
		for layer, shape := range tiny.Shape().Layers {
			k, v, err := shape.BlockSize(types, n)
			if err != nil {
				t.Fatal(err)
			}
			sum += (k + v) * len(s.Recipients(origin, layer, len(tokens)))
		}
	}
	return sum
}

// Claim: communication falls with H, and more generally it grows with every sync layer that is added.
func TestPaperBytesGrowWithTheSchedule(t *testing.T) {
	f16 := fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	tokens := []int{4, 3, 5, 3}
	last := math.MaxInt
	for h := 1; h <= tiny.Layers; h++ {
		f := federation(t, fmt.Sprintf("H=%d", h))
		want := bytesOf(t, f.Schedules, tokens, f16)
		if got := run(t, f).Bytes(); got > want || want > last {
			t.Errorf("H=%d: %d bytes were sent, the schedule says %d; H=%d needed %d", h, got, want, h-1, last)
		}
		last = want
	}
	if full, half := bytesOf(t, schedules(t, "H=1"), tokens, f16), bytesOf(t, schedules(t, "H=2"), tokens, f16); full != 2*half {
		t.Errorf("H=1 costs %d bytes, H=2 %d", full, half)
	}
	rapid.Check(t, func(t *rapid.T) {
		small := drawFederation(t).Schedules
		more := rapid.SliceOf(rapid.IntRange(0, tiny.Layers-1)).Draw(t, "more")
		grow := func(s fedkv.Schedule) fedkv.Schedule {
			out, err := fedkv.NewSchedule(tiny.Layers, append(s.Layers(), more...)...)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		large := fedkv.Schedules{Contributors: grow(small.Contributors), Publisher: grow(small.Publisher)}
		if a, b := bytesOf(t, small, tokens, f16), bytesOf(t, large, tokens, f16); a > b {
			t.Fatalf("%v costs %d bytes, %v %d", small, a, large, b)
		}
	})
}

// Claim: the publisher decodes alone. Its local layers see prefix, own and generated tokens, its sync layers
// everything: the masked run of a longer last segment.
func TestPaperDecodingIsTheMaskedRunOfALongerSegment(t *testing.T) {
	for _, spec := range []string{"gather", "lockstep", "H=2", "contributors=0-2;publisher=3-", "none"} {
		f := federation(t, spec)
		r := run(t, f)
		answer := text(6, 4)
		var got [][]float64
		for _, token := range answer {
			got = append(got, r.Next(token))
		}
		layout, err := fedkv.NewLayout(2, []int{4, 3, 5, 3 + len(answer)})
		if err != nil {
			t.Fatal(err)
		}
		sameBits(t, tiny.Masked(append(stream(f), answer...), layout, f.Schedules, f.Local), got)
	}
}

// Claim: aggregation never averages. Each participant's rows stay apart, at their own positions, so exchanging
// two equal segments is not the same as having one.
func TestPaperAggregationIsPlacement(t *testing.T) {
	f := federation(t, "gather")
	f.Segments = [][]fedkv.Token{text(2, 4), text(2, 4), text(5, 3)}
	twice := run(t, f).Logits
	f.Segments = f.Segments[1:]
	if d := distance(twice, run(t, f).Logits); d < 1e-3 {
		t.Errorf("a segment that comes twice changes the output by %g only", d)
	}
}

// Derived: in gather a contributor that is lost, whenever that is and whatever of it had come, leaves the same
// bits as one that never joined, with canonical positions.
func TestPaperLostPeerIsAbsentPeer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		none, err := fedkv.NewSchedule(tiny.Layers)
		if err != nil {
			t.Fatal(err)
		}
		f.Schedules.Contributors = none
		f.Positions = fedkv.Canonical
		f.Dies = map[int]int{}
		f.Rows = drawRows(t)
		blocks := func(i int) int {
			perLayer := 1
			if f.Batch > 0 {
				perLayer = (len(f.Segments[i]) + f.Batch - 1) / f.Batch
			}
			return perLayer * f.Schedules.Publisher.Count()
		}
		for i := range f.Segments[1:] {
			if blocks(i) > 0 && rapid.Bool().Draw(t, "dies") {
				f.Dies[i] = rapid.IntRange(0, blocks(i)-1).Draw(t, "after blocks")
			}
		}
		got := run(t, f)
		// With windows there may be fewer blocks than that: who dies after the last one is missing only if more of it
		// are owed.
		if f.Model == tiny && len(got.Missing) != len(f.Dies) {
			t.Fatalf("%v are missing, of %v", got.Missing, f.Dies)
		}
		absent := f
		absent.Dies, absent.Choose, absent.Segments = nil, nil, nil
		for i, s := range f.Segments {
			if !slices.ContainsFunc(got.Missing, func(m fedkv.Missing) bool { return m.Origin == i }) {
				absent.Segments = append(absent.Segments, s)
			}
		}
		for _, m := range got.Missing {
			if _, died := f.Dies[m.Origin]; !died || m.Layer < 0 {
				t.Fatalf("%v is missing, of %v", m, f.Dies)
			}
		}
		want := run(t, absent)
		sameBits(t, want.Logits, got.Logits)
		if got.Settled.Total() != want.Settled.Total() {
			t.Fatalf("%d positions, %d if the lost had never joined", got.Settled.Total(), want.Settled.Total())
		}
	})
}

// Derived: in lockstep a contributor that is lost is hidden from then on, layer by layer: the masked run with
// its columns hidden at the layers that were still to come.
func TestPaperLostPeerInLockstepIsHiddenFromThenOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		if f.Schedules.Regime() == fedkv.Gather || len(f.Segments) == 1 {
			t.Skip("nobody meets")
		}
		f.Dies = map[int]int{rapid.IntRange(0, len(f.Segments)-2).Draw(t, "who"): rapid.IntRange(0, 8).Draw(t, "after blocks")}
		r := run(t, f)
		l := r.Committed
		want := f.Model.Run(stream(f), func(layer, q, k int) bool {
			to, _ := l.Owner(q)
			from, _ := l.Owner(k)
			hidden := slices.ContainsFunc(r.Hidden, func(h fedkvtest.Hidden) bool {
				return h.Receiver == to && h.Origin == from && layer >= h.Layer
			})
			return !hidden && fedkv.Visible(l, f.Schedules, f.Local, f.Model.Shape(), layer, q, k)
		})
		sameBits(t, want, r.Logits)
		if diff := cmp.Diff(r.Committed, r.Settled); diff != "" {
			t.Fatalf("positions moved in mid-forward: %s", diff)
		}
	})
}

// Derived: the first contributor's canonical positions are its true ones, so with one contributor the two
// choices are the same bits; with more they differ, and only in what the segments see of the prefix.
func TestPaperCanonicalPositionsOfOneContributorAreItsOwn(t *testing.T) {
	f := federation(t, "gather")
	f.Segments = f.Segments[2:]
	inPlace := run(t, f).Logits
	f.Positions = fedkv.Canonical
	sameBits(t, inPlace, run(t, f).Logits)

	// Without a prefix a segment sees only itself, and attention depends on differences of positions alone.
	f = federation(t, "gather")
	f.Prefix = nil
	inPlace = run(t, f).Logits
	f.Positions = fedkv.Canonical
	if d := distance(inPlace, run(t, f).Logits); d > 1e-9 {
		t.Errorf("rotated rows differ by %g", d)
	}
}

// Derived: the order in which messages and blocks arrive never matters, nor how rows are cut into blocks.
func TestPaperArrivalOrderNeverMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFederation(t)
		if f.Schedules.Regime() == fedkv.Gather && rapid.Bool().Draw(t, "canonical") {
			f.Positions = fedkv.Canonical
		}
		got := run(t, f)
		f.Choose, f.Batch = nil, 0
		want := run(t, f)
		sameBits(t, want.Logits, got.Logits)
		if diff := cmp.Diff(want.Settled, got.Settled); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Claim: quality falls with every layer that is not synchronised, and the wire format adds little: a lossless
// wire is bit-equal (all tests above), a lossy one stays in its budget.
func TestPaperLossyWireStaysInItsBudget(t *testing.T) {
	exact := run(t, federation(t, "lockstep")).Logits
	scale := distance(exact, make2(len(exact), tiny.Vocabulary))
	for _, test := range []struct {
		types  string
		budget float64 // of the largest logit
	}{{"f16/f16", 0.001}, {"q8_0/q8_0", 0.01}, {"q8_0/q4_0", 0.1}, {"q4_0/q4_0", 0.1}, {"q8_0+c/q8_0+h", 0.01},
		{"q4_0+c+h/q4_0+h", 0.1}, {"q8_0/q8_0,2-=f16", 0.01}} {
		wire, err := fedkv.ParseWire(test.types, tiny.Layers)
		if err != nil {
			t.Fatal(err)
		}
		f := federation(t, "lockstep")
		f.Wire = wire
		d := distance(exact, run(t, f).Logits) / scale
		if d == 0 || d > test.budget {
			t.Errorf("%s: the largest logit error is %.4f of the largest logit, must be above 0 and at most %g", test.types, d, test.budget)
		}
	}
}

func make2(rows, columns int) [][]float64 {
	out := make([][]float64, rows)
	for i := range out {
		out[i] = make([]float64, columns)
	}
	return out
}
