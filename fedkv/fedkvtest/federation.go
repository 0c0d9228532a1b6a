package fedkvtest

import (
	"fmt"
	"slices"
	"time"

	"fedattn/fedkv"
)

// Federation is a whole session in one goroutine: real machines, Tiny models, and a network that delivers in
// any order. Messages keep their order within a link; blocks keep none.
type Federation struct {
	Model     *Tiny
	Schedules fedkv.Schedules
	Positions fedkv.Positions
	Types     fedkv.WireTypes // zero: rows cross as they are, and count as f16
	Prefix    []fedkv.Token
	Segments  [][]fedkv.Token // in token order, the publisher's last

	// Rows is the most rows of a block; 0: no limit.
	Rows int
	// Choose says which of n possible steps comes next, 0 to n-1. Nil is the first.
	Choose func(n int) int
	// Dies says after how many of its blocks a contributor dies; what it has on its way is lost with it.
	Dies map[int]int
}

// Transfer is a block that arrived. To is the number of participants-1 for the publisher.
type Transfer struct {
	From, To, Layer, Rows, Bytes int
}

// Hidden says that a receiver went on without the rows of an origin from one of its layers on.
type Hidden struct{ Receiver, Origin, Layer int }

// Result is what became of a session.
type Result struct {
	Committed, Settled fedkv.Layout
	Missing            []fedkv.Missing
	Transfers          []Transfer
	Hidden             []Hidden
	Attended           []int       // by contributor: layers that it evaluated in full
	Logits             [][]float64 // of the publisher's tokens, [tokens][vocabulary]

	publisher *station
}

// Next decodes: the logits after one more token of the publisher. No other participant takes part.
func (r *Result) Next(token fedkv.Token) []float64 { return r.publisher.next(token) }

// Bytes is the payload of all transfers.
func (r *Result) Bytes() (sum int) {
	for _, t := range r.Transfers {
		sum += t.Bytes
	}
	return sum
}

// station is a participant's forward pass: the prefix and its own tokens, and the rows that these see.
type station struct {
	model  *Tiny
	prefix int
	pass   *Pass
	rows   Rows   // of the next layer, once computed
	cache  []Rows // by layer done: prefix, remote, own
	end    int    // position after the last token
}

// newStation evaluates own tokens from position at on, after the prefix.
func newStation(m *Tiny, prefix, own []fedkv.Token, at int) *station {
	positions := make([]int, 0, len(prefix)+len(own))
	for i := range prefix {
		positions = append(positions, i)
	}
	for i := range own {
		positions = append(positions, at+i)
	}
	return &station{model: m, prefix: len(prefix), pass: m.Begin(slices.Concat(prefix, own), positions), end: at + len(own)}
}

// own is the rows of the own tokens at the next layer.
func (s *station) own() Rows {
	if s.rows.K == nil {
		s.rows = s.pass.Rows()
	}
	return s.rows.Slice(s.prefix, len(s.rows.K))
}

// attend finishes the next layer: the prefix sees itself, own tokens see the prefix, all remote rows and their
// own past.
func (s *station) attend(remote Rows) {
	own, prefix, seen := s.own(), s.rows.Slice(0, s.prefix), len(remote.K)
	keys := prefix.Append(remote).Append(own)
	s.pass.Attend(keys, func(q, k int) bool {
		if q < s.prefix {
			return k <= q
		}
		return k < s.prefix+seen || k-seen <= q
	})
	s.cache, s.rows = append(s.cache, keys), Rows{}
}

func (s *station) next(token fedkv.Token) []float64 {
	p := s.model.Begin([]fedkv.Token{token}, []int{s.end})
	s.end++
	for l := range s.cache {
		s.cache[l] = s.cache[l].Append(p.Rows())
		p.Attend(s.cache[l], func(_, _ int) bool { return true })
	}
	return p.Logits()[0]
}

// parcel is a message or a block on its way.
type parcel struct {
	from, to int // fedkv.PublisherLink: the publisher
	message  fedkv.Message
	header   fedkv.BlockHeader
	rows     Rows
}

// member is a contributor.
type member struct {
	machine *fedkv.Contributor
	work    *fedkv.Work
	station *station
	staged  shelf
	joined  map[int]bool // earlier contributors whose links it admitted
	missing map[int]bool // earlier contributors that it goes on without
	blocks  int          // handed out
	dead    bool
}

// shelf holds rows that came, by layer and origin, in the order of the segment's tokens.
type shelf map[[2]int]Rows

