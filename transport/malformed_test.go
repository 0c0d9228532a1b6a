package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// rogue is a peer with a good identity and bad manners: quic-go without this package's rules.
type rogue struct {
	conn    *quic.Conn
	control *quic.Stream
}

// meetRogue lets a rogue connect to an endpoint as it should, and returns both ends.
func meetRogue(t *testing.T, n *network) (*Peer, *rogue) {
	t.Helper()
	certificate, err := selfSigned(newIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	socket := n.conn()
	e := n.endpoint(t, Config{})
	n.start(t)
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() {
		transport.Close()
		socket.Close()
	})
	conn, err := transport.Dial(t.Context(), e.Addr(), baseTLS(certificate, alpn), &quic.Config{KeepAlivePeriod: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	control, err := openControl(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p, &rogue{conn, control}
}

// block opens a stream and writes parts to it. The stream stays open.
func (r *rogue) block(t *testing.T, parts ...[]byte) *quic.SendStream {
	t.Helper()
	stream, err := r.conn.OpenUniStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		if _, err := stream.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	return stream
}

func marshal(t *testing.T, h fedkv.BlockHeader) []byte {
	t.Helper()
	raw, err := h.AppendMarshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func frame(t *testing.T, m fedkv.Message) []byte {
	t.Helper()
	raw, err := fedkv.AppendMessage(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A malformed control stream ends the connection, with a code for both sides and without a message.
func TestMalformedControl(t *testing.T) {
	good := fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 5}
	for name, write := range map[string]func(t *testing.T, r *rogue){
		"length over the cap": func(t *testing.T, r *rogue) {
			r.control.Write(binary.BigEndian.AppendUint32(nil, fedkv.MaxControlMessage+1))
			r.control.Write([]byte{0, 1})
		},
		"length of 4 GiB":     func(t *testing.T, r *rogue) { r.control.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 1}) },
		"length 0":            func(t *testing.T, r *rogue) { r.control.Write([]byte{0, 0, 0, 0, 0, 1}) },
		"length 1":            func(t *testing.T, r *rogue) { r.control.Write([]byte{0, 0, 0, 1, 0, 1}) },
		"no CBOR":             func(t *testing.T, r *rogue) { r.control.Write([]byte{0, 0, 0, 5, 0, 5, 0xff, 0xff, 0xff}) },
		"empty body":          func(t *testing.T, r *rogue) { r.control.Write([]byte{0, 0, 0, 2, 0, 5}) },
		"end of stream":       func(t *testing.T, r *rogue) { r.control.Close() },
		"end inside a frame":  func(t *testing.T, r *rogue) { r.control.Write(frame(t, good)[:9]); r.control.Close() },
		"end inside a header": func(t *testing.T, r *rogue) { r.control.Write([]byte{0, 0, 0}); r.control.Close() },
		"reset":               func(t *testing.T, r *rogue) { r.control.CancelWrite(7) },
		"trailing garbage in CBOR": func(t *testing.T, r *rogue) {
			raw := append(frame(t, good), 0, 0, 0)
			binary.BigEndian.PutUint32(raw, uint32(len(raw)-4))
			r.control.Write(raw)
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, 0, func(t *testing.T, n *network) {
				p, r := meetRogue(t, n)
				write(t, r)
				m, err := p.Receive(t.Context())
				t.Log(err)
				if m != nil || !errors.Is(err, fedkv.ErrProtocol) {
					t.Errorf("received %v and %v, want ErrProtocol", m, err)
				}
				if !errors.Is(p.Err(), fedkv.ErrProtocol) || p.Context().Err() == nil {
					t.Errorf("the connection's error is %v", p.Err())
				}
				<-r.conn.Context().Done()
				var closed *quic.ApplicationError
				if err := context.Cause(r.conn.Context()); !errors.As(err, &closed) || fedkv.Code(closed.ErrorCode) != fedkv.CodeProtocol {
					t.Errorf("the peer saw %v", err)
				}
			})
		})
	}
}

// A peer that stops reading the control stream is noticed by whoever writes.
func TestControlStreamCancelled(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		p, r := meetRogue(t, n)
		r.control.CancelRead(3)
		time.Sleep(simRTT)
		if err := p.Send(t.Context(), fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 5}); err != nil {
			t.Logf("Send: %v", err)
		}
		<-p.Context().Done()
		if !errors.Is(p.Err(), fedkv.ErrProtocol) {
			t.Errorf("the cause is %v", p.Err())
		}
	})
}

