package fedkv

import "slices"

// A session in time, layer by layer. A contributor's rows of a layer leave while it evaluates the next one, so that most
// of a transfer hides behind the evaluation; what is left of it is what the publisher waits for.

// parcelOf is rows of a layer that leave at a moment.
type parcelOf struct {
	from  int
	at    float64
	bytes int
}

// gather is the contributors' part where they run alone: when all rows are here, or ready to be asked.
func (f *forecast) gather(begin []float64) (here float64) {
	here = begin[f.publisher()]
	f.cost.Slowest = f.publisher()
	arrive := func(i int, at float64) {
		if at > here {
			here, f.cost.Slowest = at, i
		}
	}
	var coming []parcelOf // over the network, as they arrive at the publisher's end of it
	for i := range f.publisher() {
		parcels, computed := f.contribute(i, begin[i])
		p := f.Participants[i]
		switch {
		case f.stays(i):
			arrive(i, computed+p.Way.RTT.Seconds()/2)
			f.cost.Rounds = 0 // counted with the evaluation
		case p.Local:
			arrive(i, computed)
		default:
			pipe, last := NewPipe(p.Way), computed
			for _, parcel := range parcels {
				var at float64
				_, at = pipe.Send(parcel.at, parcel.bytes)
				coming = append(coming, parcelOf{i, at, parcel.bytes})
				f.cost.Parts[i].Sent += int64(parcel.bytes)
				f.cost.Received += int64(parcel.bytes)
				last = at
			}
			f.cost.Parts[i].Transfer = seconds(last - computed)
			f.cost.Rounds = 1
		}
	}
	// what all of them share
	slices.SortStableFunc(coming, func(a, b parcelOf) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return a.from - b.from
	})
	free := 0.0
	for _, parcel := range coming {
		at := parcel.at
		if f.Incoming > 0 {
			at = max(at, free+float64(parcel.bytes)/f.Incoming)
			free = at
		}
		arrive(parcel.from, at)
	}
	f.cost.Rows = seconds(here)
	return here
}

// contribute is when a contributor's rows leave it, and when it has computed all that it has to.
func (f *forecast) contribute(i int, at float64) (parcels []parcelOf, computed float64) {
	p, began := f.Participants[i], at
	sends := f.Schedules.Sends(i, len(f.Participants))
	if !p.Kept {
		at += f.prefix(i)
	}
	own := f.layout.Segments[i]
	reach := f.layout.Segments[f.publisher()].Offset
	for done := 0; done < p.Tokens; done += f.MicroBatch {
		n := min(f.MicroBatch, p.Tokens-done)
		for l, shape := range f.Shape.Layers {
			whole := p.Speed.Layer(shape, f.layers, f.Prefix+done, n)
			if f.stays(i) {
				at += whole
				continue
			}
			if l > sends.Last() {
				break
			}
			if p.Kept {
				whole = 0
			}
			at += KeysPart * whole
			if from := max(done, shape.FirstRow(own, reach)); sends.Sync(l) && from < done+n {
				rows := done + n - from
				if !p.Kept {
					at += p.Speed.Taking(float64(rows) * f.rowBytes(l))
				}
				parcels = append(parcels, parcelOf{i, at, f.blockBytes(l, rows)})
			}
			if l < sends.Last() {
				at += (1 - KeysPart) * whole
			}
		}
	}
	f.cost.Parts[i].Compute = seconds(at - began)
	return parcels, at
}

// blockBytes is a block with its header. The types were checked before.
func (f *forecast) blockBytes(layer, rows int) int {
	k, v, err := f.Shape.Layers[layer].BlockSize(f.Wire.At(layer), rows)
	if err != nil {
		return 0
	}
	return BlockHeaderSize + k + v
}

