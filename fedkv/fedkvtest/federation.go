package fedkvtest

import (
	"fmt"
	"math"
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
	Wire      fedkv.Wire      // zero: rows cross as they are, and count as f16
	Rows      fedkv.RowPolicy // which rows contributors send; by any rule but RowsQuery, which needs an engine
	Local     fedkv.RowPolicy // which of their own rows participants attend to at local layers
	Prefix    []fedkv.Token
	Segments  [][]fedkv.Token // in token order, the publisher's last

	// Batch is how many rows of a layer a contributor computes and sends together; 0: all.
	Batch int
	// Choose says which of n possible steps comes next, 0 to n-1. Nil is the first.
	Choose func(n int) int
	// Dies says after how many of its blocks a contributor dies; what it has on its way is lost with it.
	Dies map[int]int
	// Loses says whether what is to arrive is lost instead, and sent again: it may arrive at a later step. Nil is never.
	Loses func() bool
	// Repeats says whether a block that arrived arrives once more, which its receiver has to refuse. Nil is never.
	Repeats func() bool
	// Partitions cut contributors off for some steps. Deadlines pass when nothing else can happen, cut off or not.
	Partitions []Partition
	// Trace is told what happens, step by step; nil is nobody. Equal choices give equal traces.
	Trace func(line string)
}

// Partition cuts a contributor's links, in both directions, in the steps [From, To).
type Partition struct{ Contributor, From, To int }

