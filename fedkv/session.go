package fedkv

import (
	"fmt"
	"time"
)

// A session is run by two deterministic machines, Publisher and Contributor. They own the order of the
// protocol and every decision: who is in, who is missing and why, what to send, which block may be read, when
// the participants are frozen and when all rows are here. A driver owns the rest: it moves messages and
// blocks, evaluates tokens and tells the time. It uses either machine in the same way:
//
//	machine.Step(event)      // something happened; an error says what was refused, see Step
//	ready := machine.Ready() // what is to be done since the last Advance
//	machine.Advance()        // taken over
//
// A machine has no lock, no clock and no randomness: one goroutine at a time, and the same events give the
// same outputs. Time is a duration since any fixed moment, the same for all events of one machine.

// PublisherLink stands for the publisher in a Contributor's events and outputs: the link is there before the
// publisher's origin is known.
const PublisherLink = -1

// Event is something that happened to a participant.
type Event interface{ event() }

// PeerUp is for Publisher: the device that was asked to be contributor Origin answered with Welcome.
type PeerUp struct {
	Origin  int
	Welcome Welcome
	ID      string // proved by the link
	Addr    string // host:port where other contributors reach it
}

// PeerDown says that a participant is out of reach: it could not be dialled, refused, its link broke, a block
// of it was cut short or held a value that is not finite. Code and Text say which; Text may be empty, and code
// 0 is CodeLost.
type PeerDown struct {
	Origin int
	Code   Code
	Text   string
}

// Received is a message of the participant From.
type Received struct {
	From    int
	Message Message
}

// BlockOffered is the header of a block that arrived over From's link, before anything of its payload is
// read. If Step returns an error, the payload must not be read. Otherwise the rows are reserved for it, and
// BlockIn or PeerDown has to follow.
type BlockOffered struct {
	From   int
	Header BlockHeader
}

// BlockIn says that a block's payload is here, complete and finite. Step's error means: throw it away.
type BlockIn struct {
	From   int
	Header BlockHeader
}

// BlockSent is for Contributor: a block that Blocks had handed out is on its way to To.
type BlockSent struct {
	To     int
	Header BlockHeader
}

// Joined is for Contributor: a device with this proven identity opened a direct link and sent Join.
type Joined struct {
	ID   string
	Join Join
}

// Tokenised is for Contributor: the own segment has Count tokens.
type Tokenised struct{ Count int }

// Queried is for Publisher, if its policy is RowsQuery: what the own segment looks for, by layer of the model; only sync
// layers count. It comes once, at any time: contributors wait for it after the commit.
type Queried struct{ Layers []Query }

// Kept is for Contributor, if its plan says that rows stay home: all of them are computed, and queries can be answered.
type Kept struct{}

// Queued is for Contributor: the session waits for its turn to use the engine, at this place of the queue, for about so
// long (0: nobody knows).
type Queued struct {
	Place int
	Wait  time.Duration
}

// Tick tells the time. Deadlines pass only with it.
type Tick struct{ Now time.Duration }

// Stopped ends the session from this side: a person cancelled it (code 0 too), the engine failed, there is no
// room for it.
type Stopped struct {
	Code Code
	Text string
}

func (PeerUp) event()       {}
func (PeerDown) event()     {}
func (Received) event()     {}
func (BlockOffered) event() {}
func (BlockIn) event()      {}
func (BlockSent) event()    {}
func (Joined) event()       {}
func (Tokenised) event()    {}
func (Queried) event()      {}
func (Kept) event()         {}
func (Queued) event()       {}
func (Tick) event()         {}
func (Stopped) event()      {}

// Outbound is a message to send.
type Outbound struct {
	To      int
	Message Message
}

// Phase says how far a participant had come.
type Phase string

// The phases.
const (
	PhaseConnect  Phase = "connect"  // not welcomed yet
	PhaseSetup    Phase = "setup"    // has its plan, has not said Ready
	PhasePrefill  Phase = "prefill"  // committed, no row of it is here
	PhaseTransfer Phase = "transfer" // some of its rows are here
	PhaseAnswer   Phase = "answer"   // it answered queries, or could have
)

