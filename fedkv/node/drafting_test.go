package node

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"fedattn/fedkv"
)

// What is looked up did follow the last tokens before, and the longest match wins.
func TestLookUp(t *testing.T) {
	for _, of := range []struct{ said, most, want []fedkv.Token }{
		{said: []fedkv.Token{1, 2, 3, 4, 1, 2}, want: []fedkv.Token{3, 4, 1}},
		{said: []fedkv.Token{1, 2, 8, 5, 1, 2, 9, 5, 1, 2}, want: []fedkv.Token{9, 5, 1}},          // the latest of equals
		{said: []fedkv.Token{7, 1, 2, 8, 5, 6, 1, 2, 9, 5, 7, 1, 2}, want: []fedkv.Token{8, 5, 6}}, // a longer one before it
		{said: []fedkv.Token{4, 4, 4}, want: []fedkv.Token{4}},
		{said: []fedkv.Token{1, 2, 3, 2}},
		{said: []fedkv.Token{1}},
		{},
	} {
		if got := lookUp(of.said, 3); !slices.Equal(got, of.want) {
			t.Errorf("after %v: %v, not %v", of.said, got, of.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		said := rapid.SliceOf(rapid.Map(rapid.IntRange(0, 3), func(i int) fedkv.Token { return fedkv.Token(i) })).Draw(t, "said")
		most := rapid.IntRange(1, 6).Draw(t, "most")
		got := lookUp(said, most)
		if len(got) > most {
			t.Fatalf("%d tokens of %d", len(got), most)
		}
		if len(got) == 0 {
			return
		}
		claim := slices.Concat(said[len(said)-2:], got)
		for at := range len(said) - len(claim) + 1 {
			if slices.Equal(said[at:at+len(claim)], claim) {
				return
			}
		}
		t.Fatalf("%v never followed the end of %v", got, said)
	})
}

// Guesses are made where they are worth the round that they save, and no more of them than that.
func TestDraftsHaveToPay(t *testing.T) {
	for name, of := range map[string]struct {
		d     drafting
		found int
		least int // tokens that are guessed
		most  int
		own   bool
	}{
		"times are not known":       {d: drafting{most: 8, looked: odds{9, 10}, own: odds{9, 10}, more: 1}, found: 8},
		"rounds cost nothing":       {d: drafting{most: 8, looked: odds{5, 10}, own: odds{9, 10}, more: 1, token: 0.03}, found: 8},
		"rounds are long":           {d: drafting{most: 8, looked: odds{1, 10}, own: odds{6, 10}, more: 1, token: 0.03, round: 0.6}, least: 3, most: 8, own: true},
		"own guesses are wrong":     {d: drafting{most: 8, looked: odds{1, 10}, own: odds{0.1, 10}, more: 1, token: 0.03, round: 0.1}},
		"what was said comes again": {d: drafting{most: 8, looked: odds{9, 10}, own: odds{5, 10}, more: 0.3, token: 0.03, round: 0.03}, found: 5, least: 3, most: 5},
		"nothing is to be guessed":  {d: drafting{looked: odds{9, 10}, own: odds{9, 10}, token: 0.03, round: 0.6}, found: 5},
	} {
		if n, own := of.d.choose(of.found, 8); n < of.least || n > of.most || own != of.own {
			t.Errorf("%s: %d tokens, own %v", name, n, own)
		}
		if n, _ := of.d.choose(of.found, 1); n > 1 {
			t.Errorf("%s: %d tokens where there is room for one", name, n)
		}
	}
}

// What failed is given up, and tried again some time.
func TestDraftsLearn(t *testing.T) {
	d := newDrafting(8)
	for range 10 {
		d.took(0, 0.05, 0.02)
	}
	if d.token < 0.029 || d.token > 0.031 || d.round < 0.019 || d.round > 0.021 {
		t.Fatalf("a token takes %g s and a round %g s", d.token, d.round)
	}
	d.round = 0.2
	if n, own := d.choose(0, 8); n == 0 || !own {
		t.Fatal("nothing is tried")
	}
	tries := 0
	for ; tries < 100; tries++ {
		n, _ := d.choose(0, 8)
		if n == 0 {
			break
		}
		d.own.saw(0, min(1, n))
	}
	if tries == 100 {
		t.Fatal("wrong guesses go on for ever")
	}
	for rounds := 0; ; rounds++ {
		if n, _ := d.choose(0, 8); n > 0 {
			break
		}
		if rounds == 1000 {
			t.Fatal("they are never tried again")
		}
		d.own.idle()
	}
}
