package transport

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"
)

// Rounds is a bidirectional stream beside the control stream for what is asked and answered in mid-computation: every
// Write leaves at once, before blocks that wait. Whoever dialled opens it, one at a time.
type Rounds struct {
	peer   *Peer
	stream *quic.Stream
}

// OpenRounds opens the stream to the peer. It waits while another one is open.
func (p *Peer) OpenRounds(ctx context.Context) (*Rounds, error) {
	stream, err := p.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, p.roundsError(ctx, err)
	}
	return p.rounds(stream), nil
}

// AcceptRounds waits until the peer has opened the stream and written to it.
func (p *Peer) AcceptRounds(ctx context.Context) (*Rounds, error) {
	stream, err := p.conn.AcceptStream(ctx)
	if err != nil {
		return nil, p.roundsError(ctx, err)
	}
	return p.rounds(stream), nil
}

func (p *Peer) rounds(stream *quic.Stream) *Rounds {
	stream.SetPriority(priorityControl, true)
	return &Rounds{p, stream}
}

func (p *Peer) roundsError(ctx context.Context, err error) error {
	if p.ctx.Err() == nil && ctx.Err() != nil {
		return contextError(ctx, "opening a stream for queries")
	}
	return p.connError(err)
}

// Read fills some of b. The error is Err of the peer if the connection is gone.
func (r *Rounds) Read(b []byte) (int, error) {
	n, err := r.stream.Read(b)
	return n, r.failed(err)
}

// Write sends b.
func (r *Rounds) Write(b []byte) (int, error) {
	n, err := r.stream.Write(b)
	return n, r.failed(err)
}

func (r *Rounds) failed(err error) error {
	if err != nil && r.peer.conn.Context().Err() != nil {
		return r.peer.connError(err)
	}
	return err
}

// SetDeadline bounds reads and writes that wait, and those to come.
func (r *Rounds) SetDeadline(t time.Time) error { return r.stream.SetDeadline(t) }

// SetReadDeadline and SetWriteDeadline bound one direction.
func (r *Rounds) SetReadDeadline(t time.Time) error { return r.stream.SetReadDeadline(t) }

// SetWriteDeadline is SetReadDeadline for writes.
func (r *Rounds) SetWriteDeadline(t time.Time) error { return r.stream.SetWriteDeadline(t) }

// Yield lets everything else go first from now on: what is large is in no hurry.
func (r *Rounds) Yield() { r.stream.SetPriority(priorityBulk, true) }

// Close ends the stream in both directions.
func (r *Rounds) Close() error {
	r.stream.CancelRead(0)
	_ = r.stream.Close() // fails only if the other side does not read any more
	return nil
}
