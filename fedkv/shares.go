package fedkv

import (
	"fmt"
	"sort"
)

// Shares cuts a text that any contributor may evaluate, a public one or a long one of the publisher's, so that the last
// contributor's rows are here as soon as possible: by how fast devices and links are. What a contributor has of its own
// stays with it and counts. The sum of the shares is tokens; a share may be 0. Gather only.
func (c Case) Shares(tokens int) ([]int, error) {
	last := len(c.Participants) - 1
	switch {
	case tokens < 0 || tokens > MaxTokens:
		return nil, fmt.Errorf("a text of %d tokens, must be 0 to %d", tokens, MaxTokens)
	case last < 1:
		return nil, fmt.Errorf("there is nobody to share a text with")
	case c.Schedules.Regime() != Gather:
		return nil, fmt.Errorf("a text is shared in gather only")
	}
	done := make([]func(extra int) float64, last)
	for i := range last {
		done[i] = func(extra int) float64 { return c.contributorDone(i, extra) }
	}
	// the earliest moment at which everybody together can have the whole text
	most := func(i int, by float64) int {
		return sort.Search(tokens, func(n int) bool { return done[i](n+1) > by })
	}
	sum := func(by float64) (n int) {
		for i := range last {
			n += most(i, by)
		}
		return n
	}
	low, high := 0.0, 0.0
	for i := range last {
		high = max(high, done[i](tokens))
	}
	for range 60 {
		middle := (low + high) / 2
		if sum(middle) >= tokens {
			high = middle
		} else {
			low = middle
		}
	}
	shares, rest := make([]int, last), tokens
	for i := range last {
		shares[i] = min(most(i, high), rest)
		rest -= shares[i]
	}
	return shares, nil
}

// contributorDone is when the rows of a contributor with so many more tokens are here, if nobody else is.
func (c Case) contributorDone(i, extra int) float64 {
	p := c.Participants[i]
	if p.Tokens+extra == 0 {
		return 0
	}
	p.Tokens += extra
	p.Kept = p.Kept && extra == 0
	alone := c
	alone.Participants = []Planned{p, c.Participants[len(c.Participants)-1]}
	cost, err := alone.Cost()
	if err != nil {
		return never
	}
	return cost.Rows.Seconds()
}

// never is longer than anybody waits, in seconds.
const never = 1e9
