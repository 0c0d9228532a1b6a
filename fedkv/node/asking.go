package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"fedattn/fedkv"
)

// asking is the publisher's side of rows that stay home: at each of its layers the queries go to all contributors that
// hold such rows, these attend at the same time, and their answers are merged with attention over the own cache. Whoever
// does not answer in time, or wrongly, is out from that layer on.
type asking struct {
	layers  fedkv.Schedule
	shape   fedkv.Shape
	typ     fedkv.Type
	timeout time.Duration
	members []*asked
	note    func(line string)
	said    func() int // tokens of the answer so far

	mu   sync.Mutex
	open []Rounds // streams of the members

	ctx     context.Context         // of the evaluation under way
	began   time.Time               // of the round under way
	waits   []time.Duration         // of rounds of one token, the last ones
	times   map[int][]time.Duration // the same by layer
	payload []byte
	report  HomeReport
}

// lastWords is how long a contributor whose stream ended may take to say why.
const lastWords = 200 * time.Millisecond

// maxWaits bounds how many rounds are remembered for their times.
const maxWaits = 1 << 16

// asked is a contributor that answers queries.
type asked struct {
	share   *share
	link    Link
	conn    roundConn
	round   uint32
	expect  fedkv.RoundHeader // of the answer that is to come
	waiting bool
	partial fedkv.Partial
}

// HomeReport is what rows that stayed home cost. A round is one question to all contributors at one layer.
type HomeReport struct {
	Rounds   int
	WaitMS   float64 // for answers, after the own attention was computed
	Sent     int64   // bytes of queries, every copy
	Received int64   // bytes of answers
	MedianUS float64 // microseconds from question to last answer, of rounds with one token
	P95US    float64
	Layers   []HomeLayer // ascending
}

// HomeLayer is the rounds with one token at a layer: microseconds from question to last answer.
type HomeLayer struct {
	Layer, Rounds          int
	MinUS, MedianUS, MaxUS float64
}

// home is what the cache has to do for it.
func (a *asking) home() *Home { return &Home{Layers: a.layers, Ask: a.ask, Merge: a.merge} }

// begin makes ctx interrupt the rounds to come, until release is called.
func (a *asking) begin(ctx context.Context) (release func()) {
	a.ctx = ctx
	stop := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, stream := range a.open {
			_ = stream.SetDeadline(time.Unix(1, 0))
		}
	})
	return func() { stop() }
}

// ask sends the queries to everybody.
func (a *asking) ask(layer, first, n int, queries []float32) error {
	if len(a.members) == 0 {
		return nil
	}
	shape := a.shape.Layers[layer]
	elements, _, _, _ := shape.HomeSizes()
	h, err := fedkv.RoundHeader{Layer: layer, Tokens: n, First: first, Type: a.typ}.Sized(shape)
	if err != nil {
		return err
	}
	if a.payload, err = h.AppendValues(a.payload[:0], queries, elements); err != nil {
		return err
	}
	a.began = time.Now()
	a.report.Rounds++
	return a.each(layer, func(m *asked) error {
		if m.conn.stream == nil {
			ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
			defer cancel()
			stream, err := m.link.OpenRounds(ctx)
			if err != nil {
				return err
			}
			m.conn.stream = stream
			a.mu.Lock()
			a.open = append(a.open, stream)
			a.mu.Unlock()
		}
		h.Round, h.Offset = m.round, m.share.at
		if m.expect, err = h.Answers(shape); err != nil {
			return err
		}
		m.round++
		m.waiting = true
		a.report.Sent += int64(h.Length)
		return m.conn.write(h, a.payload, a.timeout)
	})
}

