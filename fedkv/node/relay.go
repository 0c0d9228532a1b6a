package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"slices"
	"sync"

	"fedattn/fedkv"
)

// Rows that go through the publisher, because two contributors of a lockstep session cannot reach each other: see
// fedkv.Relay. At the earlier one a blockSender seals blocks and sends them to the publisher; there a relayer passes
// them on; the later one checks the seal.

// Signer signs for this device.
type Signer interface {
	PublicKey() ed25519.PublicKey
	Sign(message []byte) []byte
}

// outOfReach reports whether a direct link failed because of the network, or for want of room, and not because somebody
// decided so.
func outOfReach(err error) bool {
	code := fedkv.CodeOf(err)
	return code == fedkv.CodeLost || code == fedkv.CodeDeadline || code == fedkv.CodeBusy || errors.Is(err, context.DeadlineExceeded)
}

// relaying is what a contribution knows of its paths through the publisher, under the exchange's lock.
type relaying struct {
	paths  map[int]fedkv.Nonce // to later contributors, as they were opened
	nonces map[int]fedkv.Nonce // that earlier contributors have to sign
	from   map[int]string      // identities of these
	taking bool                // blocks of the publisher's link are taken
	names  []string            // of everybody at the other ends
}

// drainRelay takes over what the machine says about paths; the exchange holds its lock.
func (s *contribution) drainRelay(r fedkv.ContributorReady) {
	if s.relay.paths == nil && len(r.Paths)+len(r.Vouched) > 0 {
		s.relay.paths, s.relay.nonces, s.relay.from = map[int]fedkv.Nonce{}, map[int]fedkv.Nonce{}, map[int]string{}
	}
	for _, p := range r.Paths {
		s.relay.paths[p.To] = p.Nonce
	}
	for _, p := range r.Vouched {
		s.x.tasks.start(func() { s.vouch(p) })
	}
}

// sendThroughPublisher lets rows for a later contributor go through the publisher; false if that one is lost instead.
func (s *contribution) sendThroughPublisher(to fedkv.Participant, sender *blockSender, why error) bool {
	s.x.log.Info().Str("peer", to.Name).Err(why).Msg("no direct link: asking the publisher to pass rows on")
	err := s.x.step(fedkv.Unreachable{Origin: to.Origin, Code: fedkv.CodeOf(why), Text: fedkv.CleanText(why.Error())})
	if err != nil {
		return false
	}
	var nonce fedkv.Nonce
	open := false
	err = s.x.await(s.x.live, func() bool {
		nonce, open = s.relay.paths[to.Origin]
		return open || s.machine.Lost(to.Origin)
	})
	if err != nil || !open {
		sender.drop()
		return true // why it is lost is known
	}
	s.x.mu.Lock()
	s.relay.names = append(s.relay.names, to.Name)
	s.x.mu.Unlock()
	sender.through(s.link, &seal{s.host.cfg.Signer, to.Origin, nonce})
	return true
}

// seal makes a contributor's blocks provable to one recipient.
type seal struct {
	signer Signer
	to     int
	nonce  fedkv.Nonce
}

// header is a block's header with its seal. Without one it is the header itself.
func (s *seal) header(h fedkv.BlockHeader, payload []byte) (fedkv.BlockHeader, error) {
	if s == nil {
		return h, nil
	}
	text, err := h.SealText(s.nonce, payload)
	if err != nil {
		return h, err
	}
	h.Seal = fedkv.Seal{Sealed: true, To: s.to}
	copy(h.Seal.Key[:], s.signer.PublicKey())
	copy(h.Seal.Signature[:], s.signer.Sign(text))
	return h, nil
}

// checkSeal reports a block that the device with this identity did not sign for this nonce.
func checkSeal(h fedkv.BlockHeader, payload []byte, nonce fedkv.Nonce, id string, device func(ed25519.PublicKey) string) error {
	key := ed25519.PublicKey(h.Seal.Key[:])
	if device(key) != id {
		return fedkv.Errorf(fedkv.CodeForged, "the rows of layer %d that came through the publisher are signed by another device", h.Layer)
	}
	text, err := h.SealText(nonce, payload)
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, text, h.Seal.Signature[:]) {
		return fedkv.Errorf(fedkv.CodeForged, "the rows of layer %d that came through the publisher are not what their owner signed for this session", h.Layer)
	}
	return nil
}