// Missing names a participant that the session goes on without, and why.
type Missing struct {
	Origin int
	Name   string // as it called itself; before it did, as the publisher's owner calls it
	Code   Code
	Text   string // one sentence, never empty
	Phase  Phase
	Layer  int // first layer of which not all its rows are here; -1 before the prefill
}

// String is one line for the user.
func (m Missing) String() string {
	who := fmt.Sprintf("contributor %d", m.Origin)
	if m.Name != "" {
		who = fmt.Sprintf("%s (%s)", m.Name, who)
	}
	s := fmt.Sprintf("%s is missing since %s", who, m.Phase)
	if m.Layer >= 0 {
		s += fmt.Sprintf(", layer %d", m.Layer)
	}
	return fmt.Sprintf("%s: %s (%v)", s, m.Text, m.Code)
}

func (m Missing) err() error { return &Error{m.Code, m.String()} }

// cause is why a participant went, as the driver saw it: a link that just ended has no code of its own.
func cause(code Code, text string, otherwise Code) *Error {
	if code == 0 {
		code = otherwise
	}
	return &Error{code, (&Error{code, text}).Error()}
}

// farewell reports whether an event may come when a participant's part is over: what says that it is, or was
// under way when it ended. It is then ignored.
func farewell(e Event) bool {
	switch e := e.(type) {
	case Tick, PeerDown, Stopped, BlockSent:
		return true
	case Received:
		switch e.Message.(type) {
		case Refuse, Abort, Done, Receipt, Ping, Relay, Withdraw:
			return true
		}
	}
	return false
}

// Greet answers a Hello: Welcome, with a note if only the weights differ, or Refuse. It fails exactly when it
// refuses. Every link begins so, direct ones between contributors too.
func Greet(self, peer Hello) (Message, error) {
	if err := self.Compatible(peer); err != nil {
		return RefuseOf(err), err
	}
	if peer.Role != RolePublisher && peer.Role != RoleContributor {
		err := Errorf(CodeProtocol, "the peer says it is %v", peer.Role)
		return RefuseOf(err), err
	}
	return self.Welcome(weightsNote(self, peer)), nil
}

// weightsNote says aloud that two files of one model hold other weights; it is empty if they do not.
func weightsNote(self, peer Hello) string {
	if self.Model.SameWeights(peer.Model) {
		return ""
	}
	return CleanText(fmt.Sprintf("%s and %s run the same model with different weights (another quantisation?): answers will differ a little from a run with one file", self.Name, peer.Name))
}

// checkTypesOffered reports a row type of a session's layers that a peer did not offer. The flags of types are part
// of the protocol, and not offered.
func checkTypesOffered(peer Hello, wire Wire, layers Schedule) error {
	for _, l := range layers.Layers() {
		for _, t := range []Type{wire.At(l).K, wire.At(l).V} {
			if !offers(peer, t.Base()) {
				return Errorf(CodeTypes, "%s does not offer row type %v", peer.Name, t.Base())
			}
		}
	}
	return nil
}

func offers(h Hello, t Type) bool {
	for _, o := range h.Types {
		if o == t {
			return true
		}
	}
	return false
}

// checkRows reports the first layer of a schedule whose rows cannot be stored in the session's types.
func checkRows(shape Shape, wire Wire, layers Schedule) error {
	for _, l := range layers.Layers() {
		if _, _, err := shape.Layers[l].BlockSize(wire.At(l), 1); err != nil {
			return Errorf(CodeOf(err), "layer %d: %v", l, err)
		}
	}
	return nil
}

// waitBy is until when a participant waits for rows of earlier ones. The publisher waits until the deadline;
// the contributors before it give up earlier, each in turn, so that one straggler does not take the whole
// chain over the deadline with it: half of the time is everybody's, the other half is shared out by rank.
func waitBy(start, deadline time.Duration, rank, participants int) time.Duration {
	steps := time.Duration(2 * max(1, participants-1))
	return start + (deadline-start)*(time.Duration(participants-1+rank))/steps
}
