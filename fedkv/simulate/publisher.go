package simulate

import (
	"fmt"

	"fedattn/fedkv"
)

// session is one machine of the publisher with those whom it asks. In gather there are as many as the contributors need.
type session struct {
	w         *world
	machine   *fedkv.Publisher
	members   []*member
	committed bool
	settled   *fedkv.Layout
	deadline  float64 // of the tick that is planned
}

// open starts a session with these contributors: every one is dialled at once.
func (w *world) open(devices []Device) error {
	cfg, layers := w.cfg, len(w.cfg.Shape.Layers)
	s := &session{w: w}
	prefix := make([]fedkv.Token, cfg.Prefix)
	positions := fedkv.Canonical
	if cfg.Schedules.Regime() == fedkv.Lockstep {
		positions = fedkv.InPlace
	}
	var err error
	s.machine, err = fedkv.NewPublisher(fedkv.PublisherConfig{
		Session: fedkv.SessionID{1, byte(len(w.sessions))}, Self: hello("publisher", layers, fedkv.RolePublisher), ID: name('p', 0),
		Shape: cfg.Shape, Schedules: cfg.Schedules, Wire: cfg.Wire, Positions: positions, Prefix: prefix, Own: cfg.Publisher.Tokens,
		MaxContext: fedkv.MaxTokens, Contributors: len(devices), SetupBy: cfg.SetupBy, GatherBy: cfg.GatherBy,
	})
	if err != nil {
		return err
	}
	w.sessions = append(w.sessions, s)
	for i, d := range devices {
		m, err := s.newMember(i, d)
		if err != nil {
			return err
		}
		s.members = append(s.members, m)
		// QUIC's handshake, Hello and Welcome
		w.after(2*d.Way.RTT.Seconds()+fedkv.ConnectWork, func() {
			if !m.gone {
				s.step(fedkv.PeerUp{Origin: i, Welcome: hello(name('c', i), layers, fedkv.RoleContributor).Welcome(""), ID: name('i', i), Addr: "[2001:db8::1]:7843"})
			}
		})
		if d.Gone > 0 {
			w.after(d.Gone.Seconds(), m.vanish)
		}
	}
	s.drain()
	return nil
}

// name is as long as those of real devices.
func name(kind rune, i int) string { return fmt.Sprintf("%c%054d", kind, i) }

func (s *session) step(e fedkv.Event) {
	_ = s.machine.Step(fedkv.Tick{Now: moment(s.w.now)})
	s.w.refused("the publisher", s.machine.Step(e))
	s.drain()
}

// block takes a block, and reports whether it counts.
func (s *session) block(from int, h fedkv.BlockHeader) bool {
	_ = s.machine.Step(fedkv.Tick{Now: moment(s.w.now)})
	err := s.machine.Step(fedkv.BlockOffered{From: from, Header: h})
	if s.w.refused("the publisher", err); err == nil {
		s.step(fedkv.BlockIn{From: from, Header: h})
	}
	return err == nil
}

// drain does what the machine asks for.
func (s *session) drain() {
	w := s.w
	out := s.machine.Ready()
	s.machine.Advance()
	for _, o := range out.Messages {
		m := s.members[o.To]
		bytes := w.size(o.Message)
		w.out.RTT = m.device.Way.RTT.Seconds()
		_, at := w.out.Send(w.now, bytes)
		w.after(m.in.take(at, bytes), func() { m.receive(fedkv.PublisherLink, o.Message) })
	}
	if out.Committed != nil {
		s.committed = true
		w.committed()
	}
	if out.Settled != nil {
		s.settled = out.Settled
		w.settled()
	}
	if out.Failed != nil {
		w.fail(out.Failed)
	}
	if w.pass != nil {
		w.publish()
	}
	if at, ok := s.machine.Deadline(); ok && at.Seconds() != s.deadline {
		s.deadline = at.Seconds()
		w.after(s.deadline, func() { _ = s.machine.Step(fedkv.Tick{Now: moment(w.now) + 2}); s.drain() })
	}
}

// committed evaluates the prefix when everybody is asked and knows it.
func (w *world) committed() {
	for _, s := range w.sessions {
		if !s.committed {
			return
		}
	}
	w.ready = w.now
	work := w.cfg.Publisher.Speed.Prefill(w.cfg.Shape, 0, w.cfg.Prefix, w.cfg.MicroBatch)
	w.busy += work
	w.prefix = w.now + work
}

// settled begins the evaluation of the own segment when the rows of all sessions are here, or in lockstep at the commit.
func (w *world) settled() {
	if w.pass != nil || len(w.sessions) == 0 {
		return
	}
	for _, s := range w.sessions {
		if s.settled == nil {
			return
		}
	}
	w.rows = max(w.now, w.ready)
	w.pass = &pass{speed: w.cfg.Publisher.Speed, tokens: w.cfg.Publisher.Tokens}
	w.after(max(w.now, w.prefix), func() { w.beginLayer() })
}

// depth is how many rows the publisher's tokens find at a layer, besides their own.
func (w *world) depth(layer int) int {
	depth := w.cfg.Prefix
	if w.cfg.Schedules.Publisher.Sync(layer) {
		for _, s := range w.sessions {
			for _, segment := range s.settled.Segments[:len(s.settled.Segments)-1] {
				depth += segment.Tokens
			}
		}
	}
	return depth
}

// beginLayer computes the publisher's keys and values of the next layer.
func (w *world) beginLayer() {
	p := w.pass
	if p.layer == len(w.cfg.Shape.Layers) {
		w.answer()
		return
	}
	keys := fedkv.KeysPart * w.layerTime(p.layer)
	w.busy += keys
	w.after(w.now+keys, func() { p.keys = true; w.publish() })
}

func (w *world) layerTime(layer int) float64 {
	return w.pass.speed.Layer(w.cfg.Shape.Layers[layer], len(w.cfg.Shape.Layers), w.depth(layer), w.pass.tokens)
}

// publish goes on with the publisher's layer, if its keys are there and nobody's rows are waited for.
func (w *world) publish() {
	p := w.pass
	if !p.keys {
		return
	}
	l := p.layer
	if w.cfg.Schedules.Publisher.Sync(l) {
		for _, s := range w.sessions {
			if len(s.machine.Pending(l)) > 0 {
				return
			}
		}
	}
	if w.cfg.Schedules.Regime() == fedkv.Lockstep && l <= w.cfg.Schedules.Publisher.Last() {
		w.rows = w.now
	}
	p.keys = false
	work := (1-fedkv.KeysPart)*w.layerTime(l) + p.speed.Placing(float64(w.depth(l)-w.cfg.Prefix)*w.rowBytes(l))
	w.busy += work
	w.after(w.now+work, func() { p.layer++; w.beginLayer() })
}

// answer ends the session, and the answer follows without the network.
func (w *world) answer() {
	w.answered = true
	w.ttft = w.now + fedkv.SampleWork
	step := 0.0
	for l, shape := range w.cfg.Shape.Layers {
		step += w.cfg.Publisher.Speed.Layer(shape, len(w.cfg.Shape.Layers), w.depth(l)+w.pass.tokens+w.cfg.Answer/2, 1)
	}
	w.busy += step * float64(w.cfg.Answer)
	w.total = w.ttft + step*float64(w.cfg.Answer)
}
