package fedkv

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawSchedule draws any schedule for a model with the given layers.
func drawSchedule(t *rapid.T, layers int, label string) Schedule {
	s, err := NewSchedule(layers, rapid.SliceOf(rapid.IntRange(0, layers-1)).Draw(t, label)...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drawSchedules draws any pair of schedules for a model with the given layers.
func drawSchedules(t *rapid.T, layers int) Schedules {
	return Schedules{
		Contributors: drawSchedule(t, layers, "contributors"),
		Publisher:    drawSchedule(t, layers, "publisher"),
	}
}

func TestParseSchedule(t *testing.T) {
	for _, test := range []struct {
		spec   string
		layers int
		want   []int
		text   string
	}{
		{"none", 4, []int{}, "none"},
		{"all", 4, []int{0, 1, 2, 3}, "all"},
		{"0-3", 4, []int{0, 1, 2, 3}, "all"},
		{"0,4,8", 24, []int{0, 4, 8}, "0,4,8"},
		{"8,0,4,4", 24, []int{0, 4, 8}, "0,4,8"},
		{"2-", 6, []int{2, 3, 4, 5}, "2-5"},
		{"2-3", 6, []int{2, 3}, "2-3"},
		{"0,2-3,5-", 8, []int{0, 2, 3, 5, 6, 7}, "0,2-3,5-7"},
		{"2-4,3-5", 8, []int{2, 3, 4, 5}, "2-5"},
		{"H=1", 3, []int{0, 1, 2}, "all"},
		{"H=2", 5, []int{1, 3}, "1,3"},
		{"tail=2", 5, []int{1, 3}, "1,3"},
		{"head=2", 5, []int{0, 2, 4}, "0,2,4"},
		{"H=8", 24, []int{7, 15, 23}, "7,15,23"},
		{"head=8", 24, []int{0, 8, 16}, "0,8,16"},
		{"H=4", 4, []int{3}, "3"},

		// The placements of the paper's comparison.
		{"shallow=8", 24, []int{0, 4, 8}, "0,4,8"},
		{"deep=8", 24, []int{15, 19, 23}, "15,19,23"},
		{"progressive=8", 24, []int{0, 8, 23}, "0,8,23"},
		{"regressive=8", 24, []int{0, 15, 23}, "0,15,23"},
		{"progressive=24", 24, []int{0}, "0"},
		{"regressive=24", 24, []int{23}, "23"},
		{"progressive=4", 24, []int{0, 2, 5, 10, 16, 23}, "0,2,5,10,16,23"},
	} {
		s, err := ParseSchedule(test.spec, test.layers)
		if err != nil {
			t.Errorf("ParseSchedule(%q, %d): %v", test.spec, test.layers, err)
			continue
		}
		if diff := cmp.Diff(test.want, s.Layers()); diff != "" {
			t.Errorf("ParseSchedule(%q, %d): %s", test.spec, test.layers, diff)
		}
		if s.String() != test.text {
			t.Errorf("ParseSchedule(%q, %d).String() = %q, want %q", test.spec, test.layers, s, test.text)
		}
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	for _, test := range []struct {
		spec   string
		layers int
		says   string
	}{
		{"", 4, "neither a layer nor a range"},
		{"All", 4, "neither a layer nor a range"},
		{"4", 4, "layers 0 to 3"},
		{"1-4", 4, "layers 0 to 3"},
		{"4-", 4, "layers 0 to 3"},
		{"3-1", 4, "backwards"},
		{"-2", 4, "neither"},
		{"-", 4, "neither"},
		{"1,,2", 4, "neither"},
		{"1, 2", 4, "neither"},
		{"+1", 4, "neither"},
		{"1-2-3", 4, "neither"},
		{"99999999999999999999", 4, "neither"},
		{"all,1", 4, "neither"},
		{"H=0", 4, "from 1 to 4"},
		{"H=5", 4, "from 1 to 4"},
		{"H=", 4, "from 1 to 4"},
		{"H=x", 4, "from 1 to 4"},
		{"h=2", 4, "unknown placement"},
		{"H=2,H=3", 4, "from 1 to 4"},
		{"all", 0, "must be 1 to"},
		{"all", MaxLayers + 1, "must be 1 to"},
	} {
		s, err := ParseSchedule(test.spec, test.layers)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("ParseSchedule(%q, %d) = %v, %v; want an error that says %q", test.spec, test.layers, s, err, test.says)
		}
	}
}

func TestScheduleStringReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers := rapid.IntRange(1, MaxLayers).Draw(t, "layers")
		s := drawSchedule(t, layers, "sync")
		back, err := ParseSchedule(s.String(), layers)
		if err != nil || back != s {
			t.Fatalf("%q reads back as %v, %v", s, back, err)
		}
	})
}

func TestScheduleIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers := rapid.IntRange(1, MaxLayers).Draw(t, "layers")
		list := rapid.SliceOf(rapid.IntRange(0, layers-1)).Draw(t, "list")
		s, err := NewSchedule(layers, list...)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(list)
		list = slices.Compact(list)
		if !slices.Equal(s.Layers(), list) || s.Count() != len(list) || s.Len() != layers {
			t.Fatalf("Layers() = %v of %d, want %v of %d", s.Layers(), s.Len(), list, layers)
		}
		for l := -1; l <= layers; l++ {
			if s.Sync(l) != slices.Contains(list, l) {
				t.Fatalf("Sync(%d) = %v", l, s.Sync(l))
			}
		}
		last := -1
		if len(list) > 0 {
			last = list[len(list)-1]
		}
		if s.Last() != last {
			t.Fatalf("Last() = %d, want %d", s.Last(), last)
		}
		cut := rapid.IntRange(-1, layers+1).Draw(t, "cut")
		if from, before := s.From(cut), s.Before(cut); from.union(before) != s || from.Count()+before.Count() != s.Count() {
			t.Fatalf("From(%d) = %v and Before(%d) = %v do not part %v", cut, from, cut, before, s)
		}
	})
}

func TestPlacementsKeepTheirPromises(t *testing.T) {
	layers := func(spec string, k, n int) []int {
		s, err := ParseSchedule(spec+"="+strconv.Itoa(k), n)
		if err != nil {
			t.Fatal(err)
		}
		return s.Layers()
	}
	mirror := func(list []int, n int) []int {
		out := make([]int, len(list))
		for i, l := range list {
			out[len(list)-1-i] = n - 1 - l
		}
		return out
	}
	for n := 1; n <= 64; n++ {
		for k := 1; k <= n; k++ {
			tail, head := layers("tail", k, n), layers("head", k, n)
			for l := range n {
				if slices.Contains(tail, l) != ((l+1)%k == 0) || slices.Contains(head, l) != (l%k == 0) {
					t.Fatalf("layer %d of %d with interval %d: tail %v, head %v", l, n, k, tail, head)
				}
			}
			if !slices.Equal(layers("H", k, n), tail) {
				t.Fatalf("H=%d is not tail=%d", k, k)
			}
			shallow, deep := layers("shallow", k, n), layers("deep", k, n)
			progressive, regressive := layers("progressive", k, n), layers("regressive", k, n)
			for _, list := range [][]int{shallow, deep, progressive, regressive} {
				if len(list) != len(tail) {
					t.Fatalf("%d layers, interval %d: %v has not the count of %v", n, k, list, tail)
				}
			}
			if !slices.Equal(deep, mirror(shallow, n)) || !slices.Equal(regressive, mirror(progressive, n)) {
				t.Fatalf("%d layers, interval %d: no mirror images: %v %v, %v %v", n, k, shallow, deep, progressive, regressive)
			}
			if len(tail) > 1 && (progressive[0] != 0 || progressive[len(progressive)-1] != n-1) {
				t.Fatalf("%d layers, interval %d: progressive %v does not span the model", n, k, progressive)
			}
			for i := 2; i < len(progressive); i++ {
				if gap, before := progressive[i]-progressive[i-1], progressive[i-1]-progressive[i-2]; gap < before-1 {
					t.Fatalf("%d layers, interval %d: the gaps of %v shrink by more than rounding", n, k, progressive)
				}
			}
		}
	}
}

