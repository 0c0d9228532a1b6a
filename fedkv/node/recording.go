package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"fedattn/fedkv"
)

// RowKey names what was computed of a segment: 16 bytes are the digest of its tokens, 32 of everything else that rows
// depend on.
type RowKey [48]byte

// IsOf reports whether the rows are of a segment of these tokens.
func (k RowKey) IsOf(tokens []fedkv.Token) bool { return k.text() == textDigest(tokens) }

func (k RowKey) text() [16]byte { return [16]byte(k[:16]) }

// textDigest tells segments apart.
func textDigest(tokens []fedkv.Token) [16]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%d tokens\n", rowFormat, len(tokens))
	_ = binary.Write(h, binary.LittleEndian, tokens) // a hash takes everything
	return [16]byte(h.Sum(nil))
}

// RowCache keeps what was computed of segments; package rowcache is one. What Get returns is not changed.
type RowCache interface {
	Get(key RowKey) ([]byte, bool)
	Put(key RowKey, rows []byte)
}

// rowFormat names the encoding of a recording. Another encoding, or another meaning of what is in it, has another name.
const rowFormat = "fedattn rows 1"

// rowKey is where a segment's rows are kept, or false where they depend on others or on the question.
func rowKey(cfg *ContributorConfig, w *fedkv.Work, tokens []fedkv.Token) (key RowKey, ok bool) {
	if cfg.Rows == nil || w.Schedules.Regime() != fedkv.Gather || w.Rows.NeedsQueries() {
		return key, false
	}
	text := textDigest(tokens)
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q %+v\n", rowFormat, cfg.Self.Engine, cfg.Self.Model)
	fmt.Fprintf(h, "at %d, micro-batches of %d, rows %+v, local rows %+v\n", w.At, cfg.MicroBatch, w.Rows, cfg.LocalRows)
	for _, l := range w.Sends.Layers() {
		fmt.Fprintf(h, "%d %v\n", l, w.Wire.At(l))
	}
	_ = binary.Write(h, binary.LittleEndian, w.Prefix)
	copy(key[copy(key[:], text[:]):], h.Sum(nil))
	return key, true
}

// homeKey is where rows that stay home are kept. Unlike those that are sent they hang on no wire type.
func homeKey(cfg *ContributorConfig, w *fedkv.Work, tokens []fedkv.Token) (key RowKey, ok bool) {
	sent := *w
	sent.Wire, sent.Rows = fedkv.Wire{}, fedkv.Selection{}
	key, ok = rowKey(cfg, &sent, tokens)
	h := sha256.New()
	fmt.Fprintf(h, "home %x\n", key[16:])
	copy(key[16:], h.Sum(nil))
	return key, ok && cfg.HomeRows > 0
}

// recording is the blocks that a segment was sent in, as they went out, in the order in which they were made: a layer's
// micro-batches, and the blocks of each.
type recording struct {
	batches []recordedBatch
	held    []*payload // that the blocks are of, while they are on their way
}

// recordedBatch is what Contributor.Blocks was told of and what it handed out.
type recordedBatch struct {
	layer, first, rows int
	keep               []bool // nil: all
	blocks             []recordedBlock
}

type recordedBlock struct {
	first, rows, kept int
	types             fedkv.WireTypes
	payload           []byte
}

// Numbers are unsigned varints, in this order:
//
//	batches
//	  layer first rows  selected (0 or 1)  one byte a row if selected
//	  blocks
//	    first rows kept type-K type-V length  payload
func (r *recording) encode() []byte {
	size := 16
	for _, batch := range r.batches {
		size += 64 + len(batch.keep)
		for _, b := range batch.blocks {
			size += 64 + len(b.payload)
		}
	}
	out := make([]byte, 0, size)
	put := func(numbers ...int) {
		for _, n := range numbers {
			out = binary.AppendUvarint(out, uint64(n))
		}
	}
	put(len(r.batches))
	for _, batch := range r.batches {
		put(batch.layer, batch.first, batch.rows)
		if batch.keep == nil {
			put(0)
		} else {
			put(1)
			for _, kept := range batch.keep {
				out = append(out, map[bool]byte{true: 1}[kept])
			}
		}
		put(len(batch.blocks))
		for _, b := range batch.blocks {
			put(b.first, b.rows, b.kept, int(b.types.K), int(b.types.V), len(b.payload))
			out = append(out, b.payload...)
		}
	}
	return out
}

var errRecording = errors.New("not a recording")