// Transfer is a block that arrived. To is the number of participants-1 for the publisher.
type Transfer struct {
	From, To, Layer, Bytes int
	Rows                   []int // of the segment, ascending
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
	Lost, Repeated     int         // deliveries that failed, and blocks that were refused because they had come
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

// placed is rows and where they stand, ascending.
type placed struct {
	Rows
	at []int
}

// append is the rows of p followed by those of o, in new slices.
func (p placed) append(o placed) placed {
	return placed{p.Rows.Append(o.Rows), slices.Concat(p.at, o.at)}
}

// station is a participant's forward pass: the prefix and its own tokens, and the rows that these see.
type station struct {
	model  *Tiny
	prefix int
	keeps  func(layer, row int) bool // whether later tokens attend to a row of the own segment
	pass   *Pass
	at     []int    // positions of prefix and own tokens
	rows   []Rows   // by layer, once computed: prefix and own
	cache  []placed // by layer done: prefix, remote, own
	end    int      // position after the last token
}

// newStation evaluates an origin's tokens from position at on, after the prefix.
func (r *run) newStation(origin, at int) *station {
	m, prefix, own := r.Model, r.Prefix, r.Segments[origin]
	local, sync := r.Local.Of(origin), r.Schedules.Of(origin, len(r.Segments))
	positions := make([]int, 0, len(prefix)+len(own))
	for i := range prefix {
		positions = append(positions, i)
	}
	for i := range own {
		positions = append(positions, at+i)
	}
	return &station{
		model: m, prefix: len(prefix),
		keeps: func(layer, row int) bool { return sync.Sync(layer) || local.Keeps(layer, len(own), row) },
		pass:  m.Begin(slices.Concat(prefix, own), positions), at: positions, end: at + len(own),
	}
}

// computed reports whether the rows of the next layer are.
func (s *station) computed() bool { return len(s.rows) > s.pass.Layer() }

// own is the rows of the own tokens at a layer, the next one or one that is done.
func (s *station) own(layer int) Rows {
	if layer == s.pass.Layer() && !s.computed() {
		s.rows = append(s.rows, s.pass.Rows())
	}
	return s.rows[layer].Slice(s.prefix, len(s.at))
}

// sees reports whether a token of this station at position q attends to the row at k of prefix, remote or own tokens.
func (s *station) sees(layer, q, k int) bool {
	row := k - s.at[s.prefix]
	own := row >= 0 && row < len(s.at)-s.prefix // not those of an answer, which are all seen
	return s.model.Reaches(layer, q, k) && (q == k || !own || s.keeps(layer, row))
}

// attend finishes the next layer: everybody sees what its window reaches, the prefix itself, own tokens the prefix, all
// remote rows and what is kept of their own past.
func (s *station) attend(remote placed) {
	layer := s.pass.Layer()
	own := placed{s.own(layer), s.at[s.prefix:]}
	keys := placed{s.rows[layer].Slice(0, s.prefix), s.at[:s.prefix]}.append(remote).append(own)
	s.pass.Attend(keys.Rows, func(q, k int) bool { return s.sees(layer, s.at[q], keys.at[k]) })
	s.cache = append(s.cache, keys)
}

func (s *station) next(token fedkv.Token) []float64 {
	p := s.model.Begin([]fedkv.Token{token}, []int{s.end})
	for l := range s.cache {
		s.cache[l] = s.cache[l].append(placed{p.Rows(), []int{s.end}})
		p.Attend(s.cache[l].Rows, func(_, k int) bool { return s.sees(l, s.end, s.cache[l].at[k]) })
	}
	s.end++
	return p.Logits()[0]
}

// parcel is a message or a block on its way.
type parcel struct {
	from, to int // fedkv.PublisherLink: the publisher
	message  fedkv.Message
	header   fedkv.BlockHeader
	kept     []int // rows of the segment that it holds
	rows     Rows
}

// member is a contributor.
type member struct {
	machine *fedkv.Contributor
	work    *fedkv.Work
	station *station
	// selection is which rows it sends; it outlives the work.
	selection fedkv.Selection
	staged    shelf
	joined    map[int]bool // earlier contributors whose links it admitted
	missing   map[int]bool // earlier contributors that it goes on without
	blocks    int          // handed out
	dead      bool
}

// shelf holds rows that came, by layer and origin, in the order of the segment's tokens; nil where none came.
type shelf map[[2]int]Rows

func (s shelf) put(p parcel, tokens int) {
	key := [2]int{p.header.Layer, p.header.Origin}
	if _, ok := s[key]; !ok {
		s[key] = Rows{make([][]float64, tokens), make([][]float64, tokens)}
	}
	for i, row := range p.kept {
		s[key].K[row], s[key].V[row] = p.rows.K[i], p.rows.V[i]
	}
}

// take is the rows of a layer of an origin, whose segment begins at offset.
func (s shelf) take(layer, origin, offset int) (rows placed) {
	for row, k := range s[[2]int{layer, origin}].K {
		if k != nil {
			rows.K, rows.V = append(rows.K, k), append(rows.V, s[[2]int{layer, origin}].V[row])
			rows.at = append(rows.at, offset+row)
		}
	}
	return rows
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
	died      bool // somebody, since the last drain
	step      int
	failed    error
	result    Result
	err       error // a machine refused what honest participants do
}

// Run plays the session to its end. The error is the publisher's failure, or that of a machine which refused
// something although everybody is honest.
func (f Federation) Run() (*Result, error) {
	r := &run{Federation: f, staged: shelf{}, missing: map[int]bool{}}
	wire := f.Wire
	if wire.Len() == 0 {
		wire = fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, f.Model.Layers)
	}
	hello := func(name string, role fedkv.Role) fedkv.Hello {
		return fedkv.Hello{
			Protocol: fedkv.Protocol, Name: name, Engine: "tiny", Role: role,
			Model: fedkv.Fingerprint{Architecture: "tiny", Layers: f.Model.Layers},
			Types: []fedkv.Type{fedkv.F16, fedkv.Q8_0, fedkv.Q5_1, fedkv.Q4_1, fedkv.Q4_0, fedkv.NF3},
		}
	}
	const context = 1 << 16
	n := len(f.Segments) - 1
	var err error
	if r.pub, err = fedkv.NewPublisher(fedkv.PublisherConfig{
		Session: fedkv.SessionID{1}, Self: hello("publisher", fedkv.RolePublisher), ID: "p", Shape: f.Model.Shape(),
		Schedules: f.Schedules, Wire: wire, Rows: f.Rows, Positions: f.Positions, Prefix: f.Prefix, Own: len(f.Segments[n]),
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
			if r.heal() {
				continue
			}
			if !r.tick() {
				break
			}
			continue
		}
		choice := 0
		if f.Choose != nil {
			choice = f.Choose(len(steps))
		}
		r.step++
		r.trace("step %d: %d of %d", r.step, choice, len(steps))
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

func (r *run) trace(format string, args ...any) {
	if r.Trace != nil {
		r.Trace(fmt.Sprintf(format, args...))
	}
}

// cut reports whether a partition holds up what goes from one participant to another.
func (r *run) cut(from, to int) bool {
	return slices.ContainsFunc(r.Partitions, func(p Partition) bool {
		return (p.Contributor == from || p.Contributor == to) && p.From <= r.step && r.step < p.To
	})
}

// heal lets time pass until the next partition ends, if one holds anything up.
func (r *run) heal() bool {
	if r.failed != nil || r.err != nil || !slices.ContainsFunc(r.transit, func(p parcel) bool { return r.cut(p.from, p.to) }) {
		return false
	}
	next := math.MaxInt
	for _, p := range r.Partitions {
		if p.To > r.step {
			next = min(next, p.To)
		}
	}
	r.step = next
	r.trace("the next partition ends")
	return true
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
		if r.cut(p.from, p.to) {
			continue
		}
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
	return m.station.computed() && m.work.Waits.Sync(layer) && len(m.machine.Pending(layer)) > 0
}

// contribute computes and sends a contributor's rows of a layer, then attends if it need not wait.
func (r *run) contribute(i int) {
	m := r.members[i]
	layer := m.station.pass.Layer()
	if !m.station.computed() {
		own := m.station.own(layer)
		if m.work.Sends.Sync(layer) {
			r.sendLayer(i, layer, own)
		}
	}
	if m.dead || layer == m.work.Sends.Last() {
		m.work = nil // its part ends with K and V of this layer
		return
	}
	if r.waits(m) {
		return
	}
	var remote placed
	if m.work.Sync.Sync(layer) {
		remote = r.remote(m.staged, layer, m.work.Layout, m.work.Origin, m.missing, nil)
	}
	m.station.attend(remote)
}

// sendLayer sends what is selected of a layer's rows, a batch at a time.
func (r *run) sendLayer(i, layer int, own Rows) {
	m := r.members[i]
	most := r.Batch
	if most == 0 {
		most = len(own.K)
	}
	for first := 0; first < len(own.K); first += most {
		end := min(first+most, len(own.K))
		var keys []float32
		for _, k := range own.K[first:end] {
			for _, v := range k {
				keys = append(keys, float32(v))
			}
		}
		blocks, err := m.machine.Blocks(layer, first, end-first, m.selection.Select(layer, len(own.K), first, end-first, keys, fedkv.Query{}))
		r.check(err)
		r.send(i, blocks)
	}
}

// send puts blocks on their way to everybody whom they are for.
func (r *run) send(i int, blocks []fedkv.Outgoing) {
	m := r.members[i]
	for _, b := range blocks {
		if after, ok := r.Dies[i]; ok && m.blocks >= after && !m.dead {
			r.kill(i)
		}
		if m.dead {
			return
		}
		m.blocks++
		h := b.Header
		own := m.station.own(h.Layer).Slice(h.First, h.First+h.Rows)
		var rows placed
		var kept []int
		for j := range h.Rows {
			if b.Keep == nil || b.Keep[j] {
				rows = rows.append(placed{own.Slice(j, j+1), []int{m.station.at[m.station.prefix+h.First+j]}})
				kept = append(kept, h.First+j)
			}
		}
		for _, to := range b.To {
			r.transit = append(r.transit, parcel{from: i, to: to, header: h, kept: kept, rows: rows.through(r.Wire.At(h.Layer), r.Model.HeadDim)})
		}
	}
}

func (r *run) kill(i int) {
	r.members[i].dead, r.died = true, true
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
		r.result.publisher = r.newStation(own.Origin, own.Offset)
	}
	s := r.result.publisher
	layer := s.pass.Layer()
	var remote placed
	if r.Schedules.Publisher.Sync(layer) {
		remote = r.remote(r.staged, layer, *r.settled, own.Origin, r.missing, r.pub.Shift)
	}
	s.attend(remote)
}

// remote is the rows of a layer of all earlier segments but those of the missing, in token order, rotated to
// their place.
func (r *run) remote(staged shelf, layer int, l fedkv.Layout, origin int, missing map[int]bool, shift func(int) int) (rows placed) {
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
		came := staged.take(layer, s.Origin, s.Offset)
		if shift != nil && shift(s.Origin) != 0 {
			came.Rows = came.Shift(shift(s.Origin), r.Model.HeadDim)
		}
		rows = rows.append(came)
	}
	return rows
}

