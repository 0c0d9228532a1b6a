package transport

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
	"fedattn/fedkv/node/fault"
)

// SendBlock sends the payload's parts, one after the other, as one block: the header's Length bytes in all.
// It waits while the peer has not yet taken earlier blocks or bytes. Several goroutines may send at once;
// blocks then travel in the order in which they were begun, each as fast as the link allows, so that an
// early layer is never late because of a later one.
//
// Nil means that everything was handed to the link, not that it arrived: the peer's answer says that. If the
// peer refuses the block while it is being sent, the error has the peer's code. The parts are free to reuse
// on return. When ctx ends, the peer sees the block break off and the connection lives.
func (p *Peer) SendBlock(ctx context.Context, h fedkv.BlockHeader, payload ...[]byte) error {
	length := 0
	for _, part := range payload {
		length += len(part)
	}
	if length != h.Length {
		return fedkv.Errorf(fedkv.CodeInternal, "a block of %d bytes has a header that says %d", length, h.Length)
	}
	header, err := h.AppendMarshal(make([]byte, 0, fedkv.SealSize+fedkv.BlockHeaderSize))
	if err != nil {
		return err
	}
	stream, err := p.conn.OpenUniStreamSync(ctx)
	if err != nil {
		return p.sendError(ctx, h, err)
	}
	stream.SetPriority(priorityBlock, false)
	stop := context.AfterFunc(ctx, func() { stream.CancelWrite(streamCode(contextError(ctx, ""))) })
	for i, part := range append([][]byte{header}, payload...) {
		if i == 1 {
			fault.At(fault.MidBlock)
		}
		if _, err := stream.Write(part); err != nil {
			stop()
			return p.sendError(ctx, h, err)
		}
	}
	if !stop() {
		return contextError(ctx, "sending a block")
	}
	if stream.Close() != nil { // refused since the last Write
		return p.sendError(ctx, h, context.Cause(stream.Context()))
	}
	return nil
}

// Priorities of RFC 9218, lower first. Control messages overtake blocks; blocks are not interleaved.
const (
	priorityControl = 0
	priorityBlock   = 3
	priorityBulk    = 6
)

func streamCode(err error) quic.StreamErrorCode { return quic.StreamErrorCode(fedkv.CodeOf(err)) }

func (p *Peer) sendError(ctx context.Context, h fedkv.BlockHeader, err error) error {
	var cancelled *quic.StreamError
	switch {
	case p.ctx.Err() != nil:
		return p.Err()
	case ctx.Err() != nil:
		return contextError(ctx, "sending a block")
	case errors.As(err, &cancelled) && cancelled.Remote:
		code := wireCode(cancelled.ErrorCode)
		return coded(err, code, "peer %s refused the rows of layer %d (%v)", p.id.Short(), h.Layer, code)
	default:
		return p.connError(err)
	}
}

// AcceptBlock waits for the peer's next block and receives it. check sees the header before anything is
// allocated or read for the payload; what it returns refuses the block, is told to the sender as a code, and
// is returned. In this and every other failure of a single block the connection lives, and the caller
// decides whether it deserves to; Context tells whether it is the connection that failed.
//
// The header is valid whenever its Length is not 0, with an error too. The payload has exactly Length bytes,
// and the caller must Release it. A block that comes slower than MinBlockRate after BlockGrace is given up.
// Several goroutines may receive at once.
func (p *Peer) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, *Buffer, error) {
	stream, err := p.conn.AcceptUniStream(ctx)
	if err != nil {
		if p.ctx.Err() == nil && ctx.Err() != nil {
			return fedkv.BlockHeader{}, nil, contextError(ctx, "waiting for a block")
		}
		<-p.ctx.Done() // so that Err tells the caller that it was the connection
		return fedkv.BlockHeader{}, nil, p.Err()
	}
	r := blockReader{peer: p, stream: stream}
	header, buffer, err := r.read(ctx, check)
	if err != nil {
		stream.CancelRead(streamCode(err))
		return header, nil, err
	}
	return header, buffer, nil
}

// blockReader reads one block.
type blockReader struct {
	peer   *Peer
	stream *quic.ReceiveStream
	header fedkv.BlockHeader
}

func (r *blockReader) read(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, *Buffer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.peer.ctx, func() { cancel(r.peer.Err()) })()

	// A stream knows deadlines but no context: whatever ends first, the deadline moves into the past.
	expire := func() { r.stream.SetReadDeadline(time.Unix(1, 0)) }
	defer context.AfterFunc(ctx, expire)()
	timer := time.AfterFunc(BlockGrace, expire)
	defer timer.Stop()

	raw := make([]byte, fedkv.BlockHeaderSize, fedkv.SealSize+fedkv.BlockHeaderSize)
	if _, err := io.ReadFull(r.stream, raw); err != nil {
		return r.header, nil, r.fail(ctx, err)
	}
	if n := fedkv.BlockHeaderLength(raw); n > len(raw) {
		begun := len(raw)
		raw = raw[:n]
		if _, err := io.ReadFull(r.stream, raw[begun:]); err != nil {
			return r.header, nil, r.fail(ctx, err)
		}
	}
	header, err := fedkv.ParseBlockHeader(raw)
	if err != nil {
		return r.header, nil, err
	}
	r.header = header
	if err := check(header); err != nil {
		return r.header, nil, err
	}

	// The wait for memory is ours, not the sender's: its clock stands still.
	timer.Stop()
	buffer, err := r.peer.endpoint.staging.get(ctx, header.Length)
	if err != nil {
		if r.peer.ctx.Err() != nil {
			err = r.peer.Err()
		}
		return r.header, nil, err
	}
	timer.Reset(BlockGrace + time.Duration(header.Length)*time.Second/MinBlockRate)
	if err := r.payload(buffer.Bytes()); err != nil {
		buffer.Release()
		return r.header, nil, r.fail(ctx, err)
	}
	return r.header, buffer, nil
}

var errTrailing = errors.New("bytes after the payload")

// payload fills data and makes sure that the stream ends there.
func (r *blockReader) payload(data []byte) error {
	if _, err := io.ReadFull(r.stream, data); err != nil {
		return err
	}
	var beyond [1]byte
	switch n, err := r.stream.Read(beyond[:]); {
	case n > 0:
		return errTrailing
	case err == io.EOF:
		return nil
	default:
		return err
	}
}

func (r *blockReader) fail(ctx context.Context, err error) error {
	name := r.peer.id.Short()
	var cancelled *quic.StreamError
	switch {
	case r.peer.ctx.Err() != nil:
		return r.peer.Err()
	case ctx.Err() != nil:
		return contextError(ctx, "receiving a block")
	case isTimeout(err) && r.header.Length == 0:
		return fedkv.Errorf(fedkv.CodeDeadline, "peer %s began a block and sent no header within %v", name, BlockGrace)
	case isTimeout(err):
		return fedkv.Errorf(fedkv.CodeDeadline, "peer %s sends the rows of layer %d slower than %d KiB/s", name, r.header.Layer, MinBlockRate>>10)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fedkv.Errorf(fedkv.CodeProtocol, "peer %s sent a block that ends early", name)
	case errors.Is(err, errTrailing):
		return fedkv.Errorf(fedkv.CodeProtocol, "peer %s sent a block longer than its header says", name)
	case errors.As(err, &cancelled) && cancelled.Remote:
		code := wireCode(cancelled.ErrorCode)
		return coded(err, code, "peer %s broke off a block (%v)", name, code)
	default:
		return r.peer.connError(err)
	}
}
