package node

import (
	"context"
	"slices"

	"fedattn/fedkv"
)

// maxGiven bounds the sessions of one link that are remembered for Withdraw: the oldest are forgotten first.
const maxGiven = 16

// given is a session that is over, and what its publisher got.
type given struct {
	session fedkv.SessionID
	sources []fedkv.Source
}

// gave remembers a session whose link goes on.
func (c *Contributor) gave(ctx context.Context, link Link, s *contribution) {
	c.mu.Lock()
	s.x.mu.Lock()
	g, withdrawn := given{s.plan.Session, s.sources}, s.withdrawn
	s.x.mu.Unlock()
	if len(g.sources) > 0 && withdrawn == "" {
		list := append(c.given[link], g)
		c.given[link] = slices.Clone(list[max(0, len(list)-maxGiven):])
	}
	c.mu.Unlock()
	if withdrawn != "" && withdrawn != wasTold {
		c.tell(ctx, link, g.session, withdrawn)
	}
}

// wasTold is the reason of a withdrawal about which the publisher knows.
const wasTold = "told"

// tell asks the publisher of a session that is over to forget its rows.
func (c *Contributor) tell(ctx context.Context, link Link, session fedkv.SessionID, why string) bool {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return link.Send(ctx, fedkv.Withdraw{Session: session, Text: why}) == nil
}

// parted forgets what went over a link that has ended.
func (c *Contributor) parted(link Link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.given, link)
}

// Withdraw asks every publisher that may hold rows of certain documents, and is connected, to forget them, and ends the
// sessions under way that have not sent all of theirs. It returns how many were told. Whether they comply nobody knows.
func (c *Contributor) Withdraw(ctx context.Context, gone func(document string) bool, why string) (told int) {
	of := func(sources []fedkv.Source) bool {
		return slices.ContainsFunc(sources, func(s fedkv.Source) bool { return s.Name != "" && gone(s.Name) })
	}
	why = fedkv.CleanText(why)
	type notice struct {
		link    Link
		session fedkv.SessionID
	}
	var notices []notice
	c.mu.Lock()
	for link, list := range c.given {
		kept := list[:0:0]
		for _, g := range list {
			if of(g.sources) {
				notices = append(notices, notice{link, g.session})
			} else {
				kept = append(kept, g)
			}
		}
		c.given[link] = kept
	}
	var running []*contribution
	for _, s := range c.sessions {
		running = append(running, s)
	}
	c.mu.Unlock()
	for _, s := range running {
		s.x.mu.Lock()
		if of(s.sources) && s.withdrawn == "" {
			if s.x.stepLocked(fedkv.Withdrawn{Text: why}) == nil {
				told++
				s.withdrawn = wasTold
			} else {
				s.withdrawn = why // it is just over: whoever holds its link tells it
			}
		}
		s.x.mu.Unlock()
	}
	for _, n := range notices {
		if c.tell(ctx, n.link, n.session, why) {
			told++
		}
	}
	return told
}

// documents names what the segment is of, each once; the exchange's lock is held.
func (s *contribution) documents() (names []string) {
	for _, d := range s.sources {
		if d.Name != "" && !slices.Contains(names, d.Name) {
			names = append(names, d.Name)
		}
	}
	if len(s.sources) == 0 {
		return s.grant.Documents
	}
	return names
}
