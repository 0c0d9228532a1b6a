package fedkv

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Schedule is a set of sync layers of a model with Len layers. It is a value: comparable with ==, and never
// changed by its methods. The zero value belongs to a model without layers.
type Schedule struct {
	layers int
	set    [(MaxLayers + 63) / 64]uint64 // bit l%64 of word l/64: layer l is a sync layer
}

// NewSchedule is the schedule with the given sync layers, in any order, of a model with 1..MaxLayers layers.
func NewSchedule(layers int, sync ...int) (Schedule, error) {
	if layers < 1 || layers > MaxLayers {
		return Schedule{}, fmt.Errorf("schedule: %d layers, must be 1 to %d", layers, MaxLayers)
	}
	s := Schedule{layers: layers}
	for _, l := range sync {
		if l < 0 || l >= layers {
			return Schedule{}, fmt.Errorf("schedule: layer %d does not exist, the model has layers 0 to %d", l, layers-1)
		}
		s.add(l)
	}
	return s, nil
}

func (s *Schedule) add(l int) { s.set[l/64] |= 1 << (l % 64) }

// Sync reports whether l is a sync layer; layers that do not exist are not.
func (s Schedule) Sync(l int) bool {
	return l >= 0 && l < s.layers && s.set[l/64]>>(l%64)&1 == 1
}

// Len is the number of layers of the model, sync or local.
func (s Schedule) Len() int { return s.layers }

// Count is the number of sync layers.
func (s Schedule) Count() int {
	n := 0
	for _, word := range s.set {
		n += bits.OnesCount64(word)
	}
	return n
}

// Layers lists the sync layers, ascending.
func (s Schedule) Layers() []int {
	list := make([]int, 0, s.Count())
	for l := range s.layers {
		if s.Sync(l) {
			list = append(list, l)
		}
	}
	return list
}

// Last is the last sync layer, or -1 if there is none.
func (s Schedule) Last() int {
	for l := s.layers - 1; l >= 0; l-- {
		if s.Sync(l) {
			return l
		}
	}
	return -1
}

// From keeps the sync layers ≥ min.
func (s Schedule) From(min int) Schedule {
	return s.keep(func(l int) bool { return l >= min })
}

// Before keeps the sync layers < end.
func (s Schedule) Before(end int) Schedule {
	return s.keep(func(l int) bool { return l < end })
}

func (s Schedule) keep(want func(l int) bool) Schedule {
	out := Schedule{layers: s.layers}
	for _, l := range s.Layers() {
		if want(l) {
			out.add(l)
		}
	}
	return out
}

// union is the layers of either; both belong to the same model.
func (s Schedule) union(o Schedule) Schedule {
	for i, word := range o.set {
		s.set[i] |= word
	}
	return s
}

// Any is the layers at which somebody exchanges rows.
func (s Schedules) Any() Schedule { return s.Contributors.union(s.Publisher) }

// String is the canonical spec: "none", "all", or ascending layers and closed ranges such as "0,4-7,9".
// ParseSchedule reads it back to an equal schedule.
func (s Schedule) String() string {
	switch s.Count() {
	case 0:
		return "none"
	case s.layers:
		return "all"
	}
	var b strings.Builder
	for l := 0; l < s.layers; l++ {
		if !s.Sync(l) {
			continue
		}
		first := l
		for s.Sync(l + 1) {
			l++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(first))
		if l > first {
			b.WriteString("-" + strconv.Itoa(l))
		}
	}
	return b.String()
}

