package node

import (
	"slices"
	"time"

	"fedattn/fedkv"
)

// Report is what a session did, for its user. Times are in milliseconds.
type Report struct {
	Session fedkv.SessionID
	Started time.Time
	Regime  fedkv.Regime
	Layout  fedkv.Layout // evaluated token stream
	Own     int          // tokens of the publisher's segment
	Notes   []string

	SetupMS   float64 // until the participants were frozen
	WaitMS    float64 // until the rows were here (gather)
	SyncMS    float64 // placing rows; in lockstep, waiting for them too
	PrefillMS float64 // the own segment, without SyncMS
	TTFTMS    float64 // until the first token of the answer
	DecodeMS  float64
	Decoded   int // tokens of the answer

	Peers []PeerReport
}

// PeerReport is one contributor's part.
type PeerReport struct {
	Origin     int
	Name       string
	ID         string
	Tokens     int
	Rows       int   // over all layers
	Bytes      int64 // received rows
	PrefillMS  float64
	TransferMS float64        // from its first block's arrival to its last's
	Missing    *fedkv.Missing // nil: it contributed
}

// Present is how many contributors the answer rests on.
func (r *Report) Present() int {
	n := 0
	for _, p := range r.Peers {
		if p.Missing == nil {
			n++
		}
	}
	return n
}

// Received is how many bytes of rows came.
func (r *Report) Received() int64 {
	var n int64
	for _, p := range r.Peers {
		n += p.Bytes
	}
	return n
}

func since(t time.Time) float64 { return milliseconds(time.Since(t)) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Report is what the session did so far.
func (s *Session) Report() Report {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	r := s.report
	r.Notes = slices.Clone(r.Notes)
	missing := s.machine.Missing()
	for origin := range s.q.Contacts {
		p := PeerReport{Origin: origin, Name: s.names[origin]}
		if link := s.links[origin]; link != nil {
			p.ID = link.ID()
		}
		if segment, ok := r.Layout.Segment(origin); ok {
			p.Tokens = segment.Tokens
		}
		p.Rows, p.Bytes = s.machine.Received(origin)
		if t := s.x.traffic[origin]; t != nil {
			p.PrefillMS = t.done.PrefillMS
			p.TransferMS = float64(t.last.Sub(t.first)) / float64(time.Millisecond)
		}
		for i := range missing {
			if missing[i].Origin == origin {
				p.Missing = &missing[i]
				p.Name = missing[i].Name
			}
		}
		r.Peers = append(r.Peers, p)
	}
	return r
}
