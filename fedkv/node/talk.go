package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"fedattn/fedkv"
)

// talk is the publisher's cache and what stands in it behind the prefix: own tokens in the order in which they were said,
// and contributors' rows between them.
type talk struct {
	cache  Cache
	asking *asking
	sync   fedkv.Schedule
	prefix int
	local  int             // cells of a local layer
	thin   fedkv.Selection // which rows of tokens that are evaluated together local layers attend to

	tokens []fedkv.Token // everything that was said
	done   int           // so many of them are evaluated
	runs   []run         // where these stand
	placed []*share      // whose rows are here, by position
	next   int           // position of the next token
	left   bool          // rows were withdrawn since everything was where it belongs
	stale  int           // from this token on, evaluated ones attended to rows that were withdrawn
}

// run is own tokens [first, the next run's first) at positions from at on.
type run struct{ first, at int }

func newTalk(prefix int, localRows fedkv.Selection) talk {
	return talk{prefix: prefix, thin: localRows, next: prefix, stale: math.MaxInt}
}

// waiting is how many tokens are said and not evaluated.
func (t *talk) waiting() int { return len(t.tokens) - t.done }

// room is how many own tokens may be evaluated, if the stream has at most limit positions and others take some more of
// them.
func (t *talk) room(limit, others int) int { return min(limit-t.next-others, t.local-t.prefix-t.done) }

// position of the evaluated token i.
func (t *talk) position(i int) int {
	at := t.next
	for _, r := range t.runs {
		if r.first > i {
			break
		}
		at = r.at + i - r.first
	}
	return at
}

// eval evaluates the tokens that wait and the given ones; if that fails, nothing has happened.
func (t *talk) eval(ctx context.Context, more []fedkv.Token, outputs int, hook *Hook) error {
	tokens := append(slices.Clone(t.tokens[t.done:]), more...)
	if len(tokens) == 0 {
		return nil
	}
	if err := t.evalAt(ctx, tokens, t.next, outputs, hook); err != nil {
		return undone(err, t.truncate(t.next))
	}
	if n := len(t.runs); n == 0 || t.position(t.done) != t.next {
		t.runs = append(t.runs, run{t.done, t.next})
	}
	t.tokens = append(t.tokens, more...)
	t.done, t.next = len(t.tokens), t.next+len(tokens)
	return nil
}

func (t *talk) evalAt(ctx context.Context, tokens []fedkv.Token, at, outputs int, hook *Hook) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	defer interruptAfter(ctx, t.cache)()
	// at the layers of rows that stay home too, own tokens see all of their own
	whole := fedkv.Schedules{Contributors: t.sync, Publisher: t.asking.shared()}.Any()
	if err := thinOut(t.cache, t.thin, whole, at, len(tokens)); err != nil {
		return err
	}
	defer t.asking.begin(ctx)()
	if err := t.cache.Eval(tokens, at, outputs, hook); err != nil {
		return evalError(ctx, "the question", err)
	}
	return nil
}

// truncate forgets all cells from a position on, where the next token goes.
func (t *talk) truncate(pos int) error {
	err := t.cache.Truncate(pos)
	if err == nil && pos > 0 {
		err = t.cache.SetNext(pos)
	}
	t.next = pos
	return err
}

// cut forgets what was said from token n on. Rows of others that stand behind it move up, and where rows were withdrawn
// the gap before it closes; if nothing that was said is left, all gaps do.
func (t *talk) cut(n int) error {
	if n >= t.done {
		t.tokens = t.tokens[:n]
		return nil
	}
	from := t.position(n)
	if t.left && t.cache.CanShift() == nil {
		from = t.end(n)
		t.left = n > 0
	}
	t.tokens, t.done = t.tokens[:n], n
	t.runs = slices.DeleteFunc(t.runs, func(r run) bool { return r.first >= n })
	if t.stale >= n {
		t.stale = math.MaxInt
	}
	rows, err := t.lift(from)
	if err != nil {
		return err
	}
	if err := t.truncate(from); err != nil {
		return err
	}
	for _, r := range rows {
		if err := t.put(r, t.next); err != nil {
			return err
		}
	}
	return nil
}

