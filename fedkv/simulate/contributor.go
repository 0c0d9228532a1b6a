package simulate

import (
	"slices"

	"fedattn/fedkv"
)

// silence is after how long a device that is gone is noticed, in seconds: package transport's idle timeout.
const silence = 2

// member is a contributor.
type member struct {
	s       *session
	origin  int
	device  Device
	machine *fedkv.Contributor
	up      *fedkv.Pipe // what it sends, to whomever
	in      access

	work     *fedkv.Work
	done     int // tokens of micro-batches that are evaluated
	layer    int
	waiting  bool // for others' rows of the layer
	busy     float64
	gone     bool
	joined   map[int]bool // earlier contributors whose blocks may be read
	early    map[int][]func()
	relayed  map[int]bool // later contributors that are reached through the publisher
	held     map[int][]fedkv.BlockHeader
	deadline float64
}

func (s *session) newMember(origin int, d Device) (*member, error) {
	c := s.w.cfg
	machine, err := fedkv.NewContributor(fedkv.ContributorConfig{
		Self: hello(name('c', origin), len(c.Shape.Layers), fedkv.RoleContributor), ID: name('i', origin), Shape: c.Shape,
		MaxContext: fedkv.MaxTokens, Greeted: true,
	})
	return &member{
		s: s, origin: origin, device: d, machine: machine, up: fedkv.NewPipe(d.Way), in: access{rate: d.Way.Down},
		joined: map[int]bool{}, early: map[int][]func(){}, relayed: map[int]bool{}, held: map[int][]fedkv.BlockHeader{},
	}, err
}

// vanish ends a device without a word. Whoever has a link to it notices when it has been silent for a while.
func (m *member) vanish() {
	m.gone = true
	w := m.s.w
	w.after(w.now+silence, func() {
		lost := fedkv.PeerDown{Origin: m.origin, Code: fedkv.CodeLost, Text: "it has given no sign of life"}
		m.s.step(lost)
		if w.cfg.Schedules.Regime() == fedkv.Lockstep && m.work != nil {
			for _, o := range m.s.members {
				if o != m && o.work != nil {
					o.step(lost)
				}
			}
		}
	})
}

func (m *member) step(e fedkv.Event) {
	if m.gone {
		return
	}
	_ = m.machine.Step(fedkv.Tick{Now: moment(m.s.w.now)})
	m.s.w.refused("a contributor", m.machine.Step(e))
	m.drain()
}

func (m *member) receive(from int, message fedkv.Message) {
	if join, ok := message.(fedkv.Join); ok {
		m.step(fedkv.Joined{ID: name('i', from), Join: join})
		return
	}
	m.step(fedkv.Received{From: from, Message: message})
}

// drain does what the machine asks for.
func (m *member) drain() {
	w := m.s.w
	for !m.gone {
		out := m.machine.Ready()
		m.machine.Advance()
		for _, p := range out.Dial {
			if w.cfg.Distribution == Relay {
				m.step(fedkv.Unreachable{Origin: p.Origin, Code: fedkv.CodeLost, Text: "no way there"})
			}
		}
		for _, o := range out.Messages {
			m.say(o)
		}
		for _, p := range out.Vouched {
			m.step(fedkv.RelayTaken{Origin: p.Origin, Nonce: fedkv.Nonce{1, byte(m.origin)}})
			m.joined[p.Origin] = true
		}
		for _, p := range out.Paths {
			m.relayed[p.To] = true
			for _, h := range m.held[p.To] {
				m.send(h, []int{p.To})
			}
			delete(m.held, p.To)
		}
		for _, j := range out.Joins {
			m.joined[j.Origin] = j.Err == nil
			late := m.early[j.Origin]
			delete(m.early, j.Origin)
			for _, deliver := range late {
				deliver()
			}
		}
		if out.Owed {
			blocks, err := m.machine.Owed()
			w.refused("rows that are owed", err)
			m.sendAll(blocks)
		}
		if out.Start != nil {
			m.work = out.Start
			work := m.device.Speed.Prefill(w.cfg.Shape, 0, w.cfg.Prefix, w.cfg.MicroBatch)
			m.busy += work
			w.after(w.now+work, m.beginLayer)
		}
		if m.waiting {
			m.attend()
		}
		if out.Tokenise == nil {
			break
		}
		w.after(w.now+fedkv.SessionWork, func() { m.step(fedkv.Tokenised{Count: m.device.Tokens}) })
	}
	if at, ok := m.machine.Deadline(); ok && !m.gone && at.Seconds() != m.deadline {
		m.deadline = at.Seconds()
		w.after(m.deadline, func() {
			if !m.gone {
				_ = m.machine.Step(fedkv.Tick{Now: moment(w.now) + 2})
				m.drain()
			}
		})
	}
}