func TestParseSchedules(t *testing.T) {
	for _, test := range []struct{ spec, contributors, publisher, text string }{
		{"gather", "none", "all", "gather"},
		{"lockstep", "all", "all", "lockstep"},
		{"all", "all", "all", "lockstep"},
		{"none", "none", "none", "none"},
		{"H=4", "3,7", "3,7", "3,7"},
		{"contributors=none;publisher=2-", "none", "2-7", "contributors=none;publisher=2-7"},
		{"contributors=none;publisher=all", "none", "all", "gather"},
		{"contributors=H=4;publisher=head=4", "3,7", "0,4", "contributors=3,7;publisher=0,4"},
	} {
		s, err := ParseSchedules(test.spec, 8)
		if err != nil {
			t.Errorf("ParseSchedules(%q): %v", test.spec, err)
			continue
		}
		if s.Contributors.String() != test.contributors || s.Publisher.String() != test.publisher || s.String() != test.text {
			t.Errorf("ParseSchedules(%q) = %v and %v, %q", test.spec, s.Contributors, s.Publisher, s)
		}
		if err := s.Validate(8); err != nil {
			t.Errorf("ParseSchedules(%q): %v", test.spec, err)
		}
	}
	for _, spec := range []string{
		"", ";", "gather;lockstep", "contributors=none", "contributors=none;", "contributors=none;publisher=",
		"publisher=all;contributors=none", "contributors=none;publisher=all;", "contributors=8;publisher=all",
	} {
		if s, err := ParseSchedules(spec, 8); err == nil {
			t.Errorf("ParseSchedules(%q) = %v, want an error", spec, s)
		}
	}
}

func TestSchedulesStringReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers := rapid.IntRange(1, 40).Draw(t, "layers")
		s := drawSchedules(t, layers)
		back, err := ParseSchedules(s.String(), layers)
		if err != nil || back != s {
			t.Fatalf("%q reads back as %v, %v", s, back, err)
		}
	})
}

func TestSchedulesSendAndReceiveAreTheSameTriangle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const layers = 6
		s := drawSchedules(t, layers)
		n := rapid.IntRange(1, 6).Draw(t, "participants")
		for origin := range n {
			for l := range layers {
				to := s.Recipients(origin, l, n)
				if s.Sends(origin, n).Sync(l) != (len(to) > 0) {
					t.Fatalf("origin %d of %d, layer %d: Sends %v, Recipients %v", origin, n, l, s.Sends(origin, n), to)
				}
				for later := range n {
					if slices.Contains(to, later) != (later > origin && s.Of(later, n).Sync(l)) {
						t.Fatalf("origin %d of %d, layer %d: recipients %v", origin, n, l, to)
					}
				}
				if !slices.IsSorted(to) {
					t.Fatalf("recipients %v are not in order", to)
				}
			}
		}
		if s.Sends(n-1, n).Count() != 0 {
			t.Fatal("the publisher sends")
		}
		if (s.Regime() == Gather) != (s.Contributors.Count() == 0) {
			t.Fatalf("regime %v of %v", s.Regime(), s)
		}
		min := rapid.IntRange(-1, layers+1).Draw(t, "min")
		if from := s.From(min); from.Contributors != s.Contributors.From(min) || from.Publisher != s.Publisher.From(min) {
			t.Fatalf("From(%d) = %v", min, from)
		}
	})
}

func TestSchedulesValidate(t *testing.T) {
	eight, err := ParseSchedule("all", 8)
	if err != nil {
		t.Fatal(err)
	}
	nine, err := ParseSchedule("all", 9)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Schedules{{}, {eight, nine}, {nine, eight}, {nine, nine}} {
		if s.Validate(8) == nil {
			t.Errorf("schedules for %d and %d layers pass for 8", s.Contributors.Len(), s.Publisher.Len())
		}
	}
}

func TestRegimesHaveNames(t *testing.T) {
	for r, want := range map[Regime]string{Gather: "gather", Lockstep: "lockstep", 0: "regime(0)"} {
		if r.String() != want {
			t.Errorf("%q, want %q", r, want)
		}
	}
}
