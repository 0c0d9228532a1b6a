package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fedattn/fedkv"
)

// linked are two devices of one network and a link between them.
func linked(t *testing.T) (near, far Link) {
	t.Helper()
	m := NewMemory()
	a, b := m.Join("a"), m.Join("b")
	accepted := make(chan Link)
	go func() {
		l, err := b.Accept(t.Context())
		if err != nil {
			t.Error(err)
		}
		accepted <- l
	}()
	near, err := a.Dial(t.Context(), Address{ID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	return near, <-accepted
}

func header(first int) fedkv.BlockHeader {
	return fedkv.BlockHeader{
		Session: fedkv.SessionID{1}, First: first, Rows: 1, Kept: 1, Types: fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, Length: 4,
	}
}

func TestMemoryKnowsWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := linked(t)
		if near.ID() != "b" || far.ID() != "a" {
			t.Errorf("the ends say %q and %q", near.ID(), far.ID())
		}
		m := NewMemory()
		a := m.Join("a")
		if _, err := a.Dial(t.Context(), Address{ID: "nobody"}); !errors.Is(err, fedkv.ErrLost) {
			t.Errorf("dialling nobody: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Dial(ctx, Address{ID: "a"}); !errors.Is(err, fedkv.ErrDeadline) {
			t.Errorf("dialling somebody who does not accept: %v", err)
		}
		if _, err := a.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("accepting nobody: %v", err)
		}
	})
}

// What was sent before the end is delivered, all of it and in order, and nothing that was sent after.
func TestMemoryDeliversWhatWasSentBeforeTheEnd(t *testing.T) {
	for range 100 { // select is random
		near, far := linked(t)
		for i := range uint64(5) {
			if err := near.Send(t.Context(), fedkv.Ping{Nonce: i}); err != nil {
				t.Fatal(err)
			}
			if err := near.SendBlock(t.Context(), header(int(i)), []byte{byte(i), 0, 0, 0}); err != nil {
				t.Fatal(err)
			}
		}
		if err := near.Close(fedkv.CodeMemory, "enough"); err != nil {
			t.Fatal(err)
		}
		_ = far.Close(fedkv.CodeBusy, "too late to count")
		if near.Send(t.Context(), fedkv.Ping{}) == nil || near.SendBlock(t.Context(), header(9), make([]byte, 4)) == nil {
			t.Fatal("something is sent after the end")
		}
		for i := range uint64(5) {
			m, err := far.Receive(t.Context())
			if err != nil || m != (fedkv.Ping{Nonce: i}) {
				t.Fatalf("message %d: %v, %v", i, m, err)
			}
			h, rows, err := far.AcceptBlock(t.Context(), func(fedkv.BlockHeader) error { return nil })
			if err != nil || h != header(int(i)) || rows.Bytes[0] != byte(i) {
				t.Fatalf("block %d: %v, %v", i, h, err)
			}
			rows.Release()
		}
		_, err := far.Receive(t.Context())
		_, _, blockErr := far.AcceptBlock(t.Context(), nil)
		for _, err := range []error{err, blockErr, far.Err(), near.Err()} {
			if !errors.Is(err, fedkv.ErrMemory) || err.Error() != "enough" {
				t.Fatalf("after the end: %v", err)
			}
		}
	}
}

func TestMemoryPassesOnlyWhatAWireWould(t *testing.T) {
	near, far := linked(t)
	if err := near.Send(t.Context(), fedkv.Ready{}); err == nil {
		t.Error("an invalid message is sent")
	}
	if err := near.SendBlock(t.Context(), header(0), make([]byte, 3)); err == nil {
		t.Error("a block is sent that is shorter than its header says")
	}
	refusal := errors.New("no")
	if err := near.SendBlock(t.Context(), header(0), make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if h, _, err := far.AcceptBlock(t.Context(), func(fedkv.BlockHeader) error { return refusal }); err != refusal || h != header(0) {
		t.Errorf("a refused block: %v, %v", h, err)
	}
	if far.Err() != nil {
		t.Error("a refused block ends the link")
	}
	if err := near.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	_ = near.Close(0, "")
}

// A full link makes its sender wait, as flow control does.
func TestMemoryHoldsBackAFastSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := linked(t)
		sent := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for near.SendBlock(ctx, header(sent), make([]byte, 4)) == nil {
			sent++
		}
		if sent != pipeDepth {
			t.Errorf("%d blocks wait", sent)
		}
		_ = far.Close(0, "")
	})
}
