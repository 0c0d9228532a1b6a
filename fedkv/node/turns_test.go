package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv"
)

func quietly(int, time.Duration) {}

// One publisher that asks much does not keep the others waiting.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 100, 0)
		held, err := turns.take(context.Background(), "a", 1, quietly)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for i, who := range []string{"a", "a", "a", "b", "b", "c"} {
			go func() {
				l, err := turns.take(context.Background(), who, 1, quietly)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, fmt.Sprint(who, i))
				l.done()
				l.done()
				l.free()
			}()
			synctest.Wait()
		}
		held.done()
		held.free()
		synctest.Wait()
		if want := []string{"a0", "b3", "c5", "a1", "b4", "a2"}; !slices.Equal(order, want) {
			t.Errorf("the order is %v, want %v", order, want)
		}
		if len(turns.running) != 0 || turns.bytes != 0 || len(turns.waiting) != 0 {
			t.Errorf("%+v", turns)
		}
	})
}

// Memory that is not there is waited for, or refused if it never will be; so is a place in the queue.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(3, 2, 100)
		if _, err := turns.take(context.Background(), "a", 101, quietly); !errors.Is(err, fedkv.ErrMemory) {
			t.Fatal(err)
		}
		first, err := turns.take(context.Background(), "a", 60, quietly)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan *lease, 1)
		go func() {
			l, err := turns.take(context.Background(), "b", 60, quietly)
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		synctest.Wait()
		if len(got) != 0 || turns.full() != nil {
			t.Fatal("more than there is, or no place to wait")
		}
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan error, 1)
		go func() {
			_, err := turns.take(ctx, "c", 10, quietly) // it would fit, and waits for who came before it
			gone <- err
		}()
		synctest.Wait()
		if err := turns.full(); !errors.Is(err, fedkv.ErrBusy) {
			t.Error(err)
		}
		if _, err := turns.take(context.Background(), "d", 1, quietly); !errors.Is(err, fedkv.ErrBusy) {
			t.Error(err)
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		first.done()
		synctest.Wait()
		if len(got) != 0 {
			t.Error("the memory was not free")
		}
		first.free()
		second := <-got
		second.done()
		second.free()
		if len(turns.running) != 0 || turns.bytes != 0 || len(turns.waiting) != 0 {
			t.Errorf("%+v", turns)
		}
	})
}

// Who waits is told its place and the time until its turn: at once, when the place changes, and not more often than that.
func TestTurnsTellThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 10, 0)
		serve := func(l *lease, took time.Duration) {
			time.Sleep(took)
			l.done()
			l.free()
			synctest.Wait()
		}
		take := func(who string) *lease {
			l, err := turns.take(context.Background(), who, 1, func(int, time.Duration) { t.Errorf("%s had to wait", who) })
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		serve(take("a"), 8*time.Second) // so long is usual
		busy := take("a")
		time.Sleep(2 * time.Second)
		var mu sync.Mutex
		heard, mine := map[string][]string{}, map[string]*lease{}
		for _, who := range []string{"b", "b again", "c"} {
			go func() {
				publisher, _, _ := strings.Cut(who, " ")
				l, err := turns.take(context.Background(), publisher, 1, func(place int, wait time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					heard[who] = append(heard[who], fmt.Sprint(place, " in ", wait))
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				mine[who] = l
			}()
			synctest.Wait()
		}
		time.Sleep(2 * time.Second) // c comes before the second of b
		synctest.Wait()
		serve(busy, 4*time.Second)
		serve(mine["b"], 8*time.Second)
		serve(mine["c"], 8*time.Second)
		serve(mine["b again"], time.Second)
		want := map[string][]string{
			"b":       {"1 in 6s"},
			"b again": {"2 in 14s", "3 in 21s", "2 in 16s", "1 in 8s"},
			"c":       {"2 in 14s", "1 in 8s"},
		}
		for who, list := range want {
			if !slices.Equal(heard[who], list) {
				t.Errorf("%s heard %q, want %q", who, heard[who], list)
			}
		}
	})
}

// Before any turn is over nobody knows how long one takes.
func TestTurnsDoNotGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 10, 0)
		busy, err := turns.take(context.Background(), "a", 1, quietly)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var said time.Duration = -1
		gone := make(chan error)
		go func() {
			_, err := turns.take(ctx, "b", 1, func(_ int, wait time.Duration) { said = wait })
			gone <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; said != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", said, err)
		}
		busy.done()
		busy.free()
	})
}

func TestAPlaceInAQueueIsALine(t *testing.T) {
	for want, q := range map[string]InQueue{
		"garden-pi: 2nd in its queue, about 12 s":           {"garden-pi", 2, 12400 * time.Millisecond},
		"garden-pi: 1st in its queue":                       {"garden-pi", 1, 0},
		"garden-pi: 3rd in its queue, less than a second":   {"garden-pi", 3, 400 * time.Millisecond},
		"garden-pi: 11th in its queue, about 119 s":         {"garden-pi", 11, 119 * time.Second},
		"garden-pi: 12th in its queue, about 2 min":         {"garden-pi", 12, 2 * time.Minute},
		"garden-pi: 113th in its queue, about 24 min":       {"garden-pi", 113, 24*time.Minute + 20*time.Second},
		"garden-pi: 121st in its queue, less than a second": {"garden-pi", 121, time.Millisecond},
	} {
		if got := q.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
