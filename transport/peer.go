package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
)

// Peer is a live connection to another device whose ID is proved. All methods may be called from several
// goroutines.
type Peer struct {
	id       ID
	endpoint *Endpoint
	conn     *quic.Conn
	control  *quic.Stream
	frames   frameReader

	inbox  chan fedkv.Message // closed after the last message
	outbox chan []byte        // whole frames
	pings  pings

	sent, received atomic.Int64 // control messages

	ctx   context.Context // ends with the connection; its cause is what Err returns
	end   context.CancelCauseFunc
	once  sync.Once                   // guards Close
	fault atomic.Pointer[fedkv.Error] // what the peer did that made this side close
}

func newPeer(e *Endpoint, id ID, conn *quic.Conn, control *quic.Stream) *Peer {
	control.SetPriority(priorityControl, true)
	p := &Peer{
		id:       id,
		endpoint: e,
		conn:     conn,
		control:  control,
		frames:   frameReader{from: control},
		inbox:    make(chan fedkv.Message, queuedMessages),
		outbox:   make(chan []byte, queuedMessages),
	}
	p.ctx, p.end = context.WithCancelCause(context.Background())
	return p
}

// start sets the peer's two goroutines going; they end with the connection.
func (p *Peer) start() {
	p.endpoint.tasks.Go(p.receiveLoop)
	p.endpoint.tasks.Go(p.sendLoop)
}

// ID is who the peer has proved to be.
func (p *Peer) ID() ID { return p.id }

// Addr is where its packets come from, host:port.
func (p *Peer) Addr() string { return p.conn.RemoteAddr().String() }

// Context ends when the connection does. Its cause is Err.
func (p *Peer) Context() context.Context { return p.ctx }

// Err is nil while the connection lives. Then it says why it does not: a *CloseError if either side closed
// it, otherwise an error with fedkv.CodeLost for a peer that vanished or fedkv.CodeProtocol for one that was
// cut off.
func (p *Peer) Err() error { return context.Cause(p.ctx) }

// Send queues a message for the peer, in order. It waits while the queue is full. Nil means that the message
// is on its way; Ping tells when it has been read. The error is the caller's if the message is invalid, and
// Err if the connection is gone.
func (p *Peer) Send(ctx context.Context, m fedkv.Message) error {
	frame, err := fedkv.AppendMessage(nil, m)
	if err != nil {
		return err
	}
	return p.enqueue(ctx, frame)
}

func (p *Peer) enqueue(ctx context.Context, frame []byte) error {
	if err := p.Err(); err != nil {
		return err
	}
	select {
	case p.outbox <- frame:
		return nil
	case <-p.ctx.Done():
		return p.Err()
	case <-ctx.Done():
		return contextError(ctx, "sending a message")
	}
}

// sendLoop is the only writer of the control stream: a caller that gives up can never leave half a frame.
func (p *Peer) sendLoop() {
	for {
		select {
		case frame := <-p.outbox:
			p.sent.Add(1) // before it leaves: whoever has the answer to a message finds it counted
			if _, err := p.control.Write(frame); err != nil {
				var cancelled *quic.StreamError
				if errors.As(err, &cancelled) {
					p.cutOff(p.faultf(fedkv.CodeProtocol, "cancelled the control stream and was cut off"))
				}
				return
			}
		case <-p.conn.Context().Done():
			return
		}
	}
}

// Receive returns the peer's next message, in order. After the connection ended it returns what was already
// here, then Err. Pings are answered underneath and not seen here.
func (p *Peer) Receive(ctx context.Context) (fedkv.Message, error) {
	select {
	case m, ok := <-p.inbox:
		if !ok {
			<-p.ctx.Done()
			return nil, p.Err()
		}
		return m, nil
	case <-ctx.Done():
		return nil, contextError(ctx, "waiting for a message")
	}
}

// receiveLoop is the only reader of the control stream, and it sees the connection off: when it returns, the
// peer is dead, its cause is known and the endpoint has forgotten it.
func (p *Peer) receiveLoop() {
	defer p.endpoint.forget(p)
	fault := p.receiveAll()
	close(p.inbox)
	if fault != nil {
		p.cutOff(fault)
	}
	<-p.conn.Context().Done()
	p.end(p.connError(context.Cause(p.conn.Context())))
}

