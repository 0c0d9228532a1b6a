package transport

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Invitation is what one device's owner carries to another device so that the two pin each other's keys. It prints
// without its secret.
//
//	fedattn://ID:SECRET@HOST:PORT,HOST:PORT
//
// ID is the inviting device's; SECRET is 128 random bits and a check byte in base32, and good for one device within
// InvitationLife. Whoever has the line before the invited device does can take its place.
type Invitation struct {
	ID        ID
	Addresses []string // host:port of the inviting process
	secret    func() secret
}

// secret is the shared one. It is kept behind a function, because fmt looks through everything else.
type secret [16]byte

const (
	invitationScheme = "fedattn://"
	maxInvitation    = 1024 // bytes of the line
	secretChars      = 28   // base32 of 16 secret bytes and a check byte
)

func newInvitation(id ID, random io.Reader, addresses []string) (Invitation, error) {
	var s secret
	if _, err := io.ReadFull(random, s[:]); err != nil {
		return Invitation{}, fmt.Errorf("no randomness for an invitation: %w", err)
	}
	return Invitation{ID: id, Addresses: addresses, secret: func() secret { return s }}, nil
}

// check is the byte that tells a mistyped secret from a wrong one, before it costs a try.
func (s secret) check() byte { return sha256.Sum256(append([]byte("fedattn invitation"), s[:]...))[0] }

// Line is the invitation with its secret, as ParseInvitation reads it. It contains no spaces.
func (i Invitation) Line() string {
	s := i.secret()
	return fmt.Sprintf("%s%s:%s@%s", invitationScheme, i.ID, idEncoding.EncodeToString(append(s[:], s.check())), strings.Join(i.Addresses, ","))
}

// String names the inviting device, never the secret.
func (i Invitation) String() string { return "invitation of " + string(i.ID) }

// Format prints String for every verb.
func (i Invitation) Format(f fmt.State, _ rune) { io.WriteString(f, i.String()) }

// ParseInvitation reads a line that Invitation.Line wrote. Its errors do not repeat the secret.
func ParseInvitation(line string) (Invitation, error) {
	const whole = "copy the whole line that fedattn invite printed"
	line = strings.TrimSpace(line)
	if len(line) > maxInvitation || strings.ContainsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return Invitation{}, errors.New("this is not an invitation, which is one line without spaces: " + whole)
	}
	rest, found := strings.CutPrefix(line, invitationScheme)
	idText, rest, hasID := strings.Cut(rest, ":")
	secretText, addresses, hasSecret := strings.Cut(rest, "@")
	if !found || !hasID || !hasSecret {
		return Invitation{}, errors.New("this is not an invitation, which looks like fedattn://ID:SECRET@HOST:PORT: " + whole)
	}
	id, err := ParseID(idText)
	if err != nil {
		return Invitation{}, fmt.Errorf("the invitation is damaged: %w; %s", err, whole)
	}
	s, err := parseSecret(secretText)
	if err != nil {
		return Invitation{}, fmt.Errorf("the invitation is damaged: %w; %s", err, whole)
	}
	i := Invitation{ID: id, Addresses: strings.Split(addresses, ","), secret: func() secret { return s }}
	for _, a := range i.Addresses {
		if err := checkHostPort(a); err != nil {
			return Invitation{}, fmt.Errorf("the invitation is damaged: %w; %s", err, whole)
		}
	}
	return i, nil
}

func parseSecret(text string) (s secret, err error) {
	if len(text) != secretChars {
		return s, fmt.Errorf("its secret has %d characters, not %d", len(text), secretChars)
	}
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(text))
	if err != nil || len(raw) != len(s)+1 {
		return s, errors.New("its secret has a character that no secret has")
	}
	copy(s[:], raw)
	if !bytes.Equal(raw[len(s):], []byte{s.check()}) {
		return s, errors.New("its secret has a typing error")
	}
	return s, nil
}