func (r *run) deliver(i int) {
	p := r.transit[i]
	if r.Loses != nil && r.Loses() {
		r.result.Lost++
		r.trace("lost %d to %d", p.from, p.to)
		return
	}
	r.trace("%d to %d: %T %+v", p.from, p.to, p.message, p.header)
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
		if r.Repeats != nil && r.Repeats() {
			r.result.Repeated++
			if err := to.Step(fedkv.BlockOffered{From: p.from, Header: p.header}); err == nil {
				r.check(fmt.Errorf("a block that had come is taken again: %+v", p.header))
			}
		}
		staged.put(p, len(r.Segments[p.from]))
		r.result.Transfers = append(r.result.Transfers, Transfer{p.from, number, p.header.Layer, p.header.Length, p.kept})
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
	r.trace("%v have passed", next)
	r.check(r.pub.Step(fedkv.Tick{Now: next}))
	for _, m := range r.members {
		r.check(m.machine.Step(fedkv.Tick{Now: next}))
	}
	r.drain()
	return true
}

// drain does what the machines ask for, and once more if somebody dies of it.
func (r *run) drain() {
	r.drainOnce()
	for r.died {
		r.died = false
		r.drainOnce()
	}
}

func (r *run) drainOnce() {
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
			if out.Owed {
				blocks, err := m.machine.Owed()
				r.check(err)
				r.send(i, blocks)
			}
			if out.Start != nil {
				m.work, m.selection = out.Start, out.Start.Rows
				m.station = r.newStation(i, out.Start.At)
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

// through is what rows look like after a journey in wire types. Centred K rows travel as they are at position 0.
func (p placed) through(types fedkv.WireTypes, headDim int) Rows {
	if types == (fedkv.WireTypes{}) {
		return p.Rows
	}
	turn := func(rows [][]float64, sign int) [][]float64 {
		out := make([][]float64, len(rows))
		for i, row := range rows {
			out[i] = append([]float64(nil), row...)
			if types.K.IsCentred() {
				rotate(out[i], sign*p.at[i], headDim)
			}
		}
		return out
	}
	return Rows{turn(journey(turn(p.K, -1), types.K), 1), journey(p.V, types.V)}
}

func journey(rows [][]float64, t fedkv.Type) [][]float64 {
	if len(rows) == 0 {
		return nil
	}
	elements := len(rows[0])
	var single []float32
	for _, row := range rows {
		for _, v := range row {
			single = append(single, float32(v))
		}
	}
	if err := t.DecodeRows(single, elements, t.AppendRows(nil, single, elements)); err != nil {
		panic(err) // both sides are ours
	}
	out := make([][]float64, len(rows))
	for i := range out {
		out[i] = make([]float64, elements)
		for j, v := range single[i*elements:][:elements] {
			out[i][j] = float64(v)
		}
	}
	return out
}