// ParseSchedule reads a schedule for a model with the given number of layers:
//
//	none, all          no layer, every layer
//	0,4,8              these layers
//	2-11               layers 2 to 11, both included
//	2-                 layer 2 and all after it; layers and ranges combine by comma
//	H=k, tail=k        k-1 local layers, then one sync layer, and again: (l+1) mod k = 0
//	head=k             one sync layer, then k-1 local ones: l mod k = 0
//	shallow=k          as many as H=k, half as far apart, from the first layer on
//	deep=k             as many as H=k, half as far apart, up to the last layer
//	progressive=k      as many as H=k, from the first to the last layer, gaps growing with depth
//	regressive=k       as many as H=k, from the first to the last layer, gaps shrinking with depth
//
// An interval k lies in 1..layers; every form with k = 1 is "all". With 24 layers and k = 8 the last four
// are 0,4,8 and 15,19,23 and 0,8,23 and 0,15,23, the placements that the paper compares.
func ParseSchedule(spec string, layers int) (Schedule, error) {
	s, err := NewSchedule(layers)
	if err != nil {
		return Schedule{}, err
	}
	if name, value, ok := strings.Cut(spec, "="); ok {
		place, ok := placements[name]
		if !ok {
			return Schedule{}, fmt.Errorf("schedule %q: unknown placement %q; known are H, tail, head, shallow, deep, progressive, regressive", spec, name)
		}
		k, err := parseNumber(value)
		if err != nil || k < 1 || k > layers {
			return Schedule{}, fmt.Errorf("schedule %q: the interval must be a number from 1 to %d, the model's layers", spec, layers)
		}
		for i := range placedCount(name, layers, k) {
			s.add(place(i, layers, k))
		}
		return s, nil
	}
	switch spec {
	case "none":
		return s, nil
	case "all":
		for l := range layers {
			s.add(l)
		}
		return s, nil
	}
	for part := range strings.SplitSeq(spec, ",") {
		first, last, err := parseRange(part, layers)
		if err != nil {
			return Schedule{}, fmt.Errorf("schedule %q: %w", spec, err)
		}
		for l := first; l <= last; l++ {
			s.add(l)
		}
	}
	return s, nil
}

// placements gives the i-th sync layer of each named form. Each is strictly increasing in i and stays below
// the number of layers for i < placedCount.
var placements = map[string]func(i, layers, k int) int{
	"H":    tail,
	"tail": tail,
	"head": func(i, _, k int) int { return i * k },

	"shallow": shallow,
	"deep":    func(i, layers, k int) int { return layers - 1 - shallow(i, layers, k) },

	"progressive": progressive,
	"regressive":  func(i, layers, k int) int { return layers - 1 - progressive(i, layers, k) },
}

func tail(i, _, k int) int { return (i+1)*k - 1 }

func shallow(i, _, k int) int { return i * max(1, k/2) }

// progressive spreads n = layers/k sync layers over the whole depth with gaps in the ratio 1 : 2 : 3 : …
// The i mandatory steps are kept apart from the free layers that the ratio divides, so that layers stay
// distinct however many there are.
func progressive(i, layers, k int) int {
	n := layers / k
	if n == 1 {
		return 0
	}
	return i + (layers-n)*i*(i+1)/(n*(n-1))
}

// placedCount is how many sync layers a named form has: head also has the incomplete last interval's.
func placedCount(name string, layers, k int) int {
	if name == "head" {
		return (layers + k - 1) / k
	}
	return layers / k
}

// parseRange reads "4", "2-11" or "2-" into the first and the last layer, both included.
func parseRange(part string, layers int) (first, last int, err error) {
	from, to, isRange := strings.Cut(part, "-")
	first, err = parseNumber(from)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is neither a layer nor a range such as 2-11 or 2-", part)
	}
	switch {
	case !isRange:
		last = first
	case to == "":
		last = layers - 1
	default:
		if last, err = parseNumber(to); err != nil {
			return 0, 0, fmt.Errorf("%q is neither a layer nor a range such as 2-11 or 2-", part)
		}
	}
	if first >= layers || last >= layers {
		return 0, 0, fmt.Errorf("layer %d does not exist, the model has layers 0 to %d", max(first, last), layers-1)
	}
	if last < first {
		return 0, 0, fmt.Errorf("range %q runs backwards", part)
	}
	return first, last, nil
}

// parseNumber reads digits only: no sign, no space, nothing longer than any limit here.
func parseNumber(text string) (int, error) {
	if len(text) > 6 || strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}

// Regime is how a session runs; it follows from the contributors' schedule alone.
type Regime uint8

const (
	// Gather: contributors attend to nobody, so they run alone; the publisher waits for all blocks and then
	// evaluates its own segment.
	Gather Regime = 1
	// Lockstep: contributors exchange rows among themselves in the middle of the forward pass.
	Lockstep Regime = 2
)

// String is "gather" or "lockstep".
func (r Regime) String() string {
	switch r {
	case Gather:
		return "gather"
	case Lockstep:
		return "lockstep"
	}
	return fmt.Sprintf("regime(%d)", uint8(r))
}