// merge waits for the answers and merges them with the own attention.
func (a *asking) merge(layer, _, n int, own fedkv.Partial) error {
	if len(a.members) == 0 {
		return nil
	}
	shape := a.shape.Layers[layer]
	waiting := time.Now()
	var partials []fedkv.Partial
	err := a.each(layer, func(m *asked) error {
		if !m.waiting {
			return nil
		}
		m.waiting = false
		h, payload, err := m.conn.read(func(h fedkv.RoundHeader) error {
			if h != m.expect {
				return fedkv.Errorf(fedkv.CodeRange, "it answered something else than it was asked")
			}
			return nil
		}, a.timeout)
		if err != nil {
			return err
		}
		m.partial = resized(m.partial, shape, n)
		if err := h.ReadPartial(m.partial, shape, payload); err != nil {
			return err
		}
		a.report.Received += int64(h.Length)
		partials = append(partials, m.partial)
		return nil
	})
	if err != nil {
		return err
	}
	a.report.WaitMS += since(waiting)
	if n == 1 && len(a.waits) < maxWaits {
		took := time.Since(a.began)
		a.waits = append(a.waits, took)
		if a.times == nil {
			a.times = map[int][]time.Duration{}
		}
		a.times[layer] = append(a.times[layer], took) // bounded with waits
	}
	own.Merge(partials...)
	return nil
}

// each calls do for every member, and goes on without those for whom it fails. Its error ends the evaluation: this side
// was interrupted, or a session cannot go on without them.
func (a *asking) each(layer int, do func(m *asked) error) error {
	for _, m := range slices.Clone(a.members) {
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		x := m.share.gathering.x
		missing := func() bool { _, gone := x.missing[m.share.origin]; return gone }
		x.mu.Lock()
		gone := missing()
		x.mu.Unlock()
		var err error
		if !gone {
			err = do(m)
		}
		if fedkv.CodeOf(err) == fedkv.CodeLost { // its reason may be on the way
			ctx, cancel := context.WithTimeout(a.ctx, lastWords)
			_ = x.await(ctx, missing)
			cancel()
		}
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		if gone || err != nil {
			a.drop(m)
			a.note(fmt.Sprintf("%s answers no more from token %d of the answer on, layer %d", m.share.contact.Name, a.said()+1, layer))
			if err != nil {
				x.lost(m.share.origin, err)
			}
		}
		if x.live.Err() != nil {
			return context.Cause(x.live)
		}
	}
	return nil
}

// shared is the layers at which others are asked: none if there are none.
func (a *asking) shared() fedkv.Schedule {
	if len(a.members) == 0 {
		return a.layers.Before(0)
	}
	return a.layers
}

func (a *asking) drop(m *asked) {
	a.members = slices.DeleteFunc(a.members, func(o *asked) bool { return o == m })
	if m.conn.stream != nil {
		a.mu.Lock()
		a.open = slices.DeleteFunc(a.open, func(r Rounds) bool { return r == m.conn.stream })
		a.mu.Unlock()
		_ = m.conn.stream.Close()
	}
}

// leave drops a share, if it is asked.
func (a *asking) leave(s *share) {
	for _, m := range slices.Clone(a.members) {
		if m.share == s {
			a.drop(m)
		}
	}
}

// summary is the report so far.
func (a *asking) summary() HomeReport {
	r := a.report
	if len(a.waits) == 0 {
		return r
	}
	at := quantiles(a.waits)
	r.MedianUS, r.P95US = at(0.5), at(0.95)
	layers := map[int]HomeLayer{}
	for layer, times := range a.times {
		at := quantiles(times)
		layers[layer] = HomeLayer{layer, len(times), at(0), at(0.5), at(1)}
	}
	r.Layers = byLayer(layers)
	return r
}

// quantiles of times, of which there is one at least, in microseconds.
func quantiles(times []time.Duration) func(q float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return func(q float64) float64 {
		return float64(sorted[int(q*float64(len(sorted)-1))]) / float64(time.Microsecond)
	}
}

// close ends the streams.
func (a *asking) close() {
	for _, m := range slices.Clone(a.members) {
		a.drop(m)
	}
}

// homeTokens is how many tokens of a layout are not in the publisher's cache: those of contributors whose rows stay home.
func homeTokens(layout fedkv.Layout, contacts []Contact) (tokens int) {
	for _, s := range layout.Segments {
		if s.Origin < len(contacts) && contacts[s.Origin].Home {
			tokens += s.Tokens
		}
	}
	return tokens
}

func anyHome(contacts []Contact) bool {
	return slices.ContainsFunc(contacts, func(c Contact) bool { return c.Home })
}

func allHome(contacts []Contact) bool {
	return anyHome(contacts) && !slices.ContainsFunc(contacts, func(c Contact) bool { return !c.Home })
}
