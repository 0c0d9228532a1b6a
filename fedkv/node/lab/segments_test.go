package lab

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fedattn/fedkv"
)

func drawUnits(t *rapid.T, most int) [][]fedkv.Token {
	sizes := rapid.SliceOfN(rapid.IntRange(1, 30), 1, most).Draw(t, "sizes")
	units := make([][]fedkv.Token, len(sizes))
	next := fedkv.Token(0)
	for i, n := range sizes {
		for range n {
			units[i] = append(units[i], next)
			next++
		}
	}
	return units
}

// checkSegments holds n segments to what every Segmentation promises.
func checkSegments(t *rapid.T, segments [][]fedkv.Token, whole []fedkv.Token, n int) {
	if len(segments) != n || !slices.Equal(slices.Concat(segments...), whole) {
		t.Fatalf("%d segments, want %d of %v: %v", len(segments), n, whole, segments)
	}
	for i, s := range segments {
		if len(s) == 0 {
			t.Fatalf("segment %d is empty", i)
		}
	}
}

func TestEvenlyKeepsAllInEqualParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := slices.Concat(drawUnits(t, 20)...)
		n := rapid.IntRange(1, len(whole)).Draw(t, "n")
		segments, err := Evenly(whole, n)
		if err != nil {
			t.Fatal(err)
		}
		checkSegments(t, segments, whole, n)
		for i, s := range segments[:n-1] {
			if len(s) != len(whole)/n {
				t.Fatalf("segment %d has %d of %d tokens", i, len(s), len(whole))
			}
		}
	})
}

// Units stay whole, and no segment could be brought nearer to its end by moving one unit.
func TestWholeKeepsUnits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := drawUnits(t, 12)
		whole := slices.Concat(units...)
		n := rapid.IntRange(1, len(units)).Draw(t, "n")
		segments, err := Whole(units, n)
		if err != nil {
			t.Fatal(err)
		}
		checkSegments(t, segments, whole, n)
		ends := map[int]bool{}
		for _, u := range units {
			ends[int(u[len(u)-1])+1] = true
		}
		end := 0
		for _, s := range segments {
			if end += len(s); !ends[end] {
				t.Fatalf("a cut at %d is within a unit", end)
			}
		}
	})
}

func TestWholeCutsAsEvenlyAsUnitsAllow(t *testing.T) {
	sizes := func(n ...int) (units [][]fedkv.Token) {
		for _, n := range n {
			units = append(units, make([]fedkv.Token, n))
		}
		return units
	}
	for _, c := range []struct {
		units [][]fedkv.Token
		n     int
		want  []int
	}{
		{sizes(5, 5, 5, 5), 2, []int{10, 10}},
		{sizes(9, 1, 1, 1), 2, []int{9, 3}},
		{sizes(1, 1, 1, 9), 2, []int{3, 9}},
		{sizes(100, 1, 1), 3, []int{100, 1, 1}},
		{sizes(1, 1, 100), 3, []int{1, 1, 100}},
		{sizes(3, 0, 3, 0), 2, []int{3, 3}},
		{sizes(4, 2, 3), 1, []int{9}},
	} {
		segments, err := Whole(c.units, c.n)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, s := range segments {
			got = append(got, len(s))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d units to %d: %v, want %v", len(c.units), c.n, got, c.want)
		}
	}
}

func TestTooFewForEverybody(t *testing.T) {
	if _, err := Evenly(stream(2), 3); err == nil || !strings.Contains(err.Error(), "2 tokens leave none for some of 3") {
		t.Error(err)
	}
	if _, err := Whole([][]fedkv.Token{stream(5), nil, stream(7)}, 3); err == nil || !strings.Contains(err.Error(), "2 whole units") {
		t.Error(err)
	}
}

func TestUnitsKeepTheText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.Int32Range(0, 3), 0, 40).Draw(t, "text")
		ends := func(t fedkv.Token) bool { return t == 0 }
		units := Units(text, ends)
		if !slices.Equal(slices.Concat(units...), text) {
			t.Fatalf("%v became %v", text, units)
		}
		for i, u := range units {
			if n := slices.IndexFunc(u, ends); len(u) == 0 || n >= 0 && n < len(u)-1 || n < 0 && i < len(units)-1 {
				t.Fatalf("unit %d of %v is %v", i, text, u)
			}
		}
	})
}

// lines is a tokenizer of bytes.
type lines struct{}

func (lines) Piece(t fedkv.Token) []byte { return []byte{byte(t)} }

