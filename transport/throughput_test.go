package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// What this package adds to quic-go is measured against quic-go (make bench-wire): blocks of 1 MiB through SendBlock and
// AcceptBlock, checked and staged, and the same bytes on bare unidirectional streams between two endpoints of plain TLS
// with windows of 16 and 64 MiB. Both in pairs in one process over loopback, each time the other one first.
//
// FEDATTN_WIRE_PAIRS is the number of pairs; without it nothing is measured.

const (
	wireBlock = 1 << 20
	wireBytes = 128 << 20 // of one measurement
)

func TestWireThroughput(t *testing.T) {
	pairs, err := strconv.Atoi(os.Getenv("FEDATTN_WIRE_PAIRS"))
	if err != nil || pairs < 1 {
		t.Skip("make bench-wire measures it")
	}
	blocks, bare := openBlocks(t), openBare(t)
	var ours, theirs, ratios []float64
	for pair := range pairs + 1 {
		first, second := blocks, bare
		if pair%2 == 1 {
			first, second = bare, blocks
		}
		a, b := wireRate(t, first), wireRate(t, second)
		if pair == 0 {
			continue // windows grow
		}
		if pair%2 == 1 {
			a, b = b, a
		}
		ours, theirs, ratios = append(ours, a), append(theirs, b), append(ratios, a/b)
	}
	t.Logf("blocks %.2f Gbit/s, bare quic-go %.2f Gbit/s, ratio %.3f (median of %d pairs, %.3f to %.3f), %d CPUs",
		median(ours), median(theirs), median(ratios), pairs, slices.Min(ratios), slices.Max(ratios), runtime.GOMAXPROCS(0))
	if want, err := strconv.ParseFloat(os.Getenv("FEDATTN_WIRE_RATIO"), 64); err == nil && median(ratios) < want {
		t.Errorf("the ratio is below %.2f", want)
	}
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// carrier moves blocks of wireBlock bytes from one end to the other.
type carrier struct {
	send    func(payload []byte) error
	receive func() error
}

// wireRate is in Gbit/s, from the first byte that is sent to the last that has arrived.
func wireRate(t *testing.T, c carrier) float64 {
	t.Helper()
	payload := pattern(1, wireBlock)
	runtime.GC()
	begin := time.Now()
	failed := make(chan error, 2)
	for range 2 { // a session sends a layer while it prepares the next
		go func() {
			var err error
			for range wireBytes / wireBlock / 2 {
				if err == nil {
					err = c.send(payload)
				}
			}
			failed <- err
		}()
	}
	for range wireBytes / wireBlock {
		if err := c.receive(); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	for range 2 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	return 8 * wireBytes / took.Seconds() / 1e9
}

func openBlocks(t *testing.T) carrier {
	t.Helper()
	from, to := connect(t, listenLoopback(t, Config{}), listenLoopback(t, Config{}))
	ctx := context.Background()
	return carrier{
		send: func(payload []byte) error { return from.SendBlock(ctx, blockOf(0, len(payload)), payload) },
		receive: func() error {
			_, buffer, err := to.AcceptBlock(ctx, anyBlock)
			buffer.Release()
			return err
		},
	}
}

func openBare(t *testing.T) carrier {
	t.Helper()
	certificate, err := selfSigned(newIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	config := &quic.Config{
		InitialStreamReceiveWindow: 16 << 20, MaxStreamReceiveWindow: 16 << 20,
		InitialConnectionReceiveWindow: 64 << 20, MaxConnectionReceiveWindow: 64 << 20,
	}
	var ends [2]*quic.Transport
	for i := range ends {
		socket, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = &quic.Transport{Conn: socket}
		t.Cleanup(func() { ends[i].Close(); socket.Close() })
	}
	ctx := context.Background()
	listener, err := ends[1].Listen(baseTLS(certificate, alpn), config)
	if err != nil {
		t.Fatal(err)
	}
	from, err := ends[0].Dial(ctx, listener.Addr(), baseTLS(certificate, alpn), config)
	if err != nil {
		t.Fatal(err)
	}
	to, err := listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.CloseWithError(0, ""); listener.Close() })
	memory := make([]byte, wireBlock)
	return carrier{
		send: func(payload []byte) error {
			stream, err := from.OpenUniStreamSync(ctx)
			if err != nil {
				return err
			}
			if _, err := stream.Write(payload); err != nil {
				return err
			}
			return stream.Close()
		},
		receive: func() error {
			stream, err := to.AcceptUniStream(ctx)
			if err != nil {
				return err
			}
			if _, err := io.ReadFull(stream, memory); err != nil {
				return err
			}
			if _, err := stream.Read(memory[:1]); err != io.EOF {
				return fmt.Errorf("the stream goes on: %v", err)
			}
			return nil
		},
	}
}
