// Package tap records what crosses a link, as the peers encode it and before the link encrypts it, so that anybody can
// look at what left a device. Start reading at Recorder, then Search.
//
// A record is a sequence of entries:
//
//	+-----------+------+--------------------+---------
//	| direction | kind | length, big-endian | bytes …
//	|  1 byte   |  1   |         4          |
//	+-----------+------+--------------------+---------
//
// direction: 's' sent, 'r' received. kind: 'm' a whole control frame, 'b' a block's header and rows, 'q' bytes of a
// stream of queries and their answers.
package tap

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Directions and kinds of entries.
const (
	Sent     = 's'
	Received = 'r'
	Control  = 'm'
	Block    = 'b'
	Rounds   = 'q'
)

// entryHeaderSize is the bytes before an entry's own.
const entryHeaderSize = 6

// maxEntry bounds what a reader allocates for one entry.
const maxEntry = fedkv.MaxBlock + fedkv.BlockHeaderSize + fedkv.SealSize

// Entry is one message or block.
type Entry struct {
	Direction byte
	Kind      byte
	Bytes     []byte
}

// Recorder writes entries of any number of links. Its first write error is kept and ends the recording.
type Recorder struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

// NewRecorder records to w.
func NewRecorder(w io.Writer) *Recorder { return &Recorder{w: w} }

// Err is the first error of a write.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Recorder) write(direction, kind byte, parts ...[]byte) {
	length := 0
	for _, p := range parts {
		length += len(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	header := binary.BigEndian.AppendUint32([]byte{direction, kind}, uint32(length))
	for _, p := range append([][]byte{header}, parts...) {
		if r.err == nil {
			_, r.err = r.w.Write(p)
		}
	}
}

func (r *Recorder) message(direction byte, m fedkv.Message) {
	if frame, err := fedkv.AppendMessage(nil, m); err == nil {
		r.write(direction, Control, frame)
	}
}

func (r *Recorder) block(direction byte, h fedkv.BlockHeader, rows []byte) {
	if header, err := h.AppendMarshal(nil); err == nil {
		r.write(direction, Block, header, rows)
	}
}

// Link records what crosses l.
func (r *Recorder) Link(l node.Link) node.Link { return tapped{l, r} }

type tapped struct {
	node.Link
	to *Recorder
}

func (t tapped) Send(ctx context.Context, m fedkv.Message) error {
	t.to.message(Sent, m)
	return t.Link.Send(ctx, m)
}

func (t tapped) Receive(ctx context.Context) (fedkv.Message, error) {
	m, err := t.Link.Receive(ctx)
	if m != nil {
		t.to.message(Received, m)
	}
	return m, err
}

func (t tapped) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	t.to.block(Sent, h, rows)
	return t.Link.SendBlock(ctx, h, rows)
}

func (t tapped) OpenRounds(ctx context.Context) (node.Rounds, error) {
	r, err := t.Link.OpenRounds(ctx)
	if err != nil {
		return nil, err
	}
	return tappedRounds{r, t.to}, nil
}

func (t tapped) AcceptRounds(ctx context.Context) (node.Rounds, error) {
	r, err := t.Link.AcceptRounds(ctx)
	if err != nil {
		return nil, err
	}
	return tappedRounds{r, t.to}, nil
}

type tappedRounds struct {
	node.Rounds
	to *Recorder
}

func (t tappedRounds) Write(b []byte) (int, error) {
	t.to.write(Sent, Rounds, b)
	return t.Rounds.Write(b)
}

func (t tappedRounds) Read(b []byte) (int, error) {
	n, err := t.Rounds.Read(b)
	if n > 0 {
		t.to.write(Received, Rounds, b[:n])
	}
	return n, err
}

func (t tapped) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, node.Rows, error) {
	h, rows, err := t.Link.AcceptBlock(ctx, check)
	if err == nil {
		t.to.block(Received, h, rows.Bytes)
	}
	return h, rows, err
}

// Read gives each entry of a record to visit.
func Read(r io.Reader, visit func(Entry) error) error {
	in := bufio.NewReader(r)
	for {
		var header [entryHeaderSize]byte
		if _, err := io.ReadFull(in, header[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("tap: the record ends within an entry: %w", err)
		}
		e := Entry{Direction: header[0], Kind: header[1]}
		length := binary.BigEndian.Uint32(header[2:])
		if (e.Direction != Sent && e.Direction != Received) || (e.Kind != Control && e.Kind != Block && e.Kind != Rounds) || length > maxEntry {
			return errors.New("tap: this is not a record")
		}
		e.Bytes = make([]byte, length)
		if _, err := io.ReadFull(in, e.Bytes); err != nil {
			return fmt.Errorf("tap: the record ends within an entry: %w", err)
		}
		if err := visit(e); err != nil {
			return err
		}
	}
}
