package node

import (
	"context"
	"slices"
	"time"

	"fedattn/fedkv"
)

// maxDraft bounds how many tokens are guessed at once.
const maxDraft = 16

// drafting guesses tokens of the answer where every evaluation waits for queries of rows that stay home: several guesses
// are evaluated with the token before them in one round for each layer, and those that the sampler would have chosen
// anyway stand. Guesses are looked up in what was said, or are what this device would say without the rows that stay
// home. So the answer is the same, but for the order of float additions in larger batches.
//
// It weighs what a guess costs against the round that it may save by what both took so far.
type drafting struct {
	most   int // 0: nothing is guessed
	looked odds
	own    odds

	token float64 // seconds that a token takes here; 0: not known
	more  float64 // what each further one of a batch takes of that
	round float64 // seconds that an evaluation waits for others
}

func newDrafting(most int) drafting {
	return drafting{most: min(most, maxDraft), looked: odds{1, 2}, own: odds{1, 2}, more: 1}
}

// odds are how many guesses were right, of those that were looked at; old ones count less.
type odds struct{ right, all float64 }

const forget = 0.95

func (o *odds) saw(right, all int) {
	o.right, o.all = o.right*forget+float64(right), o.all*forget+float64(all)
}

func (o *odds) share() float64 { return o.right / o.all }

// idle moves the odds towards even ones, so that what failed is tried again some time.
func (o *odds) idle() { o.right, o.all = o.right*0.99+0.01, o.all*0.99+0.02 }

// expected is how many tokens come of a round with n guesses, if each is right with such a probability as long as those
// before it are.
func expected(probability float64, n int) float64 {
	sum, p := 1.0, 1.0
	for range n {
		p *= probability
		sum += p
	}
	return sum
}

// choose says how many tokens to guess, at most so many: of those that were found, or, if own, by an evaluation each.
func (d *drafting) choose(found, most int) (n int, own bool) {
	if d.token == 0 {
		return 0, false
	}
	best := 1.05 / (d.token + d.round) // tokens a second; a guess has to be worth it
	try := func(k int, by *odds, cost float64, mine bool) {
		rate := expected(by.share(), k) / (cost + d.token*(1+d.more*float64(k)) + d.round)
		if rate > best {
			best, n, own = rate, k, mine
		}
	}
	most = min(most, d.most)
	for k := 1; k <= most; k++ {
		if k <= found {
			try(k, &d.looked, 0, false)
		}
		try(k, &d.own, d.token*float64(k), true)
	}
	return n, own
}

// took learns from an evaluation of a token and so many guesses.
func (d *drafting) took(guesses int, whole, waited float64) {
	here := max(whole-waited, 0)
	average := func(v *float64, next float64) {
		if *v == 0 {
			*v = next
		}
		*v += (next - *v) / 8
	}
	average(&d.round, waited)
	switch {
	case guesses == 0:
		average(&d.token, here)
	case d.token > 0:
		average(&d.more, min(max((here/d.token-1)/float64(guesses), 0.01), 2))
	}
}

// lookUp returns what followed the last tokens when they were said before: at most so many, those of the longest and
// latest match of four to two tokens.
func lookUp(said []fedkv.Token, most int) []fedkv.Token {
	for n := min(4, len(said)-1); n >= 2; n-- {
		last := said[len(said)-n:]
		for at := len(said) - n - 1; at >= 0; at-- {
			if slices.Equal(said[at:at+n], last) {
				return slices.Clone(said[at+n : min(at+n+most, len(said))])
			}
		}
	}
	return nil
}

// guess returns tokens that may follow the one that waits, at most so many, and whom to tell how many were right.
func (c *Conversation) guess(ctx context.Context, most int) ([]fedkv.Token, *odds, error) {
	d := &c.drafting
	if d.most == 0 || len(c.asking.members) == 0 || c.talk.waiting() != 1 || most < 1 {
		return nil, nil, nil
	}
	found := lookUp(c.talk.tokens, min(most, d.most))
	n, own := d.choose(len(found), most)
	switch {
	case n == 0:
		d.looked.idle()
		d.own.idle()
		return nil, nil, nil
	case own:
		guesses, err := c.foresee(ctx, n)
		return guesses, &d.own, err
	}
	return found[:n], &d.looked, nil
}

// foresee is what this device would say next without the rows that stay home. Nothing of it stays in the cache.
func (c *Conversation) foresee(ctx context.Context, n int) (guesses []fedkv.Token, err error) {
	t := &c.talk
	home, ok := t.cache.(HomeCache)
	if !ok {
		return nil, nil
	}
	if err := home.SetHome(nil); err != nil {
		return nil, err
	}
	at, token := t.next, t.tokens[len(t.tokens)-1]
	for len(guesses) < n && err == nil {
		if err = t.evalAt(ctx, []fedkv.Token{token}, at, 1, nil); err != nil {
			break
		}
		var logits []float32
		if logits, err = t.cache.Logits(-1); err != nil {
			break
		}
		token = top(logits)
		if c.chat.Engine.EndsGeneration(token) {
			break
		}
		guesses, at = append(guesses, token), at+1
	}
	if undo := t.truncate(t.next); undo != nil {
		return nil, undone(err, undo)
	}
	if again := c.shareAttention(); err == nil {
		err = again
	}
	return guesses, err
}

// top is the most likely token, the first of equals.
func top(logits []float32) fedkv.Token {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return fedkv.Token(best)
}

// evalGuesses evaluates the token that waits with guesses behind it, whose logits are kept too.
func (c *Conversation) evalGuesses(ctx context.Context, guesses []fedkv.Token) error {
	waited, started := c.asking.report.WaitMS, time.Now()
	if err := c.talk.eval(ctx, guesses, 1+len(guesses), nil); err != nil {
		return err
	}
	if c.talk.asking.shared().Count() > 0 {
		c.drafting.took(len(guesses), time.Since(started).Seconds(), (c.asking.report.WaitMS-waited)/1000)
	}
	return nil
}
