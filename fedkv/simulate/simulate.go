// Package simulate runs whole sessions in virtual time: the machines that real devices run, fedkv.Publisher and
// fedkv.Contributor, with the compute and link times of fedkv's cost model in place of a model and a network. So it tells
// what a formula does not: deadlines, losses, relays, messages that grow with the number of participants, and where a
// regime breaks. It is pure and deterministic: equal configurations give equal results.
//
// Start reading at Run; publisher.go and contributor.go drive the two machines, world.go has the clock and the links.
package simulate

import (
	"fmt"
	"time"

	"fedattn/fedkv"
)

// Distribution is how a contributor's rows reach later contributors in lockstep.
type Distribution string

// The distributions. Mesh and Relay are the program's own. Tree is a thought: the machines are the same, but a block goes
// to a few recipients, which pass it on.
const (
	Mesh  Distribution = "mesh"  // over direct links
	Relay Distribution = "relay" // through the publisher, sealed
	Tree  Distribution = "tree"  // each block along a tree of its recipients
)

// branches is how many recipients a participant passes a block on to in a tree.
const branches = 2

// Device is a participant.
type Device struct {
	Kind   string
	Tokens int // of its segment
	Speed  fedkv.Speed
	Way    fedkv.Way     // between it and the publisher; for the publisher, Up and Down are its own link's, 0 for no limit
	Gone   time.Duration // when it disappears, without a word; 0: never
}

// Config is a session.
type Config struct {
	Shape        fedkv.Shape
	Schedules    fedkv.Schedules
	Wire         fedkv.Wire
	Prefix       int
	Contributors []Device
	Publisher    Device
	Answer       int // tokens after the first
	Distribution Distribution
	MicroBatch   int // of contributors in gather; 0: 512

	SetupBy, GatherBy time.Duration // 0: ten seconds, ten minutes
}

// Result is what became of it.
type Result struct {
	Ready, Rows, TTFT time.Duration // everybody committed; the last row that was waited for; the first token
	Total             time.Duration // the end of the answer
	Sessions          int           // machines of the publisher: more contributors than fit into one are asked in several
	Present, Missing  int           // contributors
	Received          int64         // bytes of blocks at the publisher, with headers
	Sent              int64         // bytes of blocks, every copy on every link
	Control           int64         // bytes of messages
	Joules            float64       // until the end of the answer, of those whose Watts are known
	Metered           int
	Events            int
	Busy              []time.Duration // evaluating, by contributor and then the publisher
}

// MaxEvents bounds a run.
const MaxEvents = 20_000_000

// Run plays a session to the answer's end. The error is the publisher's failure, or says why there can be no such session.
func Run(cfg Config) (Result, error) {
	if cfg.MicroBatch == 0 {
		cfg.MicroBatch = 512
	}
	if cfg.SetupBy == 0 {
		cfg.SetupBy = 10 * time.Second
	}
	if cfg.GatherBy == 0 {
		cfg.GatherBy = cfg.SetupBy + 10*time.Minute
	}
	if cfg.Distribution == "" {
		cfg.Distribution = Mesh
	}
	const most = fedkv.MaxParticipants - 1
	if len(cfg.Contributors) > most && cfg.Schedules.Regime() == fedkv.Lockstep {
		return Result{}, fmt.Errorf("%d contributors: in lockstep all are in one session, which has at most %d", len(cfg.Contributors), most)
	}
	w := newWorld(cfg)
	for first := 0; first == 0 || first < len(cfg.Contributors); first += most {
		if err := w.open(cfg.Contributors[first:min(first+most, len(cfg.Contributors))]); err != nil {
			return Result{}, err
		}
	}
	w.settled() // if nobody is asked
	for w.queue.Len() > 0 && w.err == nil && !w.answered {
		if w.events++; w.events > MaxEvents {
			return Result{}, fmt.Errorf("more than %d events", MaxEvents)
		}
		w.advance()
	}
	switch {
	case w.err != nil:
		return w.result(), w.err
	case !w.answered:
		return w.result(), fmt.Errorf("nothing happens any more, and there is no answer")
	}
	return w.result(), nil
}