// What came before a fault is still delivered, what is of a later version is skipped, and a flood of
// messages that nobody takes is held back by flow control.
func TestUnusualControl(t *testing.T) {
	good := fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 5}
	simulate(t, 0, func(t *testing.T, n *network) {
		p, r := meetRogue(t, n)
		r.control.Write([]byte{0, 0, 0, 6, 0xab, 0xcd, 1, 2, 3, 4}) // a type of the future
		r.control.Write(frame(t, good))
		r.control.Write([]byte{0, 0, 0, 0, 0, 0})
		if m, err := p.Receive(t.Context()); err != nil || m != fedkv.Message(good) {
			t.Errorf("received %v, %v", m, err)
		}
		if _, err := p.Receive(t.Context()); !errors.Is(err, fedkv.ErrProtocol) {
			t.Errorf("then %v", err)
		}
	})
	simulate(t, 0, func(t *testing.T, n *network) {
		p, r := meetRogue(t, n)
		raw := frame(t, good)
		flood := bytes.Repeat(raw, (4<<20)/len(raw))
		r.control.SetWriteDeadline(time.Now().Add(time.Minute))
		sent, err := r.control.Write(flood)
		if !isTimeout(err) || sent > 2*InitialStreamWindow {
			t.Errorf("a flood of %d bytes went through, %v", sent, err)
		}
		// One byte a frame: the messages that did come are all delivered.
		for i := range sent/len(raw) - 1 {
			if m, err := p.Receive(t.Context()); err != nil || m != fedkv.Message(good) {
				t.Fatalf("message %d: %v, %v", i, m, err)
			}
		}
	})
}

// A bad block costs its sender the block, and nobody the connection.
func TestMalformedBlocks(t *testing.T) {
	const length = 100_000
	header := blockOf(3, length)
	refusal := fedkv.Errorf(fedkv.CodeDuplicate, "these rows are here already")
	huge := marshal(t, header)
	binary.BigEndian.PutUint32(huge[40:], fedkv.MaxBlock+1)
	badMagic := append([]byte("nope"), marshal(t, header)[4:]...)

	for name, c := range map[string]struct {
		write  func(t *testing.T, r *rogue) *quic.SendStream
		check  error
		code   fedkv.Code
		within time.Duration // virtual
	}{
		"no magic": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, badMagic)
		}, code: fedkv.CodeProtocol},
		"length over the cap": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, huge)
		}, code: fedkv.CodeRange},
		"refused": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, marshal(t, header), make([]byte, 1000))
		}, check: refusal, code: fedkv.CodeDuplicate},
		"refused while it still comes": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header))
			go stream.Write(make([]byte, 64<<20))
			return stream
		}, check: refusal, code: fedkv.CodeDuplicate},
		"no header": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t)
			stream.Close()
			return nil
		}, code: fedkv.CodeProtocol},
		"half a header": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header)[:20])
			stream.Close()
			return nil
		}, code: fedkv.CodeProtocol},
		"payload too short": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header), make([]byte, length-1))
			stream.Close()
			return nil
		}, code: fedkv.CodeProtocol},
		"no payload": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header))
			stream.Close()
			return nil
		}, code: fedkv.CodeProtocol},
		"payload too long": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, marshal(t, header), make([]byte, length+1))
		}, code: fedkv.CodeProtocol},
		"reset": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header), make([]byte, length/2))
			time.Sleep(simRTT)
			stream.CancelWrite(quic.StreamErrorCode(fedkv.CodeMemory))
			return nil
		}, code: fedkv.CodeMemory},
		"reset with a code beyond ours": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header))
			time.Sleep(simRTT)
			stream.CancelWrite(1 << 40)
			return nil
		}, code: fedkv.CodeProtocol},
		"silence in the header": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, marshal(t, header)[:1])
		}, code: fedkv.CodeDeadline, within: BlockGrace + time.Second},
		"silence in the payload": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, marshal(t, header), make([]byte, length-1))
		}, code: fedkv.CodeDeadline, within: BlockGrace + length*time.Second/MinBlockRate + time.Second},
		"silence before the end": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			return r.block(t, marshal(t, header), make([]byte, length))
		}, code: fedkv.CodeDeadline, within: BlockGrace + length*time.Second/MinBlockRate + time.Second},
		"a byte a second": {write: func(t *testing.T, r *rogue) *quic.SendStream {
			stream := r.block(t, marshal(t, header))
			go func() {
				for {
					if _, err := stream.Write([]byte{0}); err != nil {
						return
					}
					select {
					case <-time.After(time.Second):
					case <-stream.Context().Done():
						return
					}
				}
			}()
			return stream
		}, code: fedkv.CodeDeadline, within: BlockGrace + length*time.Second/MinBlockRate + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, 0, func(t *testing.T, n *network) {
				p, r := meetRogue(t, n)
				begin := time.Now()
				stream := c.write(t, r)
				_, buffer, err := p.AcceptBlock(t.Context(), func(h fedkv.BlockHeader) error {
					if h != header {
						t.Errorf("header %+v, want %+v", h, header)
					}
					if lent := p.endpoint.staging.lent.Load(); lent != 0 {
						t.Errorf("%d bytes were allocated before the check", lent)
					}
					return c.check
				})
				took := time.Since(begin)
				t.Logf("after %v: %v", took, err)
				if buffer != nil || fedkv.CodeOf(err) != c.code {
					t.Errorf("got %v, want an error with code %v", err, c.code)
				}
				if c.check != nil && err != c.check {
					t.Errorf("the check's error became %v", err)
				}
				if c.within > 0 && took > c.within {
					t.Errorf("it took %v, want at most %v", took, c.within)
				}
				if lent := p.endpoint.staging.lent.Load(); lent != 0 {
					t.Errorf("%d bytes of buffers are still lent", lent)
				}
				if stream != nil {
					<-stream.Context().Done()
					var cancelled *quic.StreamError
					if cause := context.Cause(stream.Context()); !errors.As(cause, &cancelled) || fedkv.Code(cancelled.ErrorCode) != c.code {
						t.Errorf("the sender saw %v, want code %v", cause, c.code)
					}
				}
				// The connection lives, and so do all of its eight places for blocks.
				for i := range 2 * MaxIncomingBlocks {
					want := pattern(i, length)
					go func() { r.block(t, marshal(t, blockOf(i, length)), want).Close() }()
					_, buffer, err := p.AcceptBlock(t.Context(), anyBlock)
					if err != nil {
						t.Fatal(err)
					}
					if len(buffer.Bytes()) != length {
						t.Errorf("%d bytes, want %d", len(buffer.Bytes()), length)
					}
					buffer.Release()
				}
			})
		})
	}
}