// vouch asks the owner whether an earlier contributor's rows may come through the publisher, which says who that is.
func (s *contribution) vouch(p fedkv.Participant) {
	taken := fedkv.RelayTaken{Origin: p.Origin}
	_, err := s.host.admit(p.ID, fedkv.RoleContributor)
	if err == nil && s.host.cfg.Device == nil {
		err = fedkv.Errorf(fedkv.CodeForbidden, "this device takes rows over direct links only")
	}
	if err == nil {
		_, err = rand.Read(taken.Nonce[:])
	}
	if err != nil {
		taken.Code, taken.Text = fedkv.CodeOf(err), fedkv.CleanText(err.Error())
	}
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	if err == nil {
		s.relay.nonces[p.Origin], s.relay.from[p.Origin] = taken.Nonce, p.ID
		s.relay.names = append(s.relay.names, p.Name)
		if !s.relay.taking {
			s.relay.taking = true
			s.x.tasks.start(func() { s.x.receiveBlocks(fedkv.PublisherLink, s.link) })
		}
	}
	_ = s.x.stepLocked(taken)
}

// takeSealed stages a block that came through the publisher, if its owner signed it.
func (s *contribution) takeSealed(from int, h fedkv.BlockHeader, rows Rows) {
	s.x.mu.Lock()
	nonce, id := s.relay.nonces[h.Origin], s.relay.from[h.Origin]
	s.x.mu.Unlock()
	if err := checkSeal(h, rows.Bytes, nonce, id, s.host.cfg.Device); err != nil {
		rows.Release()
		s.x.lost(h.Origin, err)
		return
	}
	s.x.stage(from, h.Origin, h, rows)
}

// relayer is the publisher's: it passes blocks on to one contributor, in order, and holds at most fedkv.MaxRelayQueue.
type relayer struct {
	link Link
	room chan struct{} // a place for each block that is held
	wake chan struct{}

	mu    sync.Mutex
	queue []relayedBlock
	ended bool
}

type relayedBlock struct {
	header fedkv.BlockHeader
	rows   Rows
}

// passOn gives a block to the recipient's relayer, and waits while that holds too many: then the sender's next blocks
// wait, too.
func (g *gathering) passOn(from int, h fedkv.BlockHeader, rows Rows) {
	to := h.Seal.To
	g.x.mu.Lock()
	err := g.x.stepLocked(fedkv.BlockIn{From: from, Header: h})
	r := g.relays[to]
	if err == nil && r == nil {
		r = &relayer{link: g.links[to], room: make(chan struct{}, fedkv.MaxRelayQueue), wake: make(chan struct{}, 1)}
		if g.relays == nil {
			g.relays = map[int]*relayer{}
		}
		g.relays[to] = r
		g.x.tasks.start(func() { r.run(g.x) })
	}
	g.x.mu.Unlock()
	if err != nil {
		rows.Release()
		return
	}
	select {
	case r.room <- struct{}{}:
	case <-g.x.ctx.Done():
		rows.Release()
		return
	}
	r.put(relayedBlock{h, rows})
}

func (r *relayer) put(b relayedBlock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		b.rows.Release()
		<-r.room
		return
	}
	r.queue = append(r.queue, b)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *relayer) next() (relayedBlock, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return relayedBlock{}, false
	}
	b := r.queue[0]
	r.queue = slices.Delete(r.queue, 0, 1)
	return b, true
}

// run passes blocks on until the exchange ends or the link is gone. A block that the recipient refuses is its own affair:
// it says relay end.
func (r *relayer) run(x *exchange) {
	defer r.end()
	for {
		b, ok := r.next()
		switch {
		case x.ctx.Err() != nil || r.link.Err() != nil:
			if ok {
				b.rows.Release()
				<-r.room
			}
			return
		case !ok:
			select {
			case <-r.wake:
			case <-x.ctx.Done():
			}
			continue
		}
		err := r.link.SendBlock(x.ctx, b.header, b.rows.Bytes)
		b.rows.Release()
		<-r.room
		if err != nil && x.ctx.Err() == nil {
			x.log.Debug().Err(err).Int("layer", b.header.Layer).Msg("a relayed block was not taken")
		}
	}
}

// end releases what is held, and lets nobody wait any more.
func (r *relayer) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for _, b := range r.queue {
		b.rows.Release()
		<-r.room
	}
	r.queue = nil
}
