package tap

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

const (
	// textWindow is how many bytes of a text in a row count as found: too many to be there by chance.
	textWindow = 12
	// tokenWindow is how many tokens in a row do, if they take at least tokenBytes as they are written: a few small numbers
	// are somewhere in any large file.
	tokenWindow = 4
	tokenBytes  = 8
)

// Text is what must not be in a record.
type Text struct {
	Name   string
	Text   string
	Tokens []int32
}

// Finding is a piece of a text in a record.
type Finding struct {
	Name  string // of the text
	As    string // how it was encoded
	Piece string
	Entry int // number of the entry, from 0
}

func (f Finding) String() string {
	return fmt.Sprintf("entry %d has %q of %s as %s", f.Entry, f.Piece, f.Name, f.As)
}

// encodings are the ways in which tokens would plausibly be written one after another.
var encodings = []struct {
	name   string
	append func([]byte, int32) []byte
}{
	{"32-bit little-endian tokens", func(b []byte, t int32) []byte { return binary.LittleEndian.AppendUint32(b, uint32(t)) }},
	{"32-bit big-endian tokens", func(b []byte, t int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(t)) }},
	{"16-bit little-endian tokens", func(b []byte, t int32) []byte { return binary.LittleEndian.AppendUint16(b, uint16(t)) }},
	{"16-bit big-endian tokens", func(b []byte, t int32) []byte { return binary.BigEndian.AppendUint16(b, uint16(t)) }},
	{"varint tokens", func(b []byte, t int32) []byte { return binary.AppendUvarint(b, uint64(t)) }},
	{"CBOR tokens", appendCBOR},
}

// appendCBOR is RFC 8949's shortest form of an unsigned integer, as a message would hold it.
func appendCBOR(b []byte, t int32) []byte {
	switch v := uint32(t); {
	case v < 24:
		return append(b, byte(v))
	case v <= math.MaxUint8:
		return append(b, 0x18, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0x19), uint16(v))
	default:
		return binary.BigEndian.AppendUint32(append(b, 0x1a), v)
	}
}

type needle struct{ name, as, piece string }

// Search looks for pieces of texts in a record: any 12 bytes in a row of a text as it is, and any 4 tokens in a row, or
// as many as take 8 bytes, in the encodings that a program would use. It returns one finding for each text, encoding and entry.
func Search(record io.Reader, texts []Text) ([]Finding, error) {
	// needles by length, so that one pass with a window of each length finds them all
	needles := map[int]map[string]needle{}
	add := func(bytes string, n needle) {
		if needles[len(bytes)] == nil {
			needles[len(bytes)] = map[string]needle{}
		}
		needles[len(bytes)][bytes] = n
	}
	for _, t := range texts {
		for i := 0; i+textWindow <= len(t.Text); i++ {
			piece := t.Text[i : i+textWindow]
			add(piece, needle{t.Name, "text", piece})
		}
		for i := 0; i+tokenWindow <= len(t.Tokens); i++ {
			for _, e := range encodings {
				var b []byte
				n := 0
				for _, token := range t.Tokens[i:] {
					if n >= tokenWindow && len(b) >= tokenBytes {
						break
					}
					b, n = e.append(b, token), n+1
				}
				if len(b) >= tokenBytes {
					add(string(b), needle{t.Name, e.name, fmt.Sprint(t.Tokens[i : i+n])})
				}
			}
		}
	}
	var found []Finding
	entry := 0
	err := Read(record, func(e Entry) error {
		seen := map[[2]string]bool{}
		for length, set := range needles {
			for i := 0; i+length <= len(e.Bytes); i++ {
				if n, ok := set[string(e.Bytes[i:i+length])]; ok && !seen[[2]string{n.name, n.as}] {
					seen[[2]string{n.name, n.as}] = true
					found = append(found, Finding{n.name, n.as, n.piece, entry})
				}
			}
		}
		entry++
		return nil
	})
	return found, err
}
