package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"fedattn/fedkv"
)

// openRounds opens the stream between two endpoints on loopback.
func openRounds(tb testing.TB) (asks, answers *Rounds, from, to *Peer) {
	tb.Helper()
	a, b := listenLoopback(tb, Config{}), listenLoopback(tb, Config{})
	from, to = connect(tb, a, b)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	asks, err := from.OpenRounds(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := asks.Write([]byte{1}); err != nil { // the other side sees the stream with its first byte
		tb.Fatal(err)
	}
	if answers, err = to.AcceptRounds(ctx); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(answers, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	return asks, answers, from, to
}

func TestRoundsEnd(t *testing.T) {
	asks, answers, from, to := openRounds(t)
	if err := answers.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := answers.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read after its deadline: %v", err)
	}
	_ = answers.SetDeadline(time.Time{})
	if err := asks.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := answers.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a read after the other side closed: %v", err)
	}
	if err := answers.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	again, err := from.OpenRounds(ctx)
	if err != nil {
		t.Fatalf("a second stream after the first: %v", err)
	}
	_ = to.Close(fedkv.CodeCancelled, "over")
	if _, err := again.Read(make([]byte, 1)); fedkv.CodeOf(err) != fedkv.CodeCancelled {
		t.Errorf("a read of a connection that was closed: %v", err)
	}
	if _, err := from.OpenRounds(ctx); fedkv.CodeOf(err) != fedkv.CodeCancelled {
		t.Errorf("a stream of a connection that was closed: %v", err)
	}
}

// BenchmarkRound is a round of one token of SmolLM2-135M on loopback, with nothing computed: quantiles of its time beside
// those of a single byte there and back, which is the network's own.
func BenchmarkRound(b *testing.B) {
	for _, size := range []int{1, 32 + 9*64*2} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			asks, answers, from, _ := openRounds(b)
			go func() {
				buffer := make([]byte, size)
				for {
					if _, err := io.ReadFull(answers, buffer); err != nil {
						return
					}
					if _, err := answers.Write(buffer); err != nil {
						return
					}
				}
			}()
			buffer := make([]byte, size)
			times := make([]time.Duration, 0, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				began := time.Now()
				if _, err := asks.Write(buffer); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(asks, buffer); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(began))
			}
			b.StopTimer()
			slices.Sort(times)
			for _, q := range []float64{0.5, 0.95, 0.99} {
				b.ReportMetric(float64(times[int(q*float64(len(times)-1))].Microseconds()), fmt.Sprintf("us-p%g", 100*q))
			}
			from.Close(0, "")
		})
	}
}
