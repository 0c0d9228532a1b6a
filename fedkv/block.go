package fedkv

import "encoding/hex"

// SessionID names a session. The publisher draws it at random; it is never all zero.
type SessionID [16]byte

// String is 32 hexadecimal digits.
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// BlockHeader describes a block: K and V rows [First, First+Rows) of one origin's segment at one layer. The
// payload that follows it is Length bytes, first K [rows][elements of K], then V [rows][elements of V].
type BlockHeader struct {
	Session SessionID
	Origin  int       // owner of the rows
	Layer   int       // 0-based
	First   int       // first row, counted from the segment's first token
	Rows    int       // at least 1
	Types   WireTypes // of K and V rows
	Length  int       // bytes of the payload
}

// BlockSize is the bytes of K and of V of a block of rows rows, rows ≥ 1. Together they are at most MaxBlock.
func (s LayerShape) BlockSize(t WireTypes, rows int) (k, v int, err error) {
	rowK, err := t.K.RowSize(s.K)
	if err != nil {
		return 0, 0, err
	}
	rowV, err := t.V.RowSize(s.V)
	if err != nil {
		return 0, 0, err
	}
	if most := MaxBlock / (rowK + rowV); rows < 1 || rows > most {
		return 0, 0, Errorf(CodeRange, "a block of %d rows, must be 1 to %d", rows, most)
	}
	return rows * rowK, rows * rowV, nil
}

// MaxRows is the most rows that fit into one block. It is at least 256, for any shape and types.
func (s LayerShape) MaxRows(t WireTypes) (int, error) {
	k, v, err := s.BlockSize(t, 1)
	if err != nil {
		return 0, err
	}
	return MaxBlock / (k + v), nil
}

// Split is the bytes of K and of V in the payload that the header announces. It fails if the length is not
// exactly what rows, types and shape imply.
func (h BlockHeader) Split(s LayerShape) (k, v int, err error) {
	k, v, err = s.BlockSize(h.Types, h.Rows)
	if err != nil {
		return 0, 0, err
	}
	if h.Length != k+v {
		return 0, 0, Errorf(CodeRange, "layer %d: a block of %d bytes, %d rows of %v make %d", h.Layer, h.Length, h.Rows, h.Types, k+v)
	}
	return k, v, nil
}

// CheckFinite checks a whole payload against its header: its length, and that every value of every row is
// finite as float16. It reads the payload once and allocates nothing.
func (h BlockHeader) CheckFinite(s LayerShape, payload []byte) error {
	k, _, err := h.Split(s)
	if err != nil {
		return err
	}
	if len(payload) != h.Length {
		return Errorf(CodeRange, "layer %d: %d bytes came of a block of %d", h.Layer, len(payload), h.Length)
	}
	if err := h.Types.K.CheckFinite(payload[:k]); err != nil {
		return Errorf(CodeValue, "layer %d, K: %v", h.Layer, err)
	}
	if err := h.Types.V.CheckFinite(payload[k:]); err != nil {
		return Errorf(CodeValue, "layer %d, V: %v", h.Layer, err)
	}
	return nil
}