// Schedules holds the sync layers of a session: R_n of the paper, one for all contributors and one for the
// publisher. Both belong to the same model.
type Schedules struct{ Contributors, Publisher Schedule }

// ParseSchedules reads the schedules of a session:
//
//	gather                            contributors none, publisher all
//	lockstep                          both all
//	contributors=SPEC;publisher=SPEC  each as for ParseSchedule
//	SPEC                              both the same
func ParseSchedules(spec string, layers int) (Schedules, error) {
	contributors, publisher := spec, spec
	switch {
	case spec == "gather":
		contributors, publisher = "none", "all"
	case spec == "lockstep":
		contributors, publisher = "all", "all"
	case strings.Contains(spec, ";"):
		c, p, _ := strings.Cut(spec, ";")
		var ok1, ok2 bool
		contributors, ok1 = strings.CutPrefix(c, "contributors=")
		publisher, ok2 = strings.CutPrefix(p, "publisher=")
		if !ok1 || !ok2 {
			return Schedules{}, fmt.Errorf("schedules %q: must read contributors=SPEC;publisher=SPEC", spec)
		}
	}
	var s Schedules
	var err error
	if s.Contributors, err = ParseSchedule(contributors, layers); err != nil {
		return Schedules{}, err
	}
	if s.Publisher, err = ParseSchedule(publisher, layers); err != nil {
		return Schedules{}, err
	}
	return s, nil
}

// String is the shortest spec that ParseSchedules reads back to equal schedules.
func (s Schedules) String() string {
	c, p := s.Contributors.String(), s.Publisher.String()
	switch {
	case c == "none" && p == "all":
		return "gather"
	case c == "all" && p == "all":
		return "lockstep"
	case c == p:
		return c
	}
	return "contributors=" + c + ";publisher=" + p
}

// Validate reports schedules that do not belong to a model with this many layers.
func (s Schedules) Validate(layers int) error {
	if s.Contributors.layers != layers || s.Publisher.layers != layers {
		return fmt.Errorf("schedules are for %d and %d layers, the model has %d", s.Contributors.layers, s.Publisher.layers, layers)
	}
	return nil
}

// Of is the schedule of one of the participants 0..participants-1, the last of which is the publisher.
func (s Schedules) Of(origin, participants int) Schedule {
	if origin == participants-1 {
		return s.Publisher
	}
	return s.Contributors
}

// Regime is Gather if contributors have no sync layer, else Lockstep.
func (s Schedules) Regime() Regime {
	if s.Contributors.Count() == 0 {
		return Gather
	}
	return Lockstep
}

// Sends is the layers that an origin must send: those at which some later participant syncs. The publisher
// sends none. Its Last is where a contributor may stop computing.
func (s Schedules) Sends(origin, participants int) Schedule {
	switch {
	case origin >= participants-1:
		return Schedule{layers: s.Publisher.layers}
	case origin == participants-2:
		return s.Publisher
	}
	return s.Contributors.union(s.Publisher)
}

// Recipients lists the later origins that sync at a layer, ascending: whom an origin sends its rows to.
func (s Schedules) Recipients(origin, layer, participants int) []int {
	var to []int
	for later := origin + 1; later < participants; later++ {
		if s.Of(later, participants).Sync(layer) {
			to = append(to, later)
		}
	}
	return to
}

// From keeps the sync layers ≥ min of both schedules.
func (s Schedules) From(min int) Schedules {
	return Schedules{Contributors: s.Contributors.From(min), Publisher: s.Publisher.From(min)}
}

// Barriers is how many waits for the network a session has one after another: the layers at which contributors have to
// wait for rows of earlier ones before they can go on, and one more for the publisher if it receives any. The
// publisher's layers do not count one by one, since nobody waits for it: where contributors go on without each other,
// it may as well wait once. So gather has 1, and the paper's schedule as many as it has sync layers, from three
// participants on.
func (s Schedules) Barriers(participants int) int {
	if participants < 2 {
		return 0
	}
	n := 0
	// the second contributor is the first that can wait; who sends to later contributors too computes furthest
	if participants > 2 {
		last := -1
		for origin := 1; origin < participants-1; origin++ {
			last = max(last, s.Sends(origin, participants).Last())
		}
		n = s.Contributors.Before(last).Count()
	}
	if s.Publisher.Count() > 0 {
		n++
	}
	return n
}
