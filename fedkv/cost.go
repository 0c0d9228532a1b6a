package fedkv

import (
	"fmt"
	"math"
	"time"
)

// Case is a session before it runs, as far as its cost depends on it.
type Case struct {
	Shape        Shape
	Schedules    Schedules
	Wire         Wire
	Home         Type // 0: rows are sent; F16 or Q8_0: contributors' rows stay with them, and queries travel in this type
	Prefix       int  // tokens
	Participants []Planned
	Answer       int // tokens that follow the first, for what the whole answer costs

	MicroBatch int     // tokens that are evaluated together in gather; 0: 512
	Incoming   float64 // bytes of rows a second that reach the publisher from all contributors together; 0: no limit but theirs
	Connected  bool    // links are open already
	PrefixKept bool    // contributors have evaluated this prefix before
}

// Planned is a participant of a Case. Participants are in token order, the publisher is the last one.
type Planned struct {
	Name   string
	Tokens int // of its segment, at least 1
	Speed  Speed
	Way    Way // to the publisher; of no meaning for itself
	Model  ModelSize
	Local  bool // the publisher's own documents: nothing crosses a network, and nothing has to stay anywhere
	Kept   bool // the rows were computed before, and are sent at once
}

// Cost is what a session is expected to take. Moments are counted from the question.
type Cost struct {
	Received int64 // bytes that reach the publisher before the first token: rows with their headers, or answers to queries
	Sent     int64 // bytes that anybody sends before it, every copy
	Answer   int64 // bytes that cross the network for each token of the answer
	Rounds   int   // waits for the network before the first token, one after another, once all are ready

	Ready time.Duration // everybody is committed
	Rows  time.Duration // the last row that is waited for is here
	TTFT  time.Duration // the first token
	Total time.Duration // the last token of the answer

	TokensPerSecond float64 // of the answer
	Slowest         int     // the participant whose rows come last; the publisher if it waits for none
	Parts           []Part  // by participant

	Joules  float64 // until the end of the answer, of those whose Watts are known
	Metered int     // so many participants
}

// Part is one participant's.
type Part struct {
	Compute  time.Duration // evaluating, until the first token
	Transfer time.Duration // the time that its rows were on the way after they had been computed
	Sent     int64         // bytes, every copy
	Memory   Memory
}

// What a session costs besides arithmetic and bytes, in seconds, about as on loopback: keys and messages of a new link, the
// messages of a session, a round of queries, and choosing a token.
const (
	ConnectWork = 0.006
	SessionWork = 0.004
	RoundWork   = 60e-6
	SampleWork  = 0.001
)

// connectTrips are the round trips before a device says Ready: QUIC's handshake, Hello, Plan.
const connectTrips = 3

// KeysPart is how much of a layer's evaluation comes before its K and V rows are there.
const KeysPart = 0.15

// Cost predicts a session. It fails for a case that could not be a session.
func (c Case) Cost() (Cost, error) {
	if err := c.validate(); err != nil {
		return Cost{}, err
	}
	f := forecast{Case: c, layers: len(c.Shape.Layers), cost: Cost{Parts: make([]Part, len(c.Participants))}}
	if f.MicroBatch == 0 {
		f.MicroBatch = 512
	}
	tokens := make([]int, len(c.Participants))
	for i, p := range c.Participants {
		tokens[i] = p.Tokens
	}
	var err error
	if f.layout, err = NewLayout(c.Prefix, tokens); err != nil {
		return Cost{}, err
	}
	f.run()
	return f.cost, nil
}

func (c *Case) validate() error {
	layers := len(c.Shape.Layers)
	if err := first(c.Shape.Validate(), c.Schedules.Validate(layers), c.Wire.Validate(layers),
		check(len(c.Participants) >= 1, "a session of nobody"),
		check(c.Answer >= 0 && c.MicroBatch >= 0, "a negative number of tokens"),
		check(c.Home == 0 || c.Schedules.Regime() == Gather, "rows stay home in %v; that is for gather", c.Schedules.Regime())); err != nil {
		return err
	}
	if err := checkRows(c.Shape, c.Wire, c.Schedules.Any()); err != nil {
		return err
	}
	if c.Home != 0 {
		for _, l := range c.Schedules.Publisher.Layers() {
			if _, _, _, ok := c.Shape.Layers[l].HomeSizes(); !ok {
				return fmt.Errorf("attention at layer %d cannot be shared, so that rows cannot stay home", l)
			}
		}
	}
	for i, p := range c.Participants {
		if !p.Speed.Known() {
			return fmt.Errorf("nobody measured how fast participant %d evaluates the model", i)
		}
		if p.Way.RTT < 0 || p.Way.Up < 0 || p.Way.Down < 0 {
			return fmt.Errorf("participant %d has a path of less than nothing", i)
		}
	}
	return nil
}

