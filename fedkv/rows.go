package fedkv

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Sparse exchange (the paper's sparse KV exchange): a contributor sends some of its rows, and the receiver attends
// to those. The publisher's own rows stay where they are and are all attended to. Only the sender selects, and the
// receiver takes what comes, so another implementation may choose otherwise without being incompatible.

// RowKind is the rule by which a contributor selects rows.
type RowKind uint8

// The kinds. Those that look at keys rank the rows of a micro-batch among each other; the others depend on nothing
// but seed, layer and the segment's length.
const (
	RowsAll    RowKind = 1
	RowsRandom RowKind = 2 // one subset, the same at each layer (the paper's baseline)
	// RowsLayerRandom draws another subset at each layer, as the authors' code does.
	RowsLayerRandom RowKind = 3
	// RowsRecent keeps the first 4 rows, which models use as attention sinks, and the last ones (StreamingLLM,
	// arXiv 2309.17453).
	RowsRecent RowKind = 4
	// RowsNorm keeps the rows with the smallest norm of K, which attract attention (arXiv 2406.11430).
	RowsNorm RowKind = 5
	// RowsDiverse keeps the rows whose K is least similar to the mean of all (KeyDiff, arXiv 2504.15364).
	RowsDiverse RowKind = 6
	// RowsQuery keeps the rows that pooled queries of the publisher's own segment attend to most: see Query. Contributors
	// learn something of that segment.
	RowsQuery RowKind = 7
	// RowsPrivate is a fixed random subset without neighbours: kept rows are at least 3 apart, so that nobody gets
	// two tokens in a row, at any layer.
	RowsPrivate RowKind = 8
)

// rowKinds names the kinds.
var rowKinds = map[RowKind]string{
	RowsAll: "all", RowsRandom: "random", RowsLayerRandom: "layer-random", RowsRecent: "recent", RowsNorm: "norm",
	RowsDiverse: "diverse", RowsQuery: "query", RowsPrivate: "private",
}

const (
	sinks      = 4 // rows that RowsRecent keeps from the beginning
	privateGap = 3 // least distance of two rows that RowsPrivate keeps
)

// String is the name that ParseRowPolicy reads.
func (k RowKind) String() string {
	if name, ok := rowKinds[k]; ok {
		return name
	}
	return fmt.Sprintf("rows(%d)", uint8(k))
}

// Share is a part of a whole in 1/10000. A valid share is 1 to WholeShare.
type Share uint16

// WholeShare is everything.
const WholeShare Share = 10000

// String is the share as a decimal number, such as 0.25.
func (s Share) String() string {
	return strconv.FormatFloat(float64(s)/float64(WholeShare), 'f', -1, 64)
}

// of is the share of a share; something stays of something.
func (s Share) of(o Share) Share {
	return max(1, Share((uint32(s)*uint32(o)+uint32(WholeShare)/2)/uint32(WholeShare)))
}

// count is how many of n rows are kept, rounded to nearest. The counts of two parts, taken one after the other, add
// up to that of the whole; of the first part, at least one row is kept.
func (s Share) count(first, n int) int {
	until := func(rows int) int {
		if rows == 0 {
			return 0
		}
		return max(1, int((int64(rows)*int64(s)+int64(WholeShare)/2)/int64(WholeShare)))
	}
	return until(first+n) - until(first)
}

// RowPolicy says which rows contributors send in a session, as the publisher's owner wants it. The zero value is
// "all".
type RowPolicy struct {
	Kind   RowKind
	Seed   uint64
	Shares []Share // of the segment, by origin; the last one is that of all further origins
	Layers []Share // of a contributor's share, by layer, from a calibration profile; nil: the whole everywhere
}

// ParseRowPolicy reads which rows are sent:
//
//	all                    every row
//	random=0.5             half of each segment, chosen by KIND: random, layer-random, recent, norm, diverse, query, private
//	random=0.5:0.25:1      half of the first contributor's, a quarter of the second's, all of the others'
//
// Shares are above 0 and at most 1, of private at most 0.3333. Seed and Layers are not part of the text.
func ParseRowPolicy(spec string) (RowPolicy, error) {
	name, list, some := strings.Cut(spec, "=")
	var p RowPolicy
	for kind, known := range rowKinds {
		if known == name {
			p.Kind = kind
		}
	}
	switch {
	case p.Kind == 0:
		return RowPolicy{}, Errorf(CodePlan, "unknown rows %q; known are all, and random, layer-random, recent, norm, diverse, query and private with a share, as in random=0.5", spec)
	case p.Kind == RowsAll && some:
		return RowPolicy{}, Errorf(CodePlan, "rows %q: all has no share", spec)
	case p.Kind == RowsAll:
		return p, nil
	case !some:
		return RowPolicy{}, Errorf(CodePlan, "rows %q: the share is missing, as in %s=0.5", spec, name)
	}
	for text := range strings.SplitSeq(list, ":") {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || !(v > 0 && v <= 1) || strings.Trim(text, "0123456789.") != "" {
			return RowPolicy{}, Errorf(CodePlan, "rows %q: share %q must be a number above 0 and at most 1", spec, text)
		}
		p.Shares = append(p.Shares, max(1, Share(math.Round(v*float64(WholeShare)))))
	}
	if err := p.Validate(); err != nil {
		return RowPolicy{}, err
	}
	return p, nil
}

// ParseLocalRows reads which of their own rows participants attend to at local layers: a policy as ParseRowPolicy reads
// it, the publisher's share the last, of a kind that looks at no keys.
func ParseLocalRows(spec string) (RowPolicy, error) {
	p, err := ParseRowPolicy(spec)
	if err == nil && p.Of(0).NeedsKeys() {
		return RowPolicy{}, Errorf(CodePlan, "rows %q: what local layers attend to is chosen before there are keys; take random, layer-random, recent or private", spec)
	}
	return p, err
}

// String is the spec that ParseRowPolicy reads.
func (p RowPolicy) String() string {
	if p.Kind <= RowsAll {
		return RowsAll.String()
	}
	shares := make([]string, len(p.Shares))
	for i, s := range p.Shares {
		shares[i] = s.String()
	}
	return p.Kind.String() + "=" + strings.Join(shares, ":")
}

// Validate reports a policy that cannot be followed.
func (p RowPolicy) Validate() error {
	if p.Kind <= RowsAll && len(p.Shares)+len(p.Layers) > 0 {
		return Errorf(CodePlan, "rows have shares and no kind to select them by")
	}
	if len(p.Shares) >= MaxParticipants {
		return Errorf(CodePlan, "rows have shares for %d contributors, there are at most %d", len(p.Shares), MaxParticipants-1)
	}
	for origin := range max(1, len(p.Shares)) {
		if err := p.Of(origin).validate(); err != nil {
			return Errorf(CodePlan, "rows %v: %v", p, err)
		}
	}
	return nil
}

// Of is what one contributor is asked for.
func (p RowPolicy) Of(origin int) Selection {
	if p.Kind <= RowsAll {
		return Selection{Kind: max(p.Kind, RowsAll)}
	}
	s := Selection{Kind: p.Kind, Seed: p.Seed}
	if len(p.Shares) == 0 {
		return s
	}
	share := p.Shares[min(origin, len(p.Shares)-1)]
	if len(p.Layers) == 0 {
		s.Shares = []Share{share}
	}
	for _, layer := range p.Layers {
		s.Shares = append(s.Shares, share.of(layer))
	}
	return s
}

// Selection is which rows of its segment a contributor sends: a RowPolicy as one contributor is asked for it.
type Selection struct {
	Kind   RowKind `cbor:"1,keyasint"`
	Seed   uint64  `cbor:"2,keyasint"`
	Shares []Share `cbor:"3,keyasint"` // of the segment: one for all layers, or one for each; none if Kind is RowsAll
}

func (s Selection) validate() error {
	if _, known := rowKinds[s.Kind]; !known {
		return fmt.Errorf("unknown kind of rows %d", uint8(s.Kind))
	}
	if s.Kind == RowsAll {
		return check(len(s.Shares) == 0, "all rows have no share")
	}
	if err := checkRange("shares of rows", len(s.Shares), 1, MaxRowShares); err != nil {
		return err
	}
	most := WholeShare
	if s.Kind == RowsPrivate {
		most = WholeShare / privateGap
	}
	for _, share := range s.Shares {
		if share < 1 || share > most {
			return fmt.Errorf("a share of %v, must be above 0 and at most %v", share, most)
		}
	}
	return nil
}

// validateFor also reports shares that do not belong to a model with this many layers.
func (s Selection) validateFor(layers int) error {
	return first(s.validate(), check(len(s.Shares) <= 1 || len(s.Shares) == layers, "%d shares of rows for %d layers", len(s.Shares), layers))
}

// NeedsKeys reports whether Select looks at K rows.
func (s Selection) NeedsKeys() bool {
	return s.Kind == RowsNorm || s.Kind == RowsDiverse || s.NeedsQueries()
}

// NeedsQueries reports whether Select compares K rows with queries, which needs both as they are at position 0.
func (s Selection) NeedsQueries() bool { return s.Kind == RowsQuery }

// share is that of a layer.
func (s Selection) share(layer int) Share {
	switch {
	case len(s.Shares) == 0 || layer < 0:
		return WholeShare
	case len(s.Shares) == 1:
		return s.Shares[0]
	}
	return s.Shares[min(layer, len(s.Shares)-1)]
}

// Select says which of the rows [first, first+n) of a segment of so many tokens are sent at a layer: n booleans, or
// nil if all are. keys is the K rows, [n][elements], if NeedsKeys says so, and query is what they are compared with if
// NeedsQueries does. What it keeps of all parts of a segment, asked for in order, is share × tokens rows, rounded, and at
// least one. Kinds that look at no keys keep the same rows however the segment is cut.
func (s Selection) Select(layer, tokens, first, n int, keys []float32, query Query) (keep []bool) {
	share := s.share(layer)
	if s.Kind <= RowsAll || share == WholeShare || n < 1 {
		return nil
	}
	switch s.Kind {
	case RowsNorm:
		return least(norms(keys, n), share.count(first, n))
	case RowsDiverse:
		return least(likeness(keys, n), share.count(first, n))
	case RowsQuery:
		return least(query.distance(keys, n), share.count(first, n))
	}
	count := share.count(0, tokens)
	switch s.Kind {
	case RowsRecent:
		from := min(sinks, count/2)
		keep = make([]bool, tokens)
		for i := range keep {
			keep[i] = i < from || i >= tokens-(count-from)
		}
	case RowsPrivate:
		keep = s.private(tokens, count)
	case RowsLayerRandom:
		keep = least(draws(s.Seed+mix(uint64(layer)+1), tokens), count)
	default:
		keep = least(draws(s.Seed, tokens), count)
	}
	return keep[first : first+n]
}

// Keeps is Select for one row, by a kind that looks at no keys.
func (s Selection) Keeps(layer, tokens, row int) bool {
	keep := s.Select(layer, tokens, row, 1, nil, Query{})
	return keep == nil || keep[0]
}

// private keeps count of the rows that the whole session may see: any layer's rows are among them, so that layers
// with other shares do not fill the gaps.
func (s Selection) private(tokens, count int) []bool {
	whole := min(slices.Max(s.Shares).count(0, tokens), (tokens+privateGap-1)/privateGap)
	// Subsets of whole rows with gaps are subsets without, each row moved on by the gaps before it.
	packed := least(draws(s.Seed, tokens-(privateGap-1)*(whole-1)), whole)
	var rows []int
	for i, kept := range packed {
		if kept {
			rows = append(rows, i+(privateGap-1)*len(rows))
		}
	}
	keep := make([]bool, tokens)
	for i, kept := range least(draws(mix(s.Seed), whole), min(count, whole)) {
		keep[rows[i]] = kept
	}
	return keep
}

// norms is the square of each row's length.
func norms(keys []float32, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		for _, v := range keys[i*len(keys)/n:][:len(keys)/n] {
			out[i] += float64(float64(v) * float64(v))
		}
	}
	return out
}

// likeness is the cosine between each row and the mean of all rows' directions.
func likeness(keys []float32, n int) []float64 {
	elements := len(keys) / n
	length := norms(keys, n)
	mean := make([]float64, elements)
	for i := range n {
		length[i] = math.Sqrt(length[i])
		if length[i] == 0 {
			length[i] = 1
		}
		for j, v := range keys[i*elements:][:elements] {
			mean[j] += float64(v) / length[i]
		}
	}
	out := make([]float64, n)
	for i := range out {
		for j, v := range keys[i*elements:][:elements] {
			out[i] += float64(float64(v) * mean[j] / length[i])
		}
	}
	return out
}

// draws is a random number for each row. Rows with the smallest numbers are a random subset, and a larger subset
// holds the smaller ones.
func draws(seed uint64, n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = mix(seed + mix(uint64(i)+1))
	}
	return out
}

// mix is the finaliser of splitmix64: a permutation of 64 bits without visible structure.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// least marks the count smallest values, of equal ones the first.
func least[T cmp.Ordered](values []T, count int) []bool {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	keep := make([]bool, len(values))
	for _, i := range order[:min(count, len(order))] {
		keep[i] = true
	}
	return keep
}
