package task

import (
	"math/rand/v2"
	"slices"
	"strconv"
)

// draw makes one problem's choices.
type draw struct{ *rand.Rand }

// some words of a list, in random order, none twice.
func (d *draw) some(words []string, n int) []string {
	out := make([]string, n)
	for i, at := range d.Perm(len(words))[:n] {
		out[i] = words[at]
	}
	return out
}

// one word of a list.
func (d *draw) one(words []string) string { return words[d.IntN(len(words))] }

// Values are numbers of three digits: many enough that nobody guesses one, short enough for small models to copy.
const (
	leastValue = 100
	values     = 900
)

// numbers are n different values.
func (d *draw) numbers(n int) []string {
	var out []string
	for len(out) < n {
		if v := strconv.Itoa(leastValue + d.IntN(values)); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// indices are n of the numbers below end, none twice, in ascending order.
func (d *draw) indices(n, end int) []int {
	at := d.Perm(end)[:n]
	slices.Sort(at)
	return at
}