// say sends a message; those to other contributors open links.
func (m *member) say(o fedkv.Outbound) {
	w := m.s.w
	bytes := w.size(o.Message)
	if o.To == fedkv.PublisherLink {
		m.up.RTT = m.device.Way.RTT.Seconds()
		_, at := m.up.Send(w.now, bytes)
		at = w.in.take(at, bytes)
		w.after(at, func() { m.s.step(fedkv.Received{From: m.origin, Message: o.Message}) })
		return
	}
	if w.cfg.Distribution == Relay {
		return // there is no link
	}
	to := m.s.members[o.To]
	way := m.device.Way.Over(to.device.Way)
	w.after(w.now+2.5*way.RTT.Seconds()+fedkv.ConnectWork, func() { to.receive(m.origin, o.Message) }) // dialled, greeted
}

// batch is how many tokens are evaluated together.
func (m *member) batch() int {
	if m.s.w.cfg.Schedules.Regime() == fedkv.Lockstep {
		return m.device.Tokens
	}
	return min(m.s.w.cfg.MicroBatch, m.device.Tokens-m.done)
}

func (m *member) layerTime() float64 {
	w := m.s.w
	depth := w.cfg.Prefix + m.done
	if m.work.Sync.Sync(m.layer) {
		depth = m.work.Segment.Offset
	}
	return m.device.Speed.Layer(w.cfg.Shape.Layers[m.layer], len(w.cfg.Shape.Layers), depth, m.batch())
}

// beginLayer computes keys and values, and sends them.
func (m *member) beginLayer() {
	w := m.s.w
	if m.gone {
		return
	}
	work := fedkv.KeysPart * m.layerTime()
	sends := m.work.Sends.Sync(m.layer)
	if sends {
		work += m.device.Speed.Taking(float64(m.batch()) * w.rowBytes(m.layer))
	}
	m.busy += work
	w.after(w.now+work, func() {
		if m.gone {
			return
		}
		if sends {
			_ = m.machine.Step(fedkv.Tick{Now: moment(w.now)})
			blocks, err := m.machine.Blocks(m.layer, m.done, m.batch(), nil)
			if err != nil { // the session is over
				w.refused("rows", err)
				return
			}
			m.sendAll(blocks)
			m.drain()
		}
		if m.layer >= m.work.Sends.Last() { // nobody needs more of this micro-batch
			if m.done += m.batch(); m.done < m.device.Tokens {
				m.layer = 0
				m.beginLayer()
			}
			return
		}
		m.waiting = true
		m.attend()
	})
}

// attend goes on with a layer when nobody's rows are waited for.
func (m *member) attend() {
	w := m.s.w
	if m.gone || !m.waiting || m.work.Waits.Sync(m.layer) && len(m.machine.Pending(m.layer)) > 0 {
		return
	}
	m.waiting = false
	work := (1 - fedkv.KeysPart) * m.layerTime()
	if m.work.Sync.Sync(m.layer) {
		work += m.device.Speed.Placing(float64(m.work.Segment.Offset-w.cfg.Prefix) * w.rowBytes(m.layer))
	}
	m.busy += work
	w.after(w.now+work, func() { m.layer++; m.beginLayer() })
}

func (m *member) sendAll(blocks []fedkv.Outgoing) {
	for _, b := range blocks {
		m.send(b.Header, b.To)
	}
}