// forecast is a Case that is being predicted. Times are seconds.
type forecast struct {
	Case
	layers int
	layout Layout
	cost   Cost
}

// publisher is the last participant's number.
func (f *forecast) publisher() int { return len(f.Participants) - 1 }

// stays reports whether a participant's rows answer queries instead of being sent.
func (f *forecast) stays(i int) bool {
	return f.Home != 0 && i < f.publisher() && !f.Participants[i].Local
}

func (f *forecast) run() {
	begin := f.setup()
	var end float64
	if f.Schedules.Regime() == Lockstep {
		end = f.lockstep(begin)
	} else {
		end = f.evaluate(f.gather(begin))
	}
	end += SampleWork
	f.cost.TTFT = seconds(end)
	step := f.step(f.Answer / 2)
	f.cost.TokensPerSecond = 1 / step
	f.cost.Total = seconds(end + step*float64(f.Answer))
	for i, p := range f.Participants {
		f.cost.Parts[i].Memory = f.memory(i)
		f.cost.Sent += f.cost.Parts[i].Sent
		if p.Speed.Watts > 0 {
			busy := f.cost.Parts[i].Compute.Seconds()
			if i == f.publisher() {
				busy += step * float64(f.Answer)
			}
			f.cost.Joules += p.Speed.Watts * busy
			f.cost.Metered++
		}
	}
}

// setup is when each participant may begin.
func (f *forecast) setup() (begin []float64) {
	trips, work := float64(connectTrips), ConnectWork+SessionWork
	if f.Connected {
		trips, work = 1, SessionWork
	}
	ready := 0.0
	for i, p := range f.Participants {
		if i < f.publisher() && !p.Local {
			ready = max(ready, trips*p.Way.RTT.Seconds()+work)
		}
	}
	f.cost.Ready = seconds(ready)
	begin = make([]float64, len(f.Participants))
	for i, p := range f.Participants {
		begin[i] = ready
		if i < f.publisher() && !p.Local {
			begin[i] += p.Way.RTT.Seconds() / 2
		}
	}
	return begin
}

// prefix is the seconds that a participant evaluates the prefix for.
func (f *forecast) prefix(i int) float64 {
	if f.Prefix == 0 || f.PrefixKept && i < f.publisher() {
		return 0
	}
	return f.Participants[i].Speed.Prefill(f.Shape, 0, f.Prefix, f.MicroBatch)
}

// depth is how many rows the publisher's own tokens find in its cache at a layer, besides own ones.
func (f *forecast) depth(layer int) int {
	depth := f.Prefix
	if f.Schedules.Publisher.Sync(layer) {
		for i := range f.publisher() {
			if !f.stays(i) {
				depth += f.Participants[i].Tokens
			}
		}
	}
	return depth
}

// rowBytes is a token's K and V row of a layer as f16.
func (f *forecast) rowBytes(layer int) float64 {
	return bytesF16 * float64(f.Shape.Layers[layer].K+f.Shape.Layers[layer].V)
}

// memory is what a participant takes: see node's contributors and publishers.
func (f *forecast) memory(i int) Memory {
	p := f.Participants[i]
	own := f.Prefix + p.Tokens
	longest := max(p.Tokens, f.Prefix)
	spec := CacheSpec{LocalCells: own, SyncCells: own, Outputs: 1, MicroBatch: min(f.MicroBatch, longest)}
	waiting := p.Tokens
	if f.Schedules.Regime() == Lockstep {
		spec.MicroBatch, spec.Sync = longest, f.Schedules.Contributors
		spec.SyncCells = f.layout.Segments[i].End()
	}
	if f.stays(i) {
		waiting = 0
	}
	if i == f.publisher() {
		spec.Sync, waiting = f.Schedules.Publisher, 0
		spec.LocalCells += f.Answer
		spec.SyncCells = spec.LocalCells
		for j, o := range f.Participants[:i] {
			if !f.stays(j) {
				spec.SyncCells, waiting = spec.SyncCells+o.Tokens, waiting+o.Tokens
			}
		}
	}
	return MemoryOf(p.Model, f.Shape, spec, f.Wire, waiting)
}

// seconds is a time as people read it.
func seconds(s float64) time.Duration {
	if !(s < math.MaxInt64/2/float64(time.Second)) {
		return math.MaxInt64 / 2
	}
	return time.Duration(s * float64(time.Second))
}
