package fedkv

import (
	"encoding/hex"
	"math/bits"
)

// SessionID names a session. The publisher draws it at random; it is never all zero.
type SessionID [16]byte

// String is 32 hexadecimal digits.
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// BlockHeader describes a block: of K and V rows [First, First+Rows) of one origin's segment at one layer, the Kept
// ones. The payload that follows it is Length bytes: a bitmap of the rows that are there, unless all are, then K
// [kept][elements of K], then V [kept][elements of V], each after the mean of a centred type.
type BlockHeader struct {
	Session SessionID
	Origin  int       // owner of the rows
	Layer   int       // 0-based
	First   int       // first row, counted from the segment's first token
	Rows    int       // that the block settles, at least 1: those that are not there will not come
	Kept    int       // that are there, 0 to Rows
	Types   WireTypes // of K and V rows
	Length  int       // bytes of the payload
	Seal    Seal      // of a block that goes through the publisher
}

// BlockSize is the bytes of K and of V of a block with so many rows, means included: 0 of none. Together they are at
// most MaxBlock.
func (s LayerShape) BlockSize(t WireTypes, rows int) (k, v int, err error) {
	rowK, err := t.K.RowSize(s.K)
	if err != nil {
		return 0, 0, err
	}
	rowV, err := t.V.RowSize(s.V)
	if err != nil {
		return 0, 0, err
	}
	meanK, meanV := t.K.meanSize(s.K), t.V.meanSize(s.V)
	if most := (MaxBlock - meanK - meanV) / (rowK + rowV); rows < 0 || rows > most {
		return 0, 0, Errorf(CodeRange, "a block of %d rows, must be 0 to %d", rows, most)
	}
	if rows == 0 {
		return 0, 0, nil
	}
	return meanK + rows*rowK, meanV + rows*rowV, nil
}

// MaxRows is how many rows always fit into one block, with means and bitmap. It is at least 254, for any shape and
// types.
func (s LayerShape) MaxRows(t WireTypes) (int, error) {
	k, v, err := s.BlockSize(t, 1)
	if err != nil {
		return 0, err
	}
	means := t.K.meanSize(s.K) + t.V.meanSize(s.V)
	return min((MaxBlock-means)/(k+v-means+1), MaxTokens), nil // a row and its bit, which is less than a byte
}

// StagingSize is the most bytes that rows [first, tokens) of a segment can take at a receiver before they are placed:
// all of them, in blocks as small as a Collector allows.
func (s LayerShape) StagingSize(t WireTypes, tokens, first int) (int64, error) {
	k, v, err := s.BlockSize(t, 1)
	if err != nil || first >= tokens {
		return 0, err
	}
	means := t.K.meanSize(s.K) + t.V.meanSize(s.V)
	rows := tokens - first
	return int64(rows)*int64(k+v-means) + int64(min(rows, maxCentred(tokens)))*int64(means) + int64(rows/8+1), nil
}

// bitmapSize is the bytes of the bitmap before the rows.
func (h BlockHeader) bitmapSize() int {
	if h.Kept == h.Rows {
		return 0
	}
	return (h.Rows + 7) / 8
}

// Sized is the header with the Length that its rows, types and a layer's shape imply.
func (h BlockHeader) Sized(s LayerShape) (BlockHeader, error) {
	bitmap, k, v, err := h.parts(s)
	h.Length = bitmap + k + v
	return h, err
}

// Split is the bytes of bitmap, K and V in the payload that the header announces. It fails if the length is not
// exactly what rows, types and shape imply.
func (h BlockHeader) Split(s LayerShape) (bitmap, k, v int, err error) {
	bitmap, k, v, err = h.parts(s)
	if err != nil {
		return 0, 0, 0, err
	}
	if want := bitmap + k + v; h.Length != want {
		return 0, 0, 0, Errorf(CodeRange, "layer %d: a block of %d bytes, %d of %d rows of %v make %d", h.Layer, h.Length, h.Kept, h.Rows, h.Types, want)
	}
	return bitmap, k, v, nil
}