// send puts a block on its way to everybody whom it is for.
func (m *member) send(h fedkv.BlockHeader, to []int) {
	w := m.s.w
	var others []int
	for _, o := range to {
		switch {
		case o == fedkv.PublisherLink:
			m.toPublisher(h, func() { m.s.block(m.origin, h) })
			w.received += int64(fedkv.BlockHeaderSize + h.Length)
		case w.cfg.Distribution == Relay && !m.relayed[o]:
			m.held[o] = append(m.held[o], h)
		case w.cfg.Distribution == Relay:
			m.through(h, o)
		default:
			others = append(others, o)
		}
	}
	if w.cfg.Distribution != Tree {
		for _, o := range others {
			m.pass(m, h, []int{o})
		}
		return
	}
	for _, part := range parts(others) {
		m.pass(m, h, part)
	}
}

// toPublisher carries a block to the publisher, and says that it was sent.
func (m *member) toPublisher(h fedkv.BlockHeader, arrived func()) {
	w := m.s.w
	bytes := fedkv.BlockHeaderSize + h.Length
	m.up.RTT = m.device.Way.RTT.Seconds()
	left, at := m.up.Send(w.now, bytes)
	w.sent += int64(bytes)
	sent := h
	w.after(left, func() { m.step(fedkv.BlockSent{To: fedkv.PublisherLink, Header: sent}) })
	w.after(at, func() {
		if !m.gone || w.now < m.device.Gone.Seconds()+m.device.Way.RTT.Seconds() {
			w.after(w.in.take(w.now, bytes), arrived)
		}
	})
}

// through carries a block to a later contributor by way of the publisher, sealed.
func (m *member) through(h fedkv.BlockHeader, to int) {
	w := m.s.w
	sealed := h
	sealed.Seal = fedkv.Seal{Sealed: true, To: to, Key: [32]byte{1}, Signature: [64]byte{1}}
	bytes := fedkv.SealSize + fedkv.BlockHeaderSize + h.Length
	m.up.RTT = m.device.Way.RTT.Seconds()
	left, at := m.up.Send(w.now, bytes)
	w.sent += 2 * int64(bytes)
	w.after(left, func() { m.step(fedkv.BlockSent{To: to, Header: h}) })
	w.after(at, func() {
		w.after(w.in.take(w.now, bytes), func() {
			if !m.s.block(m.origin, sealed) {
				return
			}
			o := m.s.members[to]
			w.out.RTT = o.device.Way.RTT.Seconds()
			_, at := w.out.Send(w.now, bytes)
			w.after(o.in.take(at, bytes), func() { o.block(fedkv.PublisherLink, sealed) })
		})
	})
}

// pass carries a block from a participant that has it to the first of the recipients, who passes it on to the others. It is
// sent as far as its owner is concerned when it has left the owner.
func (m *member) pass(from *member, h fedkv.BlockHeader, to []int) {
	w := m.s.w
	bytes := fedkv.BlockHeaderSize + h.Length
	o := m.s.members[to[0]]
	way := from.device.Way.Over(o.device.Way)
	from.up.RTT = way.RTT.Seconds()
	left, at := from.up.Send(w.now, bytes)
	w.sent += int64(bytes)
	if from == m {
		w.after(left, func() {
			for _, origin := range to {
				m.step(fedkv.BlockSent{To: origin, Header: h})
			}
		})
	}
	w.after(at, func() {
		if from.gone {
			return
		}
		w.after(o.in.take(w.now, bytes), func() {
			o.block(m.origin, h)
			if !o.gone {
				for _, part := range parts(to[1:]) {
					m.pass(o, h, part)
				}
			}
		})
	})
}

// parts cuts recipients into as many lists as a participant serves.
func parts(to []int) (list [][]int) {
	size := (len(to) + branches - 1) / branches
	for chunk := range slices.Chunk(to, max(size, 1)) {
		list = append(list, chunk)
	}
	return list
}

// block takes a block of an earlier contributor, once its link is admitted.
func (m *member) block(from int, h fedkv.BlockHeader) {
	if !m.joined[h.Origin] {
		m.early[h.Origin] = append(m.early[h.Origin], func() { m.block(from, h) })
		return
	}
	if m.gone {
		return
	}
	_ = m.machine.Step(fedkv.Tick{Now: moment(m.s.w.now)})
	err := m.machine.Step(fedkv.BlockOffered{From: from, Header: h})
	if m.s.w.refused("a contributor", err); err == nil {
		m.step(fedkv.BlockIn{From: from, Header: h})
	}
}
