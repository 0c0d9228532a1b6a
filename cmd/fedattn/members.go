package main

import (
	"context"
	"sync"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/policy"
	"fedattn/transport"
)

// members are the devices that may deal with a node: those that it is paired with, and those that flags name. What the
// known_peers file says counts from the moment it is written.
type members struct {
	dir     string
	flagged map[transport.ID]bool // --allow
	anybody bool                  // --allow-any, or a node that only this machine reaches

	mu    sync.Mutex
	known transport.KnownPeers
}

// readMembers finds out who may deal with a node. Without anybody, only this machine may ask: rows go to nobody whom the
// owner did not name.
func readMembers(c *cli.Context) (*members, error) {
	dir, err := configDir(c)
	if err != nil {
		return nil, err
	}
	m := &members{dir: dir, flagged: map[transport.ID]bool{}, anybody: c.Bool("allow-any")}
	for _, text := range c.StringSlice("allow") {
		id, err := transport.ParseID(text)
		if err != nil {
			return nil, usagef("--allow %q: %v; fedattn id prints it on the device that asks", text, err)
		}
		m.flagged[id] = true
	}
	if m.known, err = transport.LoadKnownPeers(dir); err != nil {
		return nil, err
	}
	switch {
	case m.anybody && len(m.flagged) > 0:
		return nil, usagef("--allow and --allow-any contradict each other: choose one")
	case m.anybody || len(m.flagged) > 0 || len(m.known) > 0:
	case !isLoopback(c.String("listen")):
		return nil, usagef("nobody may ask at --listen %s: pair this device with others by fedattn invite, or name each asking device "+
			"with --allow ID (fedattn id prints it there), or say --allow-any; only a node at 127.0.0.1 needs none of them", c.String("listen"))
	default:
		m.anybody = true
	}
	return m, nil
}

// find is what the owner said of a device, and whether anything.
func (m *members) find(id transport.ID) (policy.Peer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, paired := m.known.ByID(id)
	if m.flagged[id] { // on the command line, which is newer than any pairing
		return policy.Peer{Name: known.Name, ID: string(id), Rights: policy.Both, Trust: policy.Rows}, true
	}
	if paired {
		return known.Policy(), true
	}
	return policy.Peer{ID: string(id), Rights: policy.Both, Trust: policy.Rows}, m.anybody
}

// allow says who may connect. What it may do then is asked when it says what it wants.
func (m *members) allow(id transport.ID) error {
	_, err := m.peer(string(id))
	return err
}

// peer is what the owner said of a device, which may have been taken out since it connected.
func (m *members) peer(id string) (policy.Peer, error) {
	p, found := m.find(transport.ID(id))
	if !found {
		// read on both sides: in the asker's error and in the node's log
		return p, fedkv.Errorf(fedkv.CodeForbidden, "the owner has to pair the devices with fedattn invite, or to allow it with --allow %s", id)
	}
	return p, nil
}

// watch keeps to the known_peers file until the context ends, and cuts off whom it no longer has.
func (m *members) watch(ctx context.Context, endpoint *transport.Endpoint, log zerolog.Logger) {
	m.mu.Lock()
	known := m.known
	m.mu.Unlock()
	transport.WatchKnownPeers(ctx, m.dir, known, func(now transport.KnownPeers, err error) {
		if err != nil {
			log.Error().Err(err).Msg("nobody counts as known until the list of peers can be read")
		}
		m.mu.Lock()
		before := m.known
		m.known = now
		m.mu.Unlock()
		for _, p := range before {
			if _, found := m.find(p.ID); !found {
				log.Warn().Str("peer", string(p.ID)).Str("name", p.Name).Msg("removed: its connections end")
				endpoint.Disconnect(p.ID, fedkv.CodeForbidden, "the owner has removed this device")
			}
		}
		log.Info().Int("known", len(now)).Msg("peers changed")
	})
}

// describe says in words what a device may do, and what it gets.
func describe(rights policy.Rights, trust policy.Trust) string {
	what := map[policy.Rights]string{policy.Ask: "may ask", policy.Contribute: "may contribute", policy.Both: "may ask and contribute"}[rights]
	if trust == policy.Rows {
		return what + ", and may get rows, from which it could recover texts (trust rows)"
	}
	return what + ", and gets no rows of texts (trust home)"
}
