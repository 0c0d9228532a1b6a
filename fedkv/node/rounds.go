package node

import (
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"fedattn/fedkv"
)

// roundTimeout bounds a round: from the queries until the answer is here.
const roundTimeout = 10 * time.Second

// roundConn reads and writes whole rounds. Its memory is used again.
type roundConn struct {
	stream  Rounds
	in, out []byte
}

// write sends a header and its payload at once, within so much time.
func (r *roundConn) write(h fedkv.RoundHeader, payload []byte, timeout time.Duration) error {
	r.out = append(h.AppendMarshal(r.out[:0]), payload...)
	if err := r.stream.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := r.stream.Write(r.out)
	return roundError(err, timeout)
}

// read takes the next header, and its payload if check agrees to it. The payload is valid until the next read.
func (r *roundConn) read(check func(fedkv.RoundHeader) error, timeout time.Duration) (fedkv.RoundHeader, []byte, error) {
	if err := r.stream.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fedkv.RoundHeader{}, nil, err
	}
	r.in = slices.Grow(r.in[:0], fedkv.RoundHeaderSize)[:fedkv.RoundHeaderSize]
	if _, err := io.ReadFull(r.stream, r.in); err != nil {
		return fedkv.RoundHeader{}, nil, roundError(err, timeout)
	}
	h, err := fedkv.ParseRoundHeader(r.in)
	if err == nil {
		err = check(h)
	}
	if err != nil {
		return h, nil, err
	}
	r.in = slices.Grow(r.in[:0], h.Length)[:h.Length]
	_, err = io.ReadFull(r.stream, r.in)
	return h, r.in, roundError(err, timeout)
}

func roundError(err error, timeout time.Duration) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fedkv.Errorf(fedkv.CodeDeadline, "nothing came for %v", timeout)
	case fedkv.CodeOf(err) == fedkv.CodeInternal: // the stream's own errors
		return fedkv.Errorf(fedkv.CodeLost, "its stream of answers ended: %v", err)
	}
	return err
}

// resized is p with the size that n tokens have at a layer.
func resized(p fedkv.Partial, shape fedkv.LayerShape, n int) fedkv.Partial {
	_, outputs, heads, _ := shape.HomeSizes()
	p.Out = slices.Grow(p.Out[:0], n*outputs)[:n*outputs]
	p.LSE = slices.Grow(p.LSE[:0], n*heads)[:n*heads]
	return p
}
