package simulate

import (
	"container/heap"
	"fmt"
	"time"

	"fedattn/fedkv"
)

// event is something at a moment; those of one moment happen in the order in which they were planned.
type event struct {
	at    float64
	order int
	do    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(event)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// access is the receiving end of a device: what comes over all of its links.
type access struct{ rate, free float64 }

// take is when bytes whose last one arrives at a moment are through.
func (a *access) take(at float64, bytes int) float64 {
	if a.rate > 0 {
		at = max(at, a.free+float64(bytes)/a.rate)
		a.free = at
	}
	return at
}

// world is a session under way. Times are seconds.
type world struct {
	cfg      Config
	now      float64
	queue    queue
	planned  int
	events   int
	err      error
	answered bool

	sessions []*session
	in       access
	out      *fedkv.Pipe
	ready    float64
	rows     float64
	ttft     float64
	total    float64
	busy     float64 // of the publisher
	pass     *pass   // of the publisher, once it evaluates
	prefix   float64 // when the publisher has evaluated the prefix, once everybody is committed
	received int64
	sent     int64
	control  int64
}

func newWorld(cfg Config) *world {
	p := cfg.Publisher.Way
	return &world{cfg: cfg, in: access{rate: p.Down}, out: &fedkv.Pipe{Rate: p.Up}}
}

// after plans something.
func (w *world) after(at float64, do func()) {
	heap.Push(&w.queue, event{max(at, w.now), w.planned, do})
	w.planned++
}

func (w *world) advance() {
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	e.do()
}

func (w *world) fail(err error) {
	if w.err == nil && err != nil {
		w.err = err
	}
}

// refused is for what a machine says of honest participants' events: those about a session that goes on without somebody are
// part of it.
func (w *world) refused(what string, err error) {
	switch fedkv.CodeOf(err) {
	case 0, fedkv.CodeLost, fedkv.CodeSession, fedkv.CodeDeadline, fedkv.CodeDuplicate:
		return
	}
	w.fail(fmt.Errorf("%s: %w", what, err))
}

func moment(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// size is what a message takes on the wire. One that no control stream carries ends the session.
func (w *world) size(m fedkv.Message) int {
	b, err := fedkv.AppendMessage(nil, m)
	if err != nil {
		w.fail(fmt.Errorf("a message of the session cannot be sent: %w", err))
		return 0
	}
	w.control += int64(len(b))
	return len(b)
}

func (w *world) result() Result {
	r := Result{
		Ready: moment(w.ready), Rows: moment(w.rows), TTFT: moment(w.ttft), Total: moment(w.total), Sessions: len(w.sessions),
		Received: w.received, Sent: w.sent, Control: w.control, Events: w.events,
	}
	for _, s := range w.sessions {
		missing := len(s.machine.Missing())
		r.Missing += missing
		r.Present += len(s.members) - missing
		for _, m := range s.members {
			r.Busy = append(r.Busy, moment(m.busy))
			if m.device.Speed.Watts > 0 {
				r.Joules += m.device.Speed.Watts * m.busy
				r.Metered++
			}
		}
	}
	r.Busy = append(r.Busy, moment(w.busy))
	if watts := w.cfg.Publisher.Speed.Watts; watts > 0 {
		r.Joules += watts * w.busy
		r.Metered++
	}
	return r
}

// pass is the publisher's evaluation of its segment, layer by layer.
type pass struct {
	speed  fedkv.Speed
	tokens int
	layer  int
	keys   bool // of the layer are computed, and others' rows are all that is missing
}

// rowBytes are of a token's rows of a layer as f16.
func (w *world) rowBytes(layer int) float64 {
	return 2 * float64(w.cfg.Shape.Layers[layer].K+w.cfg.Shape.Layers[layer].V)
}

func hello(name string, layers int, role fedkv.Role) fedkv.Hello {
	return fedkv.Hello{
		Protocol: fedkv.Protocol, Name: name, Engine: "simulation", Role: role,
		Model: fedkv.Fingerprint{Architecture: "simulation", Layers: layers},
		Types: []fedkv.Type{fedkv.Q8_0, fedkv.Q4_0, fedkv.F16, fedkv.Q5_1, fedkv.Q4_1, fedkv.NF3},
	}
}
