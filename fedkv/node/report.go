package node

import (
	"maps"
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
	Own     int          // tokens of the publisher's segment, in a conversation those of this turn
	Reused  int          // tokens that were in the cache before this turn, others' included
	Again   int          // of these, how many were evaluated again because somebody was withdrawn
	Notes   []string

	SetupMS   float64 // until the participants were frozen
	WaitMS    float64 // until the rows were here (gather)
	SyncMS    float64 // placing rows; in lockstep, waiting for them too
	PrefillMS float64 // the own segment, without SyncMS
	TTFTMS    float64 // until the first token of the answer
	DecodeMS  float64
	Decoded   int // tokens of the answer
	Drafted   int // tokens that were guessed, to spare rounds of queries
	Accepted  int // of these, how many are in the answer

	Home HomeReport // rounds of rows that stayed home, in a conversation those of all turns

	Sources []Attended // whose rows the answer looked at, the most first; none if the engine does not tell

	Peers  []PeerReport
	Layers []LayerReport // of this device, ascending; none in a turn to which nobody's rows came
}

// LayerReport is a sync layer of the publisher's evaluation.
type LayerReport struct {
	Layer   int
	WaitMS  float64 // until the rows were here (lockstep): in gather they are before the evaluation begins
	PlaceMS float64
}

// LayerRows is what came of a contributor for a layer.
type LayerRows struct {
	Layer int
	Rows  int
	Bytes int64
	Last  time.Time // when its last block came
}

// PeerReport is one contributor's part.
type PeerReport struct {
	Origin     int
	Name       string
	ID         string
	Tokens     int
	Rows       int            // over all layers
	Bytes      int64          // received rows
	Sources    []fedkv.Source // of which documents its tokens are, in order, as it says; nil if it does not say
	Asked      bool           // it was told the question, to choose passages by it
	PrefillMS  float64
	TransferMS float64        // from its first block's arrival to its last's
	Via        []Via          // later contributors that its rows reached through this device (lockstep)
	Missing    *fedkv.Missing // nil: it contributed
	Layers     []LayerRows    // ascending
	// SilentMS is how long one that is missing had given no sign of life: no packet, of one whose link fell silent, or no
	// message and no row, of one that was late. 0 of those who are missing for another reason.
	SilentMS float64
}

// Via is a contributor that another one's rows reached through the publisher.
type Via struct {
	Name  string
	Bytes int64 // of rows
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

// byLayer is the values of a map in the order of its keys.
func byLayer[V any](m map[int]V) (list []V) {
	for _, layer := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[layer])
	}
	return list
}

func since(t time.Time) float64 { return milliseconds(time.Since(t)) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Report is what the turn did so far, or the last one. Everybody who was asked and not withdrawn is in it; rows, bytes and
// times are of those that came with this turn.
func (c *Conversation) Report() Report {
	c.mu.Lock()
	r := c.report
	earlier := make([]bool, len(c.shares))
	var gatherings []*gathering
	for i, s := range c.shares {
		earlier[i] = s.earlier
		if g := s.gathering; g != nil && !slices.Contains(gatherings, g) {
			gatherings = append(gatherings, g)
		}
	}
	c.mu.Unlock()
	for _, g := range gatherings {
		g.x.mu.Lock()
		r.Session, r.Notes = g.id, append(r.Notes, g.notes...)
		g.x.mu.Unlock()
	}
	for _, s := range c.Shares() {
		if s.State == ShareWithdrawn {
			continue
		}
		p := s.PeerReport
		if s.Number < len(earlier) && earlier[s.Number] {
			p.Rows, p.Bytes, p.PrefillMS, p.TransferMS, p.Layers = 0, 0, 0, 0, nil
		}
		r.Peers = append(r.Peers, p)
	}
	return r
}
