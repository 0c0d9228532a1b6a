package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// headStart is how long the known address of a peer may take to answer before the network is asked for another one.
const headStart = 300 * time.Millisecond

// errNowhere says that there is no address to dial.
var errNowhere = errors.New("no address")

// meeting is how a peer is reached that may have another address by now.
type meeting struct {
	known string // host:port, several with commas; empty: none
	dial  func(ctx context.Context, hostPorts string) (node.Link, error)
	find  func(ctx context.Context) (hostPorts string) // nil: nobody can be asked
}

// attempt is what came of dialling.
type attempt struct {
	link  node.Link
	err   error
	found bool // it was at an address that the network told
}

// meet dials the known address, and if that does not answer at once, asks the network and dials what is found too: the
// first link wins. An answer at the known address that is no link, such as a refusal, is the peer's word and ends it.
func (m meeting) meet(ctx context.Context) (node.Link, error) {
	if m.known == "" {
		if m.find != nil {
			if found := m.find(ctx); found != "" {
				return m.dial(ctx, found)
			}
		}
		return nil, errNowhere
	}
	if m.find == nil {
		return m.dial(ctx, m.known)
	}
	ctx, cancel := context.WithCancel(ctx)
	ends := make(chan attempt)
	early := time.NewTimer(headStart)
	defer early.Stop()
	go func() {
		link, err := m.dial(ctx, m.known)
		ends <- attempt{link: link, err: err}
	}()
	under, searching := 1, false
	search := func() {
		searching, under = true, under+1
		go func() {
			hostPorts := newAddresses(m.find(ctx), m.known)
			if hostPorts == "" {
				ends <- attempt{err: errNowhere, found: true}
				return
			}
			link, err := m.dial(ctx, hostPorts)
			ends <- attempt{link: link, err: err, found: true}
		}()
	}
	// whoever comes later finds nobody waiting
	defer func() {
		cancel()
		go func() {
			for range under {
				if a := <-ends; a.link != nil {
					_ = a.link.Close(0, "another link was faster")
				}
			}
		}()
	}()
	var failed error
	for {
		select {
		case <-early.C:
			if !searching {
				search()
			}
			continue
		case a := <-ends:
			under--
			switch {
			case a.err == nil:
				return a.link, nil
			case !a.found && fedkv.CodeOf(a.err) != fedkv.CodeLost:
				return nil, a.err
			case failed == nil || errors.Is(failed, errNowhere) || a.found && !errors.Is(a.err, errNowhere):
				failed = a.err
			}
		}
		switch {
		case !searching && ctx.Err() == nil:
			search()
		case under == 0:
			return nil, failed
		}
	}
}

// newAddresses are those of a list with commas that are not in another one.
func newAddresses(list, known string) string {
	have := strings.Split(known, ",")
	var fresh []string
	for hostPort := range strings.SplitSeq(list, ",") {
		if !slices.Contains(have, hostPort) {
			fresh = append(fresh, hostPort)
		}
	}
	return strings.Join(fresh, ",")
}