// Blocks that nobody has accepted fill their windows and no more: the one being read still gets through.
func TestWaitingBlocksDoNotStarve(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		p, r := meetRogue(t, n)
		const size = 4 << 20
		first := r.block(t, marshal(t, blockOf(0, size)))
		for i := range MaxIncomingBlocks - 1 {
			stream := r.block(t, marshal(t, blockOf(1+i, size)))
			go stream.Write(make([]byte, size))
		}
		time.Sleep(time.Second)
		go func() {
			first.Write(make([]byte, size))
			first.Close()
		}()
		header, buffer, err := p.AcceptBlock(t.Context(), anyBlock)
		if err != nil || header.Layer != 0 {
			t.Fatalf("block %d, %v; want the first", header.Layer, err)
		}
		buffer.Release()
	})
}

// SendBlock reports the receiver's refusal with its code.
func TestSenderSeesRefusal(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		fromA, fromB := n.pair(t, Config{})
		const size = 8 << 20
		go fromB.AcceptBlock(t.Context(), func(fedkv.BlockHeader) error { return fedkv.ErrRange })
		err := fromA.SendBlock(t.Context(), blockOf(4, size), make([]byte, size))
		t.Log(err)
		if !errors.Is(err, fedkv.ErrRange) {
			t.Errorf("error %v, want ErrRange", err)
		}
		if fromA.Err() != nil || fromB.Err() != nil {
			t.Errorf("the connection broke: %v, %v", fromA.Err(), fromB.Err())
		}
	})
}

// A sender that gives up leaves the receiver an error and the connection alive.
func TestSenderGivesUp(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		fromA, fromB := n.pair(t, Config{})
		const size = 60 << 20
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		sent := make(chan error, 1)
		go func() { sent <- fromA.SendBlock(ctx, blockOf(0, size), make([]byte, size)) }()
		_, _, err := fromB.AcceptBlock(t.Context(), anyBlock)
		t.Log(err)
		if !errors.Is(err, fedkv.ErrDeadline) {
			t.Errorf("the receiver saw %v", err)
		}
		if err := <-sent; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the sender saw %v", err)
		}
		if _, err := fromA.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSendBlockChecksItsCaller(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		fromA, _ := n.pair(t, Config{})
		if err := fromA.SendBlock(t.Context(), blockOf(0, 10), make([]byte, 9)); !errors.Is(err, fedkv.ErrInternal) {
			t.Errorf("a payload shorter than the header says: %v", err)
		}
		bad := blockOf(0, 10)
		bad.Rows = 0
		if err := fromA.SendBlock(t.Context(), bad, make([]byte, 10)); err == nil {
			t.Error("an invalid header was sent")
		}
	})
}

