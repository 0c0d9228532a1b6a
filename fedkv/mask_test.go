package fedkv

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// picture draws the mask of a layer: one line per query position, # where it sees the key position.
func picture(l Layout, s Schedules, local RowPolicy, shape Shape, layer int) string {
	var b strings.Builder
	for q := range l.Total() {
		for k := range l.Total() {
			if Visible(l, s, local, shape, layer, q, k) {
				b.WriteByte('#')
			} else {
				b.WriteByte('.')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestMaskPictures(t *testing.T) {
	l, err := NewLayout(1, []int{2, 2, 2})
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSchedules("contributors=1,3;publisher=1-", 4)
	if err != nil {
		t.Fatal(err)
	}
	shape := Shape{Layers: []LayerShape{{}, {}, {}, {Window: 3}}}
	for layer, want := range []string{
		// Nobody syncs: prefix and own segment.
		`
#......
##.....
###....
#..#...
#..##..
#....#.
#....##
`,
		// Everybody syncs: plain causal attention.
		`
#......
##.....
###....
####...
#####..
######.
#######
`,
		// Only the publisher syncs.
		`
#......
##.....
###....
#..#...
#..##..
######.
#######
`,
		// Everybody syncs, and sees no further than three positions, the prefix included.
		`
#......
##.....
###....
.###...
..###..
...###.
....###
`} {
		if got := "\n" + picture(l, s, RowPolicy{}, shape, layer); got != want {
			t.Errorf("layer %d:%s", layer, got)
		}
	}
}

// attended reports whether a participant's later tokens attend to its own at position k at a local layer.
func attended(l Layout, local RowPolicy, layer, origin, k int) bool {
	own, _ := l.Segment(origin)
	keep := local.Of(origin).Select(layer, own.Tokens, 0, own.Tokens, nil, Query{})
	return keep == nil || keep[k-own.Offset]
}

func drawLocalRows(t *rapid.T) RowPolicy {
	spec := rapid.SampledFrom([]string{"all", "random=0.5", "random=1", "layer-random=0.3:0.7", "recent=0.4:1:0.2", "private=0.3"}).Draw(t, "local rows")
	p, err := ParseLocalRows(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Seed = rapid.Uint64().Draw(t, "seed of local rows")
	return p
}

// At a local layer the second and the fourth token of five stay out of what their segment sees, but for themselves.
func TestMaskOfLocalRows(t *testing.T) {
	l, err := NewLayout(1, []int{5, 2})
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSchedules("contributors=1;publisher=all", 2)
	if err != nil {
		t.Fatal(err)
	}
	local, err := ParseLocalRows("recent=0.6:1")
	if err != nil {
		t.Fatal(err)
	}
	for layer, want := range []string{`
#.......
##......
###.....
##.#....
##..#...
##..##..
#######.
########
`, `
#.......
##......
###.....
####....
#####...
######..
#######.
########
`} {
		if got := "\n" + picture(l, s, local, Shape{}, layer); got != want {
			t.Errorf("layer %d:%s", layer, got)
		}
	}
	for _, spec := range []string{"norm=0.5", "query=0.5", "diverse=1", "random", "half"} {
		if _, err := ParseLocalRows(spec); err == nil {
			t.Errorf("%s is accepted", spec)
		}
	}
}

func TestMaskLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t)
		s := drawSchedules(t, 4)
		if rapid.Bool().Draw(t, "with losses") {
			l = l.Without(drawLost(t, l)...)
		}
		layer := rapid.IntRange(0, 3).Draw(t, "layer")
		shape := Shape{Layers: make([]LayerShape, 4)}
		window := rapid.IntRange(0, 9).Draw(t, "window")
		shape.Layers[layer].Window = window
		local := drawLocalRows(t)
		n := l.Participants()
		for q := range l.Total() {
			to, _ := l.Owner(q)
			for k := range l.Total() {
				from, _ := l.Owner(k)
				if window > 0 && q-k >= window {
					if Visible(l, s, local, shape, layer, q, k) {
						t.Fatalf("%d sees %d through a window of %d", q, k, window)
					}
					continue
				}
				switch got := Visible(l, s, local, shape, layer, q, k); {
				case got && (k > q || from > to):
					t.Fatalf("%d of origin %d sees %d of origin %d, which comes later", q, to, k, from)
				case !got && k <= q && from == -1:
					t.Fatalf("%d of origin %d does not see %d, of the prefix", q, to, k)
				case from == to && from != -1 && k <= q && got != (q == k || s.Of(to, n).Sync(layer) || attended(l, local, layer, to, k)):
					t.Fatalf("%d of origin %d sees %d, its own: %v", q, to, k, got)
				case got && from != -1 && from != to && !s.Sends(from, n).Sync(layer):
					t.Fatalf("origin %d needs layer %d of origin %d, which does not send it", to, layer, from)
				case !got && k <= q && s.Of(to, n).Sync(layer):
					t.Fatalf("%d of origin %d does not see %d at a sync layer", q, to, k)
				case got && from != to && from != -1 && !s.Of(to, n).Sync(layer):
					t.Fatalf("%d of origin %d sees %d of origin %d at a local layer", q, to, k, from)
				}
			}
		}
		for _, outside := range []int{-1, l.Total(), l.Total() + 1} {
			if Visible(l, s, local, Shape{}, layer, outside, 0) || Visible(l, s, local, Shape{}, layer, l.Total()-1, outside) {
				t.Fatalf("position %d of %d takes part", outside, l.Total())
			}
		}
	})
}
