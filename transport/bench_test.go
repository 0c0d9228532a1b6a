package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/quic-go/quic-go"
)

// BenchmarkBlock is SendBlock to AcceptBlock over loopback, a few blocks under way, one reader.
func BenchmarkBlock(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			sender, receiver := listenLoopback(b, Config{}), listenLoopback(b, Config{})
			from, to := connect(b, sender, receiver)
			ctx := context.Background()
			payload := pattern(1, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			send(b, func() error { return from.SendBlock(ctx, blockOf(0, size), payload) })
			for range b.N {
				_, buffer, err := to.AcceptBlock(ctx, anyBlock)
				if err != nil {
					b.Fatal(err)
				}
				buffer.Release()
			}
			b.StopTimer()
			from.Close(0, "")
		})
	}
}

// BenchmarkBareQUIC is the same without this package: one uni stream per block, read into one buffer. The
// difference is what checking, staging and pinning cost.
func BenchmarkBareQUIC(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			certificate, err := selfSigned(newIdentity(b))
			if err != nil {
				b.Fatal(err)
			}
			config := Config{}.quicConfig()
			var ends [2]*quic.Transport
			for i := range ends {
				socket, err := net.ListenPacket("udp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				defer socket.Close()
				ends[i] = &quic.Transport{Conn: socket}
				defer ends[i].Close()
			}
			listener, err := ends[1].Listen(baseTLS(certificate, alpn), config)
			if err != nil {
				b.Fatal(err)
			}
			ctx := context.Background()
			from, err := ends[0].Dial(ctx, listener.Addr(), baseTLS(certificate, alpn), config)
			if err != nil {
				b.Fatal(err)
			}
			to, err := listener.Accept(ctx)
			if err != nil {
				b.Fatal(err)
			}
			payload, memory := pattern(1, size), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			send(b, func() error {
				stream, err := from.OpenUniStreamSync(ctx)
				if err != nil {
					return err
				}
				if _, err := stream.Write(payload); err != nil {
					return err
				}
				return stream.Close()
			})
			for range b.N {
				stream, err := to.AcceptUniStream(ctx)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(stream, memory); err != nil {
					b.Fatal(err)
				}
				if _, err := stream.Read(memory[:1]); err != io.EOF {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			from.CloseWithError(0, "")
		})
	}
}

// send runs block b.N times from two goroutines, as a session does that sends one layer while it prepares
// the next.
func send(b *testing.B, block func() error) {
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	for range 2 {
		go func() {
			for range work {
				if err := block(); err != nil {
					b.Error(err)
				}
			}
		}()
	}
}
