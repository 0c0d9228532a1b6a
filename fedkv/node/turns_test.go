package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"fedattn/fedkv"
)

// One publisher that asks much does not keep the others waiting.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 100, 0)
		held, err := turns.take(context.Background(), "a", 1)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for i, who := range []string{"a", "a", "a", "b", "b", "c"} {
			go func() {
				l, err := turns.take(context.Background(), who, 1)
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
		if turns.running != 0 || turns.bytes != 0 || len(turns.waiting) != 0 {
			t.Errorf("%+v", turns)
		}
	})
}

// Memory that is not there is waited for, or refused if it never will be; so is a place in the queue.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(3, 2, 100)
		if _, err := turns.take(context.Background(), "a", 101); !errors.Is(err, fedkv.ErrMemory) {
			t.Fatal(err)
		}
		first, err := turns.take(context.Background(), "a", 60)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan *lease, 1)
		go func() {
			l, err := turns.take(context.Background(), "b", 60)
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
			_, err := turns.take(ctx, "c", 10) // it would fit, and waits for who came before it
			gone <- err
		}()
		synctest.Wait()
		if err := turns.full(); !errors.Is(err, fedkv.ErrBusy) {
			t.Error(err)
		}
		if _, err := turns.take(context.Background(), "d", 1); !errors.Is(err, fedkv.ErrBusy) {
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
		if turns.running != 0 || turns.bytes != 0 || len(turns.waiting) != 0 {
			t.Errorf("%+v", turns)
		}
	})
}