// evaluate is the publisher's part in gather: rows are placed and the own segment is evaluated, asking those whose rows
// stay home at every sync layer.
func (f *forecast) evaluate(at float64) (end float64) {
	me := f.Participants[f.publisher()]
	compute := f.prefix(f.publisher())
	if ready := f.cost.Ready.Seconds() + compute; ready > at {
		at = ready // nobody was waited for longer than the prefix took
	}
	began := at
	for l := range f.Shape.Layers {
		rows := float64(f.depth(l) - f.Prefix)
		at += me.Speed.Placing(rows * f.rowBytes(l))
	}
	for done := 0; done < me.Tokens; done += f.MicroBatch {
		n := min(f.MicroBatch, me.Tokens-done)
		for l := range f.Shape.Layers {
			at += f.publish(l, done, n, &f.cost)
		}
	}
	f.cost.Parts[f.publisher()].Compute = seconds(compute + at - began)
	return at
}

// publish is the seconds that n own tokens behind done others take at a layer, with the rounds to those whose rows stay
// home. What these send is added to the cost, unless it is nil.
func (f *forecast) publish(l, done, n int, cost *Cost) float64 {
	me, shape := f.Participants[f.publisher()], f.Shape.Layers[l]
	own := me.Speed.Layer(shape, f.layers, f.depth(l)+done, n)
	if !f.Schedules.Publisher.Sync(l) {
		return own
	}
	round, write := 0.0, 0.0
	for i, p := range f.Participants[:f.publisher()] {
		if !f.stays(i) {
			continue
		}
		asks, err1 := RoundHeader{Layer: l, Tokens: n, Type: f.Home}.Sized(shape)
		says, err2 := asks.Answers(shape)
		if err1 != nil || err2 != nil {
			continue // more tokens than go together; a session refuses that
		}
		if cost != nil {
			cost.Parts[f.publisher()].Sent += int64(RoundHeaderSize + asks.Length)
			cost.Parts[i].Sent += int64(RoundHeaderSize + says.Length)
			cost.Received += int64(RoundHeaderSize + says.Length)
		}
		write += crossing(RoundHeaderSize+asks.Length, p.Way.Down) // one after the other
		attend := p.Speed.Pair
		if n == 1 {
			attend = p.Speed.StepPair
		}
		seen := p.Tokens
		if shape.Window > 0 {
			seen = min(seen, shape.Window)
		}
		round = max(round, write+p.Way.RTT.Seconds()+RoundWork+attend*float64(n)*float64(seen)+crossing(RoundHeaderSize+says.Length, p.Way.Up))
	}
	if round == 0 {
		return own
	}
	if cost != nil {
		cost.Rounds++
	}
	attention := me.Speed.Pair * shape.pairs(f.depth(l)+done, n)
	if n == 1 {
		attention = me.Speed.StepPair * shape.pairs(f.depth(l)+done, 1)
	}
	return own + max(0, round-attention) // queries are on their way before the own attention begins
}

func crossing(bytes int, rate float64) float64 {
	if rate <= 0 {
		return 0
	}
	return float64(bytes) / rate
}

// step is the seconds of a token of the answer, so many of which are there.
func (f *forecast) step(answered int) (total float64) {
	f.cost.Answer = 0
	at := f.Participants[f.publisher()].Tokens + answered
	for l, shape := range f.Shape.Layers {
		total += f.publish(l, at, 1, nil)
		if !f.Schedules.Publisher.Sync(l) {
			continue
		}
		for i := range f.publisher() {
			if asks, err := (RoundHeader{Layer: l, Tokens: 1, Type: f.Home}).Sized(shape); f.stays(i) && err == nil {
				says, _ := asks.Answers(shape)
				f.cost.Answer += int64(2*RoundHeaderSize + asks.Length + says.Length)
			}
		}
	}
	return total
}