func TestParagraphsAreLines(t *testing.T) {
	var text []fedkv.Token
	for _, b := range []byte("one\ntwo\n\nthree, a long one\nfour") {
		text = append(text, fedkv.Token(b))
	}
	segments, err := Paragraphs(lines{})(text, 3)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range segments {
		got = append(got, string(slices.Concat(pieces(s)...)))
	}
	if want := []string{"one\ntwo\n\n", "three, a long one\n", "four"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := Paragraphs(lines{})(text, 6); err == nil || !strings.Contains(err.Error(), "cut into paragraphs, 5 whole units") {
		t.Error(err)
	}
}

func pieces(tokens []fedkv.Token) (out [][]byte) {
	for _, t := range tokens {
		out = append(out, lines{}.Piece(t))
	}
	return out
}

// Windows do not overlap, and one of them is the text's beginning.
func TestWindowsAreApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := stream(rapid.IntRange(0, 2).Draw(t, "start"))
		own, n := rapid.IntRange(1, 20).Draw(t, "own"), rapid.IntRange(1, 6).Draw(t, "n")
		text := make([]fedkv.Token, own*n+rapid.IntRange(0, 30).Draw(t, "more"))
		for i := range text {
			text[i] = fedkv.Token(i)
		}
		windows, err := Windows(start, text, len(start)+own, n)
		if err != nil {
			t.Fatal(err)
		}
		end := fedkv.Token(0)
		for i, w := range windows {
			if len(w) != len(start)+own || !slices.Equal(w[:len(start)], start) {
				t.Fatalf("window %d is %v", i, w)
			}
			first := w[len(start)]
			if first < end || i == 0 && first != 0 || !slices.Equal(w[len(start):], text[first:int(first)+own]) {
				t.Fatalf("window %d is %v, the one before ends at %d", i, w, end)
			}
			end = first + fedkv.Token(own)
		}
	})
	for _, c := range []struct {
		tokens, n int
		text      string
	}{
		{10, 0, "at least one"}, {2, 1, "room for its text"}, {13, 1, "the text has 12 tokens, 13 are asked for"},
		{8, 2, "2 windows of 8 are asked for"},
	} {
		if _, err := Windows(stream(2), stream(10), c.tokens, c.n); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// The four ways of the paper to hand out examples and a question.
func TestExamplesAndQuestion(t *testing.T) {
	examples := [][]fedkv.Token{{1, 1, 1}, {2, 2}, {3, 3, 3}, {4, 4}}
	question, prefix := []fedkv.Token{9, 9}, []fedkv.Token{7}
	for _, c := range []struct {
		participants     int
		whole, exclusive bool
		want             [][]fedkv.Token
	}{
		{3, false, true, [][]fedkv.Token{{1, 1, 1, 2, 2}, {3, 3, 3, 4, 4}, {9, 9}}},
		{3, true, true, [][]fedkv.Token{{1, 1, 1, 2, 2}, {3, 3, 3, 4, 4}, {9, 9}}},
		{4, false, true, [][]fedkv.Token{{1, 1, 1}, {2, 2, 3}, {3, 3, 4, 4}, {9, 9}}},
		{3, false, false, [][]fedkv.Token{{1, 1, 1, 2}, {2, 3, 3, 3}, {4, 4, 9, 9}}},
		{3, true, false, [][]fedkv.Token{{1, 1, 1}, {2, 2, 3, 3, 3}, {4, 4, 9, 9}}},
		{1, true, false, [][]fedkv.Token{{1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 9, 9}}},
	} {
		p, err := CutExamples(prefix, examples, question, c.participants, c.whole, c.exclusive)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if !slices.Equal(p.Prefix, prefix) || !slices.EqualFunc(p.Segments, c.want, slices.Equal) {
			t.Errorf("%d participants, whole %v, exclusive %v: %v, want %v", c.participants, c.whole, c.exclusive, p.Segments, c.want)
		}
	}
	if p, err := CutExamples(nil, nil, question, 1, true, true); err != nil || len(p.Segments) != 1 {
		t.Errorf("a question alone: %v, %v", p, err)
	}
	for _, c := range []struct {
		examples         [][]fedkv.Token
		question         []fedkv.Token
		participants     int
		whole, exclusive bool
	}{
		{examples, question, 6, true, true}, {examples, question, 1, true, true}, {examples, nil, 3, true, true},
		{nil, question, 2, false, true}, {examples, question, 0, false, false},
	} {
		if p, err := CutExamples(nil, c.examples, c.question, c.participants, c.whole, c.exclusive); err == nil {
			t.Errorf("%+v: %v", c, p)
		}
	}
}