func (s shelf) put(h fedkv.BlockHeader, tokens int, rows Rows) {
	key := [2]int{h.Layer, h.Origin}
	if _, ok := s[key]; !ok {
		s[key] = Rows{make([][]float64, tokens), make([][]float64, tokens)}
	}
	copy(s[key].K[h.First:], rows.K)
	copy(s[key].V[h.First:], rows.V)
}

// run is a session under way.
type run struct {
	Federation
	pub       *fedkv.Publisher
	members   []*member
	transit   []parcel
	staged    shelf
	committed *fedkv.Layout
	settled   *fedkv.Layout
	missing   map[int]bool
	failed    error
	result    Result
	err       error // a machine refused what honest participants do
}

// Run plays the session to its end. The error is the publisher's failure, or that of a machine which refused
// something although everybody is honest.
func (f Federation) Run() (*Result, error) {
	r := &run{Federation: f, staged: shelf{}, missing: map[int]bool{}}
	wire := f.Types
	if wire == (fedkv.WireTypes{}) {
		wire = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}
	}
	hello := func(name string, role fedkv.Role) fedkv.Hello {
		return fedkv.Hello{
			Protocol: fedkv.Protocol, Name: name, Engine: "tiny", Role: role,
			Model: fedkv.Fingerprint{Architecture: "tiny", Layers: f.Model.Layers},
			Types: []fedkv.Type{fedkv.F16, fedkv.Q8_0, fedkv.Q5_1, fedkv.Q4_1, fedkv.Q4_0},
		}
	}
	const context = 1 << 16
	n := len(f.Segments) - 1
	var err error
	if r.pub, err = fedkv.NewPublisher(fedkv.PublisherConfig{
		Session: fedkv.SessionID{1}, Self: hello("publisher", fedkv.RolePublisher), ID: "p", Shape: f.Model.Shape(),
		Schedules: f.Schedules, Types: wire, Positions: f.Positions, Prefix: f.Prefix, Own: len(f.Segments[n]),
		MaxContext: context, Contributors: n, SetupBy: time.Second, GatherBy: time.Minute,
	}); err != nil {
		return nil, err
	}
	for i := range n {
		self := hello(fmt.Sprint("contributor", i), fedkv.RoleContributor)
		c, err := fedkv.NewContributor(fedkv.ContributorConfig{
			Self: self, ID: fmt.Sprint(i), Shape: f.Model.Shape(), MaxContext: context, Vocabulary: f.Model.Vocabulary, Greeted: true,
		})
		if err != nil {
			return nil, err
		}
		r.members = append(r.members, &member{machine: c, staged: shelf{}, joined: map[int]bool{}, missing: map[int]bool{}})
		r.check(r.pub.Step(fedkv.PeerUp{Origin: i, Welcome: self.Welcome(""), ID: fmt.Sprint(i), Addr: "a:1"}))
	}
	r.drain()
	for {
		steps := r.steps()
		if len(steps) == 0 {
			if !r.tick() {
				break
			}
			continue
		}
		choice := 0
		if f.Choose != nil {
			choice = f.Choose(len(steps))
		}
		steps[choice]()
		r.drain()
	}
	for _, m := range r.pub.CloseMessages() {
		r.transit = append(r.transit, parcel{from: fedkv.PublisherLink, to: m.To, message: m.Message})
	}
	for len(r.transit) > 0 && r.err == nil {
		r.deliver(0)
		r.drain()
	}
	r.result.Missing = r.pub.Missing()
	for _, m := range r.members {
		layers := 0
		if m.station != nil {
			layers = m.station.pass.Layer()
		}
		r.result.Attended = append(r.result.Attended, layers)
	}
	if r.failed != nil || r.err != nil {
		return &r.result, errorOf(r.failed, r.err)
	}
	r.result.Committed, r.result.Settled = *r.committed, *r.settled
	station := r.result.publisher
	r.result.Logits = station.pass.Logits()[len(f.Prefix):]
	return &r.result, nil
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) check(err error) {
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("an honest participant is refused: %w", err)
	}
}

