package node

import (
	"context"

	"fedattn/fedkv"
)

// Owner decides for a contributor's owner, peer by peer. Its errors reach the peer with their codes and sentences. Its
// methods are called from several goroutines.
type Owner interface {
	// Admit is asked when a peer has said what it wants to be: a publisher to this device, or a contributor beside it. The
	// grant is for one session.
	Admit(peer string, role fedkv.Role) (Grant, error)
	// Consent is asked when a publisher's plan is here and the segment has its tokens, before anything is computed. It may
	// wait for a person until the context ends.
	Consent(ctx context.Context, r Request) error
}

// Grant is what a publisher may have in one session.
type Grant struct {
	MinLayer  int      // rows of earlier layers stay here
	Home      bool     // all rows stay here: they answer queries
	MaxTokens int      // longest segment; 0: no limit of its own
	MaxBytes  int64    // of rows, all copies; 0: no limit
	Source    Source   // nil: ContributorConfig.Source
	Documents []string // names of what the source holds, for Contribution
}

// Request is what a session is about to take from this device.
type Request struct {
	Peer   string // identity of the publisher
	Name   string // what it calls itself
	Plan   fedkv.Plan
	Tokens int   // of the segment
	Bytes  int64 // of its rows that the publisher would get, once; 0 if they stay home
}

// least is the smaller of two limits of which 0 is none.
func least(a, b int) int {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func (c *Contributor) admit(peer string, role fedkv.Role) (Grant, error) {
	if c.cfg.Owner == nil {
		return Grant{}, nil
	}
	return c.cfg.Owner.Admit(peer, role)
}

// consent asks the owner about the session that the plan describes.
func (s *contribution) consent(tokens int) error {
	if s.host.cfg.Owner == nil {
		return nil
	}
	r := Request{Peer: s.link.ID(), Name: s.asker, Plan: *s.plan, Tokens: tokens}
	for _, l := range r.Plan.Schedules.Publisher.Layers() {
		if r.Plan.Home != 0 {
			break
		}
		share := 1.0
		if shares := r.Plan.Rows.Shares; len(shares) > 0 {
			share = float64(shares[min(l, len(shares)-1)]) / float64(fedkv.WholeShare)
		}
		k, v, err := s.x.shape.Layers[l].BlockSize(r.Plan.Wire.At(l), 1)
		if err != nil {
			return err
		}
		r.Bytes += int64(share * float64(tokens) * float64(k+v))
	}
	return s.host.cfg.Owner.Consent(s.x.live, r)
}

// spend takes bytes to be sent to some recipients out of the grant.
func (s *contribution) spend(recipients, bytes int) error {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	s.queued += int64(recipients) * int64(bytes)
	if most := s.grant.MaxBytes; most > 0 && s.queued > most {
		return fedkv.Errorf(fedkv.CodeLimit, "its owner lets out at most %d more bytes of rows, and this session needs more: "+
			"ask with a smaller --wire or fewer --rows", most)
	}
	return nil
}
