// Package policy says what a device's owner lets other devices have: pure decisions about peers, plans and amounts,
// without files, clocks or networks. Whoever serves a peer asks here first, and tells the peer the error that comes
// back: each is a *fedkv.Error, a sentence with a code.
//
// Start reading at Policy.Grant.
package policy

import (
	"fmt"
	"strings"

	"fedattn/fedkv"
)

// Rights is what a peer may do with this device: a set.
type Rights uint8

const (
	// Ask: it may be the publisher of a session in which this device contributes.
	Ask Rights = 1 << iota
	// Contribute: it may be a contributor in this device's sessions, and in lockstep beside it.
	Contribute

	// Both of them.
	Both = Ask | Contribute
)

// String is the name that ParseRights reads.
func (r Rights) String() string {
	switch r {
	case Ask:
		return "ask"
	case Contribute:
		return "contribute"
	case Both:
		return "both"
	}
	return fmt.Sprintf("rights(%d)", uint8(r))
}

// ParseRights reads ask, contribute or both.
func ParseRights(name string) (Rights, error) {
	for _, r := range []Rights{Ask, Contribute, Both} {
		if r.String() == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("unknown rights %q; known are ask, contribute, both", name)
}

// Trust is where rows of this device may be when a peer takes part.
type Trust uint8

const (
	// Home: no row goes to the peer; it may only query them where they are. It is the zero value: a peer is trusted with
	// more only where somebody said so.
	Home Trust = iota
	// Rows go to the peer, who could turn them back into text.
	Rows
)

// String is the name that ParseTrust reads.
func (t Trust) String() string {
	if t == Rows {
		return "rows"
	}
	return "home"
}

// ParseTrust reads rows or home.
func ParseTrust(name string) (Trust, error) {
	for _, t := range []Trust{Home, Rows} {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("unknown trust %q; known are rows, home", name)
}

// MarshalText writes the name.
func (r Rights) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRights.
func (r *Rights) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRights(strings.TrimSpace(string(text)))
	return err
}

// MarshalText writes the name.
func (t Trust) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is ParseTrust.
func (t *Trust) UnmarshalText(text []byte) (err error) {
	*t, err = ParseTrust(strings.TrimSpace(string(text)))
	return err
}

// Peer is a device as its owner's pairing describes it.
type Peer struct {
	Name   string // what the owner of this device calls it; empty if it has no name
	ID     string
	Rights Rights
	Trust  Trust
}

// MayAsk is nil if the peer may be a publisher to this device.
func (p Peer) MayAsk() error {
	if p.Rights&Ask != 0 {
		return nil
	}
	return fedkv.Errorf(fedkv.CodeForbidden, "its owner lets this device contribute but not ask: "+
		"the owner can change that with fedattn peers set --rights both %s", p.call())
}

// MayContribute is nil if the peer may bring rows into sessions in which this device takes part.
func (p Peer) MayContribute() error {
	if p.Rights&Contribute != 0 {
		return nil
	}
	return fedkv.Errorf(fedkv.CodeForbidden, "its owner lets this device ask but not contribute: "+
		"the owner can change that with fedattn peers set --rights both %s", p.call())
}

// MayHaveRows is nil if rows of this device may go to the peer.
func (p Peer) MayHaveRows() error {
	if p.Trust == Rows {
		return nil
	}
	return fedkv.Errorf(fedkv.CodeHome, "its owner trusts this device only with what stays home: ask with --schedule home, "+
		"or let the owner hand rows over with fedattn peers set --trust rows %s", p.call())
}

// call is how the owner names the peer on a command line.
func (p Peer) call() string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID
}