func (h BlockHeader) parts(s LayerShape) (bitmap, k, v int, err error) {
	if h.Rows < 1 || h.Rows > MaxTokens || h.Kept < 0 || h.Kept > h.Rows {
		return 0, 0, 0, Errorf(CodeRange, "layer %d: a block with %d of %d rows", h.Layer, h.Kept, h.Rows)
	}
	if k, v, err = s.BlockSize(h.Types, h.Kept); err != nil {
		return 0, 0, 0, err
	}
	bitmap = h.bitmapSize()
	if most := MaxBlock; bitmap+k+v > most {
		return 0, 0, 0, Errorf(CodeRange, "layer %d: a block of %d bytes, must be at most %d", h.Layer, bitmap+k+v, most)
	}
	return bitmap, k, v, nil
}

// AppendBitmap appends the bitmap of a block: bit i%8 of byte i/8 is set if keep[i] is. It appends nothing if all are
// kept.
func AppendBitmap(b []byte, keep []bool) []byte {
	if kept(keep) == len(keep) {
		return b
	}
	at := len(b)
	b = append(b, make([]byte, (len(keep)+7)/8)...)
	for i, k := range keep {
		if k {
			b[at+i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// kept counts.
func kept(keep []bool) (n int) {
	for _, k := range keep {
		if k {
			n++
		}
	}
	return n
}

// Block is a payload that Open found good.
type Block struct {
	Header BlockHeader
	Rows   []byte // K, then V, as an engine takes them: each the mean of a centred type, then the kept rows
	K, V   []byte // the parts of Rows

	bitmap []byte // empty if all rows are kept
}

// Open checks a whole payload against its header: its length, its bitmap, and that every value of every row is
// finite as float16, once transforms are undone. It reads the payload once and allocates nothing; the block's
// slices are the payload's.
func (h BlockHeader) Open(s LayerShape, payload []byte) (Block, error) {
	bitmap, k, _, err := h.Split(s)
	if err != nil {
		return Block{}, err
	}
	if len(payload) != h.Length {
		return Block{}, Errorf(CodeRange, "layer %d: %d bytes came of a block of %d", h.Layer, len(payload), h.Length)
	}
	b := Block{Header: h, bitmap: payload[:bitmap], Rows: payload[bitmap:], K: payload[bitmap:][:k], V: payload[bitmap+k:]}
	if bitmap > 0 {
		set := 0
		for _, word := range b.bitmap {
			set += bits.OnesCount8(word)
		}
		if padding := h.Rows % 8; set != h.Kept || padding > 0 && b.bitmap[bitmap-1]>>padding != 0 {
			return Block{}, Errorf(CodeRange, "layer %d: a bitmap that does not name %d of %d rows", h.Layer, h.Kept, h.Rows)
		}
	}
	if h.Kept == 0 {
		return b, nil
	}
	if err := checkPart(h.Types.K, s.K, b.K); err != nil {
		return Block{}, Errorf(CodeValue, "layer %d, K: %v", h.Layer, err)
	}
	if err := checkPart(h.Types.V, s.V, b.V); err != nil {
		return Block{}, Errorf(CodeValue, "layer %d, V: %v", h.Layer, err)
	}
	return b, nil
}

// checkPart checks the K or V part of a block.
func checkPart(t Type, elements int, part []byte) error {
	mean := t.meanSize(elements)
	return first(checkMean(part[:mean]), t.CheckFinite(part[mean:]))
}

// Positions lists where the kept rows stand in the token stream, ascending, if the segment begins at offset.
func (b Block) Positions(offset int) []int32 {
	at := make([]int32, 0, b.Header.Kept)
	for i := range b.Header.Rows {
		if len(b.bitmap) == 0 || b.bitmap[i/8]>>(i%8)&1 == 1 {
			at = append(at, int32(offset+b.Header.First+i))
		}
	}
	return at
}
