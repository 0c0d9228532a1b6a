// Package receipt keeps a device's own account of what it gave away: one line for each session, signed by the device's
// key and chained to the line before, so that a line that is changed, taken out or put in shows. What is cut off at the
// end does not show: keep a copy of the last line elsewhere where that matters.
//
// A receipt never holds text, tokens or rows. Start reading at Receipt, then Log.
package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Receipt is what one session took from this device.
type Receipt struct {
	Number    int       `json:"number"` // from 1, without gaps
	Previous  string    `json:"previous"`
	Time      time.Time `json:"time"` // the session's end, UTC
	Device    string    `json:"device"`
	Peer      string    `json:"peer"` // identity of who asked
	Name      string    `json:"name"` // what this device's owner calls it, or what it calls itself
	To        []string  `json:"to"`   // identities of all to whom rows went
	Session   string    `json:"session"`
	Documents []string  `json:"documents"`                 // by name
	Shares    []int     `json:"document_tokens,omitempty"` // of the tokens, how many each of Documents gave; nil: not known
	Tokens    int       `json:"tokens"`
	Layers    []int     `json:"layers"`
	Wire      string    `json:"wire"`
	Rows      string    `json:"rows"` // which rows of a layer
	Bytes     int64     `json:"bytes"`
	Queries   int       `json:"queries,omitempty"` // tokens whose queries were answered, each layer counted: rows stayed home
	Outcome   string    `json:"outcome"`           // sent, refused or failed
	Error     string    `json:"error,omitempty"`   // why it was refused or failed
}

// Outcomes of a session.
const (
	Sent    = "sent"
	Refused = "refused" // by the owner; nothing left
	Failed  = "failed"  // something may have left
)

// line is how a receipt is kept: the signature is over the receipt's own bytes, so nobody has to agree about JSON.
type line struct {
	Receipt json.RawMessage `json:"receipt"`
	Key     []byte          `json:"key"` // Ed25519 public key; its hash is Device
	Sig     []byte          `json:"sig"`
}

// purpose begins what is signed, so that a signature of a receipt is one of nothing else.
const purpose = "fedattn receipt 1\n"

// Signer is the device's identity.
type Signer interface {
	Device() string // its identity as text
	PublicKey() ed25519.PublicKey
	Sign(message []byte) []byte
}

// link is what the next receipt carries of a line.
func link(line []byte) string {
	sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
	return hex.EncodeToString(sum[:])
}

// seal makes the line of a receipt, with its line break.
func (r Receipt) seal(by Signer) ([]byte, error) {
	said, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sealed, err := json.Marshal(line{said, by.PublicKey(), by.Sign(append([]byte(purpose), said...))})
	return append(sealed, '\n'), err
}

// open reads a line without checking it.
func open(raw []byte) (r Receipt, l line, err error) {
	if err := json.Unmarshal(raw, &l); err != nil {
		return r, l, errors.New("it is no receipt")
	}
	if err := json.Unmarshal(l.Receipt, &r); err != nil {
		return r, l, errors.New("it is no receipt")
	}
	return r, l, nil
}

// check holds a line to the one before. device turns a public key into an identity.
func check(raw, before []byte, number int, device func(ed25519.PublicKey) string) (Receipt, error) {
	r, l, err := open(raw)
	if err != nil {
		return r, err
	}
	previous := ""
	if before != nil {
		previous = link(before)
	}
	switch {
	case len(l.Key) != ed25519.PublicKeySize || device(l.Key) != r.Device:
		return r, errors.New("its key is not that of the device that it names")
	case !ed25519.Verify(l.Key, append([]byte(purpose), l.Receipt...), l.Sig):
		return r, errors.New("its signature is wrong: it was changed")
	case r.Number != number:
		return r, fmt.Errorf("it has number %d, not %d: a line was taken out or put in", r.Number, number)
	case r.Previous != previous:
		return r, errors.New("it does not follow the line before: that was changed or put in")
	}
	return r, nil
}