// What a peer may open is what config.go says, in both directions.
func TestStreamLimits(t *testing.T) {
	simulate(t, 0, func(t *testing.T, n *network) {
		p, r := meetRogue(t, n)
		if _, err := r.conn.OpenStream(); err != nil {
			t.Errorf("a dialer may not open a stream for queries: %v", err)
		}
		if _, err := r.conn.OpenStream(); err == nil {
			t.Error("a dialer may open two streams beside the control stream")
		}
		for range MaxIncomingBlocks {
			r.block(t, []byte{0})
		}
		if _, err := r.conn.OpenUniStream(); err == nil {
			t.Errorf("more than %d blocks may be under way", MaxIncomingBlocks)
		}
		if err := p.conn.SendDatagram([]byte{1}); err == nil {
			t.Error("datagrams are on")
		}
	})
	simulate(t, 0, func(t *testing.T, n *network) {
		_, fromB := n.pair(t, Config{})
		if _, err := fromB.conn.OpenStream(); err == nil {
			t.Error("an acceptor may open a bidirectional stream")
		}
	})
}

// Above the rate, a handshake takes one more round trip and still succeeds.
func TestRetry(t *testing.T) {
	dial := func(t *testing.T, rate float64) (took time.Duration) {
		simulate(t, 0, func(t *testing.T, n *network) {
			a, b := n.endpoint(t, Config{}), n.endpoint(t, Config{})
			b.retries.perSecond = rate
			n.start(t)
			begin := time.Now()
			if _, err := a.Dial(t.Context(), addressOf(b)); err != nil {
				t.Fatal(err)
			}
			took = time.Since(begin)
		})
		return took
	}
	plain, verified := dial(t, RetryRate), dial(t, 0)
	t.Logf("%v, with address verification %v", plain, verified)
	if verified != plain+simRTT {
		t.Errorf("with address verification %v, want one round trip more than %v", verified, plain)
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{perSecond: RetryRate}
	now := time.Now()
	count := func(n int) (allowed int) {
		for range n {
			if l.allow(now) {
				allowed++
			}
		}
		return allowed
	}
	if got := count(1000); got != RetryRate {
		t.Errorf("%d at once, want %d", got, RetryRate)
	}
	now = now.Add(100 * time.Millisecond)
	if got := count(1000); got != RetryRate/10 {
		t.Errorf("%d after a tenth of a second, want %d", got, RetryRate/10)
	}
	now = now.Add(time.Hour)
	if got := count(1000); got != RetryRate {
		t.Errorf("%d after an hour, want %d", got, RetryRate)
	}
}

// Every truncation of a stream of frames is an orderly end or an unexpected one, never a message more.
func TestFrameTruncations(t *testing.T) {
	first, second := frame(t, fedkv.Ping{Nonce: 1}), frame(t, fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 5})
	whole := append(bytes.Clone(first), second...)
	for n := range len(whole) + 1 {
		frames := frameReader{from: bytes.NewReader(whole[:n])}
		count := 0
		var err error
		for {
			if _, err = frames.next(); err != nil {
				break
			}
			count++
		}
		wantCount, wantErr := 0, io.ErrUnexpectedEOF
		if n >= len(first) {
			wantCount = 1
		}
		if n == len(whole) {
			wantCount = 2
		}
		if n == 0 || n == len(first) || n == len(whole) {
			wantErr = io.EOF
		}
		if count != wantCount || err != wantErr {
			t.Errorf("%d bytes: %d messages and %v, want %d and %v", n, count, err, wantCount, wantErr)
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, m := range []fedkv.Message{fedkv.Ping{Nonce: 1}, fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 5}} {
		raw, err := fedkv.AppendMessage(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(append(raw, raw...))
	}
	f.Add([]byte{0, 0, 0, 6, 0xab, 0xcd, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := frameReader{from: bytes.NewReader(data)}
		for {
			m, err := frames.next()
			if cap(frames.body) > fedkv.MaxControlMessage {
				t.Fatalf("%d bytes were allocated for a frame", cap(frames.body))
			}
			if err != nil {
				var malformed *fedkv.Error
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.As(err, &malformed) {
					t.Fatalf("an error of no kind: %v", err)
				}
				return
			}
			if m == nil {
				t.Fatal("neither message nor error")
			}
			if _, err := fedkv.AppendMessage(nil, m); err != nil {
				t.Fatalf("%v was read and cannot be written: %v", fmt.Sprintf("%+v", m), err)
			}
		}
	})
}
