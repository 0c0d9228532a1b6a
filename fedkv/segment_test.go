package fedkv

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawLayout draws a layout of 1..6 participants with short segments.
func drawLayout(t *rapid.T) Layout {
	prefix := rapid.IntRange(0, 4).Draw(t, "prefix")
	tokens := rapid.SliceOfN(rapid.IntRange(1, 5), 1, 6).Draw(t, "tokens")
	l, err := NewLayout(prefix, tokens)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// drawLost draws a set of contributors of a layout.
func drawLost(t *rapid.T, l Layout) []int {
	var lost []int
	for _, s := range l.Segments[:len(l.Segments)-1] {
		if rapid.Bool().Draw(t, "lost") {
			lost = append(lost, s.Origin)
		}
	}
	return lost
}

func TestLayoutPositionsAreGlobalAndContiguous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t)
		if rapid.Bool().Draw(t, "with losses") {
			l = l.Without(drawLost(t, l)...)
		}
		next := l.Prefix
		for i, s := range l.Segments {
			if s.Offset != next || s.Tokens < 1 {
				t.Fatalf("segment %v does not begin at %d", s, next)
			}
			if i > 0 && s.Origin <= l.Segments[i-1].Origin {
				t.Fatalf("origins do not ascend: %v", l.Segments)
			}
			next = s.End()
		}
		if l.Total() != next {
			t.Fatalf("Total() = %d, want %d", l.Total(), next)
		}
		for pos := -1; pos <= l.Total(); pos++ {
			owner, ok := l.Owner(pos)
			if ok != (pos >= 0 && pos < l.Total()) {
				t.Fatalf("Owner(%d) is %v of %d positions", pos, ok, l.Total())
			}
			if !ok || owner == -1 {
				if owner == -1 && pos >= l.Prefix {
					t.Fatalf("position %d is outside the prefix of %d", pos, l.Prefix)
				}
				continue
			}
			if s, ok := l.Segment(owner); !ok || pos < s.Offset || pos >= s.End() {
				t.Fatalf("Owner(%d) = %d, which owns %v", pos, owner, s)
			}
		}
	})
}

func TestLayoutWithoutIsTheLayoutOfThoseWhoStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t)
		before := slices.Clone(l.Segments)
		lost := drawLost(t, l)
		got := l.Without(lost...)

		var tokens []int
		for _, s := range l.Segments {
			if !slices.Contains(lost, s.Origin) {
				tokens = append(tokens, s.Tokens)
			}
		}
		never, err := NewLayout(l.Prefix, tokens)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Segments) != len(never.Segments) || got.Total() != never.Total() {
			t.Fatalf("Without(%v) = %v, want the sizes of %v", lost, got, never)
		}
		for i, s := range got.Segments {
			if n := never.Segments[i]; s.Offset != n.Offset || s.Tokens != n.Tokens {
				t.Fatalf("segment %v, in a session without %v it is %v", s, lost, n)
			}
		}
		if got.Participants() != l.Participants() {
			t.Fatalf("the number of origins changed from %d to %d", l.Participants(), got.Participants())
		}
		if diff := cmp.Diff(before, l.Segments); diff != "" {
			t.Fatalf("the receiver changed: %s", diff)
		}
		// One by one, in any order, comes to the same.
		each := l
		for _, origin := range rapid.Permutation(lost).Draw(t, "order") {
			each = each.Without(origin)
		}
		if diff := cmp.Diff(got, each); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Rows that were evaluated in place stay true only where they are.
func TestLayoutVacateMovesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t)
		before := slices.Clone(l.Segments)
		lost := drawLost(t, l)
		got := l.Vacate(lost...)
		for i, s := range before {
			own, ok := got.Segment(s.Origin)
			switch gone := i < len(before)-1 && slices.Contains(lost, s.Origin); {
			case gone && ok:
				t.Fatalf("lost segment %v is still there", s)
			case !gone && own != s:
				t.Fatalf("segment %v became %v", s, own)
			}
			if origin, ok := got.Owner(s.Offset); ok != !slices.Contains(lost, s.Origin) && i < len(before)-1 {
				t.Fatalf("position %d belongs to %d, %v", s.Offset, origin, ok)
			}
		}
		if got.Prefix != l.Prefix || got.Total() != l.Total() {
			t.Fatalf("Vacate(%v) = %v of %v", lost, got, l)
		}
		if diff := cmp.Diff(before, l.Segments); diff != "" {
			t.Fatalf("the receiver changed: %s", diff)
		}
	})
}

func TestLayoutKeepsThePublisher(t *testing.T) {
	l, err := NewLayout(2, []int{3, 4})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, l.Without(1)); diff != "" {
		t.Fatal(diff)
	}
}

func TestNewLayoutHoldsItsLimits(t *testing.T) {
	for _, test := range []struct {
		name   string
		prefix int
		tokens []int
		valid  bool
	}{
		{"publisher alone", 0, []int{1}, true},
		{"the most participants", MaxPrefix, slices.Repeat([]int{1}, MaxParticipants), true},
		{"the longest stream", 1, []int{1, MaxTokens - 2}, true},
		{"a stream too long", 1, []int{1, MaxTokens - 1}, false},
		{"negative prefix", -1, []int{1}, false},
		{"long prefix", MaxPrefix + 1, []int{1}, false},
		{"nobody", 0, nil, false},
		{"a participant too many", 0, slices.Repeat([]int{1}, MaxParticipants+1), false},
		{"an empty segment", 0, []int{1, 0, 1}, false},
		{"a segment too long", 0, []int{1, MaxTokens + 1}, false},
	} {
		if _, err := NewLayout(test.prefix, test.tokens); (err == nil) != test.valid {
			t.Errorf("%s: NewLayout: %v", test.name, err)
		}
	}
}

func TestZeroLayoutIsEmpty(t *testing.T) {
	var l Layout
	if l.Total() != 0 || l.Participants() != 0 {
		t.Errorf("Total %d, Participants %d", l.Total(), l.Participants())
	}
	if _, ok := l.Owner(0); ok {
		t.Error("position 0 has an owner")
	}
}