// end is the position behind token n-1 and the rows that follow it. Of no token, those rows are to move as well.
func (t *talk) end(n int) int {
	if n == 0 {
		return t.prefix
	}
	next, end := t.position(n), t.position(n-1)+1
	for _, s := range t.placed {
		if s.at < next {
			end = max(end, s.at+s.tokens)
		}
	}
	return end
}

// lifted is rows of a contributor outside of the cache, as it held them.
type lifted struct {
	share *share
	rows  [][]byte // by layer
}

var cacheTypes = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}

// lift copies the rows of others that stand at positions from on.
func (t *talk) lift(from int) (list []lifted, err error) {
	for _, s := range t.placed {
		if s.at < from {
			continue
		}
		l := lifted{s, make([][]byte, len(s.written))}
		for layer, rows := range s.written {
			if len(rows) == 0 {
				continue
			}
			if l.rows[layer], err = t.cache.AppendRows(nil, layer, moved(rows, s.at), cacheTypes); err != nil {
				return nil, err
			}
		}
		list = append(list, l)
	}
	return list, nil
}

// put places lifted rows at a position, behind which the next token goes.
func (t *talk) put(l lifted, at int) error {
	s := l.share
	if t.sync.Count() > 0 && !s.contact.Home {
		if err := t.cache.Reserve(at, s.tokens); err != nil {
			return err
		}
	}
	for layer, rows := range l.rows {
		if len(rows) == 0 {
			continue
		}
		if err := t.cache.WriteRows(layer, moved(s.written[layer], at), at-s.at, cacheTypes, rows); err != nil {
			return err
		}
	}
	s.at, t.next = at, at+s.tokens
	return t.cache.SetNext(t.next)
}

// moved is rows of a segment at their positions, if it begins at a position.
func moved(rows []int32, at int) []int32 {
	out := make([]int32, len(rows))
	for i, row := range rows {
		out[i] = row + int32(at)
	}
	return out
}

// withdraw frees the cells of others' rows. What was said after them attended to them, and is evaluated again before
// anything else is.
func (t *talk) withdraw(s *share) error {
	i := slices.Index(t.placed, s)
	if i < 0 {
		return nil
	}
	t.placed, t.left = slices.Delete(t.placed, i, i+1), true
	for _, r := range t.runs {
		if r.at > s.at {
			t.stale = min(t.stale, r.first)
		}
	}
	if t.sync.Count() == 0 || s.masked || s.contact.Home {
		return nil
	}
	return t.cache.Release(s.at, s.tokens)
}

// refresh evaluates again what attended to rows that were withdrawn, at the same positions, and says how many tokens.
func (t *talk) refresh(ctx context.Context) (tokens int, err error) {
	if t.stale >= t.done {
		t.stale = math.MaxInt
		return 0, nil
	}
	from, end := t.position(t.stale), t.next
	rows, err := t.lift(from)
	if err != nil {
		return 0, err
	}
	if err := t.truncate(from); err != nil {
		return 0, undone(nil, err)
	}
	put := func(before int) error {
		for len(rows) > 0 && rows[0].share.at < before {
			if err := t.put(rows[0], rows[0].share.at); err != nil {
				return err
			}
			rows = rows[1:]
		}
		return nil
	}
	for i, r := range t.runs {
		last := t.done
		if i+1 < len(t.runs) {
			last = t.runs[i+1].first
		}
		if last <= t.stale {
			continue
		}
		first := max(r.first, t.stale)
		at := r.at + first - r.first
		if err := errors.Join(put(at), t.truncate(at)); err != nil { // a gap before it is what was withdrawn
			return tokens, undone(nil, err)
		}
		t.stale = first
		if err = t.evalAt(ctx, t.tokens[first:last], at, 0, nil); err != nil {
			err = undone(err, t.truncate(at))
			break
		}
		tokens += last - first
		t.stale = last
	}
	if err == nil {
		t.stale = math.MaxInt
	}
	return tokens, undone(err, errors.Join(put(end), t.truncate(end)))
}

// undone is why something failed, after what there was of it was taken back; if that failed too, nothing can go on.
func undone(why, undo error) error {
	if undo != nil {
		return fmt.Errorf("%w: %w", errBroken, errors.Join(why, undo))
	}
	return why
}

// errBroken is the end of a conversation whose cache lost something that it cannot get back.
var errBroken = errors.New("the conversation's cache is incomplete: start another one")
