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
	find  func(ctx context.Context) (hostPorts string) // until the context ends; nil: nobody can be asked
}

// attempt is what came of dialling.
type attempt struct {
	link  node.Link
	err   error
	found bool // it was at an address that the network told
}

// meet dials the known address, and if that does not answer at once, asks the network and dials what is found too: the
// first link wins. The network is asked for findTime, and as long as the known address is being tried. An answer there that is
// no link, such as a refusal, is the peer's word and ends it.
func (m meeting) meet(ctx context.Context) (node.Link, error) {
	if m.known == "" {
		if m.find != nil {
			looking, cancel := context.WithTimeout(ctx, findTime)
			found := m.find(looking)
			cancel()
			if found != "" {
				return m.dial(ctx, found)
			}
		}
		return nil, errNowhere
	}
	if m.find == nil {
		return m.dial(ctx, m.known)
	}
	ctx, cancel := context.WithCancel(ctx)
	looking, enough := context.WithCancel(ctx)
	defer enough()
	ends, under := make(chan attempt), 1
	go func() {
		link, err := m.dial(ctx, m.known)
		ends <- attempt{link: link, err: err}
	}()
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
	early := time.After(headStart)
	var late <-chan time.Time // the network had its time
	searching, waited := false, false
	search := func() {
		searching, under, late = true, under+1, time.After(findTime)
		go func() {
			a := attempt{err: errNowhere, found: true}
			if hostPorts := newAddresses(m.find(looking), m.known); hostPorts != "" {
				a.link, a.err = m.dial(ctx, hostPorts)
			}
			ends <- a
		}()
	}
	var known, found error // why there is no link here and there
	for under > 0 {
		select {
		case <-early:
			if !searching {
				search()
			}
		case <-late:
			if waited = true; known != nil {
				enough()
			}
		case a := <-ends:
			under--
			switch {
			case a.err == nil:
				return a.link, nil
			case a.found:
				found = a.err
			case fedkv.CodeOf(a.err) != fedkv.CodeLost:
				return nil, a.err
			default:
				known = a.err
				if waited {
					enough()
				}
				if !searching && ctx.Err() == nil {
					search()
				}
			}
		}
	}
	if found == nil || errors.Is(found, errNowhere) {
		return nil, known
	}
	return nil, found
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