// lockstep is the session in which contributors exchange rows in mid-forward: at each sync layer everybody waits for the
// rows of all who come earlier.
func (f *forecast) lockstep(begin []float64) (end float64) {
	n, at := len(f.Participants), slices.Clone(begin)
	pipes := make([]*Pipe, n)
	f.cost.Rows, f.cost.Slowest = f.cost.Ready, f.publisher()
	for i, p := range f.Participants {
		at[i] += f.prefix(i)
		pipes[i] = NewPipe(p.Way)
		f.cost.Parts[i].Compute = seconds(f.prefix(i))
	}
	for l := range f.Shape.Layers {
		keys := make([]float64, n)      // when a participant has sent its rows of the layer
		arrives := make([][]float64, n) // by sender and receiver
		for i, p := range f.Participants {
			own := f.layout.Segments[i]
			sends := f.Schedules.Sends(i, n)
			if i < f.publisher() && l > sends.Last() {
				continue
			}
			whole := f.wholeLayer(i, l)
			keys[i] = at[i] + KeysPart*whole
			arrives[i] = make([]float64, n)
			if sends.Sync(l) {
				keys[i] += p.Speed.Taking(float64(p.Tokens) * f.rowBytes(l))
			}
			for _, to := range publisherFirst(f.Schedules.Recipients(i, l, n), n) {
				first := f.Shape.Layers[l].FirstRow(own, f.layout.Segments[to].Offset)
				if first == p.Tokens {
					continue
				}
				bytes := f.blockBytes(l, p.Tokens-first)
				arrives[i][to] = f.carry(pipes[i], i, to, keys[i], bytes, begin[i])
				f.cost.Parts[i].Sent += int64(bytes)
				if to == f.publisher() {
					f.cost.Received += int64(bytes)
				}
			}
		}
		waited := false
		for i, p := range f.Participants {
			sends := f.Schedules.Sends(i, n)
			if i < f.publisher() && l >= sends.Last() {
				continue // K and V of the last layer are all that is needed
			}
			ready := keys[i]
			if f.Schedules.Of(i, n).Sync(l) {
				rows := 0
				for j := range i {
					if arrives[j] == nil || arrives[j][i] == 0 {
						continue
					}
					if ready < arrives[j][i] {
						ready = arrives[j][i]
						waited = true
						if i == f.publisher() {
							f.cost.Rows, f.cost.Slowest = seconds(ready), j
						}
					}
					rows += f.Participants[j].Tokens
				}
				ready += p.Speed.Placing(float64(rows) * f.rowBytes(l))
			}
			whole := f.wholeLayer(i, l)
			at[i] = ready + (1-KeysPart)*whole
			f.cost.Parts[i].Compute += seconds(whole)
		}
		if waited {
			f.cost.Rounds++
		}
	}
	return at[f.publisher()]
}

// publisherFirst is the order in which contributors send copies.
func publisherFirst(to []int, participants int) []int {
	if last := len(to) - 1; last >= 0 && to[last] == participants-1 {
		return append([]int{to[last]}, to[:last]...)
	}
	return to
}

// wholeLayer is the seconds of a participant's whole segment at a layer, all earlier rows there.
func (f *forecast) wholeLayer(i, l int) float64 {
	p, depth := f.Participants[i], f.Prefix
	if f.Schedules.Of(i, len(f.Participants)).Sync(l) {
		depth = f.layout.Segments[i].Offset
	}
	return p.Speed.Layer(f.Shape.Layers[l], f.layers, depth, p.Tokens)
}

// carry is when a block that leaves one participant, which knows since the commit whom to send to, arrives at a later one.
// Copies leave one after the other.
func (f *forecast) carry(pipe *Pipe, from, to int, at float64, bytes int, committed float64) float64 {
	path := f.Participants[from].Way
	if f.Participants[from].Local {
		path = f.Participants[to].Way.Back()
	}
	if to < f.publisher() && !f.Participants[to].Local && !f.Participants[from].Local {
		path = path.Over(f.Participants[to].Way)
	}
	pipe.Rate, pipe.RTT = path.Up, path.RTT.Seconds()
	if to == f.publisher() && f.Participants[from].Local {
		pipe.Rate, pipe.RTT = 0, 0
	}
	_, arrives := pipe.Send(at, bytes)
	if to < f.publisher() && !f.Participants[to].Local && !f.Participants[from].Local {
		// a direct link is dialled at the commit: a handshake, Hello, Join
		arrives = max(arrives, committed+2.5*path.RTT.Seconds()+ConnectWork)
	}
	return arrives
}