// decodeRecording reads one. Payloads are parts of raw.
func decodeRecording(raw []byte) (*recording, error) {
	var bad error
	number := func(most int) int {
		n, size := binary.Uvarint(raw)
		if size <= 0 || n > uint64(most) {
			bad = errRecording
			return 0
		}
		raw = raw[size:]
		return int(n)
	}
	bytes := func(n int) []byte {
		if n > len(raw) {
			bad = errRecording
			return nil
		}
		out := raw[:n:n]
		raw = raw[n:]
		return out
	}
	r := &recording{}
	for range number(len(raw)) {
		batch := recordedBatch{layer: number(fedkv.MaxLayers - 1), first: number(fedkv.MaxTokens), rows: number(fedkv.MaxTokens)}
		if number(1) == 1 {
			for _, b := range bytes(batch.rows) {
				batch.keep = append(batch.keep, b == 1)
			}
		}
		for range number(len(raw)) {
			b := recordedBlock{first: number(fedkv.MaxTokens), rows: number(fedkv.MaxTokens), kept: number(fedkv.MaxTokens)}
			b.types = fedkv.WireTypes{K: fedkv.Type(number(255)), V: fedkv.Type(number(255))}
			b.payload = bytes(number(fedkv.MaxBlock))
			if bad != nil {
				return nil, bad
			}
			batch.blocks = append(batch.blocks, b)
		}
		if bad != nil {
			return nil, bad
		}
		r.batches = append(r.batches, batch)
	}
	if bad == nil && len(raw) > 0 {
		bad = errRecording
	}
	return r, bad
}

// payload is that of a block, if the recording has these rows in this form. A part of a block can be had where rows do not
// depend on each other: without a mean, and if all are there.
func (r *recording) payload(h fedkv.BlockHeader, shape fedkv.LayerShape) ([]byte, bool) {
	if r == nil {
		return nil, false
	}
	for _, batch := range r.batches {
		if batch.layer != h.Layer {
			continue
		}
		for _, b := range batch.blocks {
			if b.types != h.Types {
				continue
			}
			if b.first == h.First && b.rows == h.Rows && b.kept == h.Kept && len(b.payload) == h.Length {
				return b.payload, true
			}
			if part, ok := b.part(h, shape); ok {
				return part, true
			}
		}
	}
	return nil, false
}

// part is the rows of a smaller block.
func (b recordedBlock) part(h fedkv.BlockHeader, shape fedkv.LayerShape) ([]byte, bool) {
	if b.kept < b.rows || h.Kept < h.Rows || b.types.K.IsCentred() || b.types.V.IsCentred() ||
		h.First < b.first || h.First+h.Rows > b.first+b.rows {
		return nil, false
	}
	k, v, err := shape.BlockSize(b.types, 1)
	if err != nil || len(b.payload) != b.rows*(k+v) {
		return nil, false
	}
	from, to := h.First-b.first, h.First-b.first+h.Rows
	values := b.payload[b.rows*k:]
	return slices.Concat(b.payload[from*k:to*k], values[from*v:to*v]), true
}

// recall takes rows that were computed before, if there are any.
func (s *contribution) recall() {
	key, ok := rowKey(&s.host.cfg, s.work, s.tokens)
	if !ok {
		return
	}
	s.key, s.recorded = key, &recording{}
	raw, found := s.host.cfg.Rows.Get(key)
	if !found {
		return
	}
	known, err := decodeRecording(raw)
	if err != nil { // another encoding under the same digest: nothing that this version wrote
		return
	}
	s.known, s.recorded = known, nil
}

// keep puts what was computed into the cache.
func (s *contribution) keep() {
	if s.recorded != nil && len(s.recorded.batches) > 0 {
		s.host.cfg.Rows.Put(s.key, s.recorded.encode())
		for _, p := range s.recorded.held {
			p.release()
		}
	}
	s.recorded = nil
}

// replay sends rows that were computed before. What the session needs besides, because its windows reach further, is left
// in missing.
func (s *contribution) replay() (missing []fedkv.Outgoing, err error) {
	for _, batch := range s.known.batches {
		if s.x.live.Err() != nil {
			return nil, context.Cause(s.x.live)
		}
		s.x.mu.Lock()
		_ = s.x.stepLocked(fedkv.Tick{Now: time.Since(s.x.start)})
		blocks, err := s.machine.Blocks(batch.layer, batch.first, batch.rows, batch.keep)
		s.x.mu.Unlock()
		if err != nil {
			return nil, err
		}
		for _, b := range blocks {
			rows, ok := s.known.payload(b.Header, s.x.shape.Layers[b.Header.Layer])
			if !ok {
				missing = append(missing, b)
				continue
			}
			if err := s.send(b, keptPayload(rows)); err != nil {
				return nil, err
			}
		}
	}
	return missing, nil
}
