package transport

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// ID names a device: base32(SHA-256(Ed25519 public key)) with check characters, in the form in which
// people read, type and compare it.
//
//	AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA
//	└── 13 data + 1 check ──┘ four such pairs of groups: 52 data characters, 4 check characters
//
// The zero value names nobody. An ID from ParseID or from an Identity is canonical, so two IDs are the
// same device if and only if they are equal with ==.
type ID string

const (
	idAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	idData     = 52              // base32 characters of 32 bytes without padding
	idChunk    = 13              // data characters that share one check character
	idChars    = 56              // with check characters, without dashes
	idGroup    = 7               // characters between dashes
	idLength   = idChars + 8 - 1 // with dashes: len of every canonical ID
)

var idEncoding = base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding)

// idOf returns the name of the holder of a public key.
func idOf(key ed25519.PublicKey) ID {
	sum := sha256.Sum256(key)
	return formatID(idEncoding.EncodeToString(sum[:]))
}

// formatID adds check characters and dashes to 52 data characters of the alphabet.
func formatID(data string) ID {
	var checked []byte
	for i := 0; i < idData; i += idChunk {
		chunk := data[i : i+idChunk]
		checked = append(checked, chunk...)
		checked = append(checked, checkCharacter(chunk))
	}
	var out strings.Builder
	for i := 0; i < idChars; i += idGroup {
		if i > 0 {
			out.WriteByte('-')
		}
		out.Write(checked[i : i+idGroup])
	}
	return ID(out.String())
}

// checkCharacter is Luhn's algorithm modulo 32: it changes with every single wrong character and with
// nearly every swap of two neighbours.
func checkCharacter(chunk string) byte {
	const n = len(idAlphabet)
	sum := 0
	for i := range len(chunk) {
		v := strings.IndexByte(idAlphabet, chunk[len(chunk)-1-i])
		if i%2 == 0 { // the character next to the check character is doubled
			v *= 2
		}
		sum += v/n + v%n
	}
	return idAlphabet[(n-sum%n)%n]
}

// ParseID reads an ID as a person typed it: case, dashes and spaces do not matter, and the digits that
// base32 leaves out are taken for the letters they resemble (0 for O, 1 for I, 8 for B).
// The error says which group of characters holds the typo.
func ParseID(text string) (ID, error) {
	var chars []byte
	for _, r := range text {
		switch r {
		case '-', ' ':
			continue
		case '0':
			r = 'O'
		case '1':
			r = 'I'
		case '8':
			r = 'B'
		}
		if 'a' <= r && r <= 'z' {
			r += 'A' - 'a'
		}
		if r > 'Z' || strings.IndexByte(idAlphabet, byte(r)) < 0 {
			return "", fmt.Errorf("a peer ID has no character %q: only letters and the digits 2 to 7", r)
		}
		if len(chars) == idChars {
			return "", fmt.Errorf("the peer ID is too long: it has %d characters without its dashes", idChars)
		}
		chars = append(chars, byte(r))
	}
	if len(chars) != idChars {
		return "", fmt.Errorf("the peer ID is incomplete: %d of its %d characters are here", len(chars), idChars)
	}
	var data strings.Builder
	for i := 0; i < idChars; i += idChunk + 1 {
		chunk, check := string(chars[i:i+idChunk]), chars[i+idChunk]
		if checkCharacter(chunk) != check {
			return "", fmt.Errorf("the peer ID has a typo in %s-%s (groups %d and %d of 8)",
				chars[i:i+idGroup], chars[i+idGroup:i+2*idGroup], i/idGroup+1, i/idGroup+2)
		}
		data.WriteString(chunk)
	}
	// 52 characters hold 260 bits, of which 256 are the hash: the spare ones are zero in a real ID.
	sum, err := idEncoding.DecodeString(data.String())
	if err != nil || idEncoding.EncodeToString(sum) != data.String() {
		return "", errors.New("the peer ID is not one that a device prints: its last group is wrong")
	}
	return formatID(data.String()), nil
}

// Short returns the first group, for logs and tables. It is for people's eyes only: seven characters
// are cheap to imitate, so compare whole IDs.
func (id ID) Short() string {
	if len(id) < idGroup {
		return string(id)
	}
	return string(id[:idGroup])
}

// String returns the whole ID with its dashes.
func (id ID) String() string { return string(id) }

// valid reports whether id is canonical.
func (id ID) valid() bool {
	parsed, err := ParseID(string(id))
	return err == nil && parsed == id
}