// steps lists what can happen next.
func (r *run) steps() (steps []func()) {
	if r.failed != nil || r.err != nil {
		return nil
	}
	busy := map[[2]int]bool{}
	for i, p := range r.transit {
		link := [2]int{p.from, p.to}
		if p.message == nil && p.to >= 0 && !r.members[p.to].joined[p.from] && !r.members[p.to].dead {
			continue // blocks of a direct link are not read before it is admitted
		}
		if p.message == nil || !busy[link] {
			steps = append(steps, func() { r.deliver(i) })
		}
		busy[link] = busy[link] || p.message != nil
	}
	for i, m := range r.members {
		if m.work != nil && !m.dead && m.station.pass.Layer() <= m.work.Sends.Last() && !r.waits(m) {
			steps = append(steps, func() { r.contribute(i) })
		}
	}
	if r.settled != nil && (r.result.publisher == nil || r.result.publisher.pass.Layer() < r.Model.Layers) {
		layer := 0
		if s := r.result.publisher; s != nil {
			layer = s.pass.Layer()
		}
		if len(r.pub.Pending(layer)) == 0 {
			steps = append(steps, r.publish)
		}
	}
	return steps
}

// waits reports whether a contributor has sent the rows of its next layer and waits for others'.
func (r *run) waits(m *member) bool {
	layer := m.station.pass.Layer()
	return m.station.rows.K != nil && m.work.Waits.Sync(layer) && len(m.machine.Pending(layer)) > 0
}

// contribute computes and sends a contributor's rows of a layer, then attends if it need not wait.
func (r *run) contribute(i int) {
	m := r.members[i]
	layer := m.station.pass.Layer()
	if m.station.rows.K == nil {
		own := m.station.own()
		if m.work.Sends.Sync(layer) {
			r.send(i, layer, own)
		}
	}
	if m.dead || layer == m.work.Sends.Last() {
		m.work = nil // its part ends with K and V of this layer
		return
	}
	if r.waits(m) {
		return
	}
	var remote Rows
	if m.work.Sync.Sync(layer) {
		remote = r.remote(m.staged, layer, m.work.Layout, m.work.Origin, m.missing, nil)
	}
	m.station.attend(remote)
}

func (r *run) send(i, layer int, own Rows) {
	m := r.members[i]
	most := r.Rows
	if most == 0 {
		most = len(own.K)
	}
	for first := 0; first < len(own.K); first += most {
		end := min(first+most, len(own.K))
		blocks, err := m.machine.Blocks(layer, first, end-first)
		r.check(err)
		for _, b := range blocks {
			if m.blocks++; r.Dies != nil {
				if after, ok := r.Dies[i]; ok && m.blocks > after {
					r.kill(i)
					return
				}
			}
			for _, to := range b.To {
				r.transit = append(r.transit, parcel{from: i, to: to, header: b.Header, rows: own.Slice(b.Header.First, b.Header.First+b.Header.Rows).through(r.Types)})
			}
		}
	}
}

func (r *run) kill(i int) {
	r.members[i].dead = true
	r.transit = slices.DeleteFunc(r.transit, func(p parcel) bool { return p.from == i || p.to == i })
	r.check(r.pub.Step(fedkv.PeerDown{Origin: i}))
	for j, m := range r.members {
		if j != i && !m.dead && r.Schedules.Regime() == fedkv.Lockstep {
			r.check(m.machine.Step(fedkv.PeerDown{Origin: i}))
		}
	}
}

// publish evaluates the publisher's next layer.
func (r *run) publish() {
	own := r.settled.Segments[len(r.settled.Segments)-1]
	if r.result.publisher == nil {
		r.result.publisher = newStation(r.Model, r.Prefix, r.Segments[own.Origin], own.Offset)
	}
	s := r.result.publisher
	layer := s.pass.Layer()
	var remote Rows
	if r.Schedules.Publisher.Sync(layer) {
		remote = r.remote(r.staged, layer, *r.settled, own.Origin, r.missing, r.pub.Shift)
	}
	s.attend(remote)
}

// remote is the rows of a layer of all earlier segments but those of the missing, in token order, rotated to
// their place.
func (r *run) remote(staged shelf, layer int, l fedkv.Layout, origin int, missing map[int]bool, shift func(int) int) (rows Rows) {
	for _, s := range l.Segments {
		if s.Origin >= origin {
			break
		}
		if missing[s.Origin] {
			if !slices.ContainsFunc(r.result.Hidden, func(h Hidden) bool { return h.Receiver == origin && h.Origin == s.Origin }) {
				r.result.Hidden = append(r.result.Hidden, Hidden{origin, s.Origin, layer})
			}
			continue
		}
		came := staged[[2]int{layer, s.Origin}]
		if shift != nil && shift(s.Origin) != 0 {
			came = came.Shift(shift(s.Origin), r.Model.HeadDim)
		}
		rows = rows.Append(came)
	}
	return rows
}