// receiveAll returns what the peer did wrong, or nil if the connection is over.
func (p *Peer) receiveAll() *fedkv.Error {
	for {
		m, err := p.frames.next()
		var malformed *fedkv.Error
		var cancelled *quic.StreamError
		switch {
		case err == nil:
		case errors.As(err, &malformed):
			return p.faultf(malformed.Code, "sent a malformed message and was cut off: %s", malformed.Text)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &cancelled):
			return p.faultf(fedkv.CodeProtocol, "ended the control stream and was cut off")
		default: // quic-go hands a dying connection's error to its streams first
			return nil
		}
		if ping, ok := m.(fedkv.Ping); ok {
			p.handlePing(ping)
			continue
		}
		select {
		case p.inbox <- m:
			p.received.Add(1)
		case <-p.conn.Context().Done():
			return nil
		}
	}
}

// Close ends the connection and tells the peer code and text (cleaned, at most fedkv.MaxText bytes); 0 is no
// error. It is abrupt: what the peer has not read of earlier messages and blocks is lost, so after a last
// message call Ping first. Only the first call of either side counts; later ones do nothing.
func (p *Peer) Close(code fedkv.Code, text string) error {
	p.close(code, text)
	<-p.ctx.Done()
	return nil
}

func (p *Peer) close(code fedkv.Code, text string) {
	p.once.Do(func() {
		p.conn.CloseWithError(quic.ApplicationErrorCode(code), fedkv.CleanText(text))
	})
}

// cutOff closes the connection because of the peer's fault, which becomes Err. The peer is told the code
// only: its sentence is for a reader on the other side.
func (p *Peer) cutOff(fault *fedkv.Error) {
	p.once.Do(func() {
		p.fault.Store(fault)
		p.conn.CloseWithError(quic.ApplicationErrorCode(fault.Code), "")
	})
}

func (p *Peer) faultf(code fedkv.Code, format string, args ...any) *fedkv.Error {
	return &fedkv.Error{Code: code, Text: "peer " + p.id.Short() + " " + fmt.Sprintf(format, args...)}
}

// connError says what err, from quic-go, means for this connection.
func (p *Peer) connError(err error) error {
	if known := p.Err(); known != nil {
		return known
	}
	if fault := p.fault.Load(); fault != nil {
		return fault
	}
	if cause := context.Cause(p.conn.Context()); cause != nil {
		err = cause
	}
	return connectionError(err, p.id, p.endpoint.config.Profile.Idle())
}

// Ping returns the time for a message to the peer and back. Since control messages stay in order, its
// return also means that the peer's side has taken over every message sent before.
func (p *Peer) Ping(ctx context.Context) (time.Duration, error) {
	nonce, answered := p.pings.add()
	defer p.pings.remove(nonce)
	begin := time.Now()
	if err := p.Send(ctx, fedkv.Ping{Nonce: nonce}); err != nil {
		return 0, err
	}
	select {
	case <-answered:
		return time.Since(begin), nil
	case <-p.ctx.Done():
		return 0, p.Err()
	case <-ctx.Done():
		return 0, contextError(ctx, "waiting for an echo")
	}
}

func (p *Peer) handlePing(ping fedkv.Ping) {
	if ping.Reply {
		p.pings.answer(ping.Nonce)
		return
	}
	frame, err := fedkv.AppendMessage(nil, fedkv.Ping{Nonce: ping.Nonce, Reply: true})
	if err != nil {
		return // cannot be: every Ping is valid
	}
	select {
	case p.outbox <- frame:
	case <-p.conn.Context().Done():
	}
}

// pings are the echoes that are being waited for. Replies that nobody waits for are ignored.
type pings struct {
	mu      sync.Mutex
	waiting map[uint64]chan struct{}
}

func (w *pings) add() (nonce uint64, answered <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = make(map[uint64]chan struct{})
	}
	nonce = rand.Uint64()
	done := make(chan struct{})
	w.waiting[nonce] = done
	return nonce, done
}

func (w *pings) answer(nonce uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if done := w.waiting[nonce]; done != nil {
		close(done)
		delete(w.waiting, nonce)
	}
}

func (w *pings) remove(nonce uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, nonce)
}

// Stats are a connection's numbers so far.
type Stats struct {
	BytesSent, BytesReceived       int64 // UDP payloads: everything, repetitions included
	MessagesSent, MessagesReceived int64 // control messages, pings not counted as received
	PacketsSent, PacketsLost       int64
	RTT                            time.Duration // smoothed; 0 before the first sample
}

// Stats returns the connection's numbers, after its end too.
func (p *Peer) Stats() Stats {
	s := p.conn.ConnectionStats()
	return Stats{
		BytesSent:        int64(s.BytesSent),
		BytesReceived:    int64(s.BytesReceived),
		MessagesSent:     p.sent.Load(),
		MessagesReceived: p.received.Load(),
		PacketsSent:      int64(s.PacketsSent),
		PacketsLost:      int64(s.PacketsLost),
		RTT:              s.SmoothedRTT,
	}
}