func (r *run) deliver(i int) {
	p := r.transit[i]
	r.transit = slices.Delete(r.transit, i, i+1)
	if p.to >= 0 && r.members[p.to].dead {
		if p.from >= 0 {
			r.check(r.members[p.from].machine.Step(fedkv.PeerDown{Origin: p.to}))
		}
		return
	}
	if p.message != nil {
		r.deliverMessage(p)
		return
	}
	var to interface{ Step(fedkv.Event) error } = r.pub
	staged, number := r.staged, len(r.members)
	if p.to != fedkv.PublisherLink {
		m := r.members[p.to]
		to, staged, number = m.machine, m.staged, p.to
	}
	// Rows of its last layer may reach a contributor that is done: nobody needs them.
	if err := to.Step(fedkv.BlockOffered{From: p.from, Header: p.header}); err != nil {
		if fedkv.CodeOf(err) != fedkv.CodeLost && fedkv.CodeOf(err) != fedkv.CodeSession {
			r.check(err)
		}
	} else {
		r.check(to.Step(fedkv.BlockIn{From: p.from, Header: p.header}))
		staged.put(p.header, len(r.Segments[p.from]), p.rows)
		r.result.Transfers = append(r.result.Transfers, Transfer{p.from, number, p.header.Layer, p.header.Rows, p.header.Length})
	}
	r.check(r.members[p.from].machine.Step(fedkv.BlockSent{To: p.to, Header: p.header}))
}

func (r *run) deliverMessage(p parcel) {
	if p.to == fedkv.PublisherLink {
		r.check(r.pub.Step(fedkv.Received{From: p.from, Message: p.message}))
		return
	}
	m := r.members[p.to]
	if join, ok := p.message.(fedkv.Join); ok {
		r.check(m.machine.Step(fedkv.Joined{ID: fmt.Sprint(p.from), Join: join}))
		return
	}
	r.check(m.machine.Step(fedkv.Received{From: p.from, Message: p.message}))
}

// tick lets time pass until the next deadline of anybody; false if there is none.
func (r *run) tick() bool {
	next, some := r.pub.Deadline()
	for _, m := range r.members {
		if at, ok := m.machine.Deadline(); ok && !m.dead && (!some || at < next) {
			next, some = at, true
		}
	}
	if !some || r.failed != nil || r.err != nil {
		return false
	}
	r.check(r.pub.Step(fedkv.Tick{Now: next}))
	for _, m := range r.members {
		r.check(m.machine.Step(fedkv.Tick{Now: next}))
	}
	r.drain()
	return true
}

// drain does what the machines ask for.
func (r *run) drain() {
	out := r.pub.Ready()
	r.pub.Advance()
	for _, m := range out.Messages {
		r.transit = append(r.transit, parcel{from: fedkv.PublisherLink, to: m.To, message: m.Message})
	}
	if out.Committed != nil {
		r.committed = out.Committed
	}
	if out.Settled != nil {
		r.settled = out.Settled
	}
	if out.Failed != nil {
		r.failed = out.Failed
	}
	for _, m := range out.Missing {
		r.missing[m.Origin] = true
	}
	for i, m := range r.members {
		for !m.dead {
			out := m.machine.Ready()
			m.machine.Advance()
			for _, message := range out.Messages {
				r.transit = append(r.transit, parcel{from: i, to: message.To, message: message.Message})
			}
			if out.Start != nil {
				m.work = out.Start
				m.station = newStation(r.Model, out.Start.Prefix, r.Segments[i], out.Start.At)
			}
			for _, j := range out.Joins {
				m.joined[j.Origin] = j.Err == nil
			}
			for _, lost := range out.Missing {
				m.missing[lost.Origin] = true
			}
			if out.Tokenise == nil {
				break
			}
			r.check(m.machine.Step(fedkv.Tokenised{Count: len(r.Segments[i])}))
		}
	}
}

// through is what rows look like after a journey in wire types.
func (r Rows) through(types fedkv.WireTypes) Rows {
	if types == (fedkv.WireTypes{}) {
		return r
	}
	return Rows{journey(r.K, types.K), journey(r.V, types.V)}
}

func journey(rows [][]float64, t fedkv.Type) [][]float64 {
	out := make([][]float64, len(rows))
	for i, row := range rows {
		single := make([]float32, len(row))
		for j, v := range row {
			single[j] = float32(v)
		}
		if err := t.DecodeRow(single, t.AppendRow(nil, single)); err != nil {
			panic(err) // both sides are ours
		}
		out[i] = make([]float64, len(row))
		for j, v := range single {
			out[i][j] = float64(v)
		}
	}
	return out
}
