package node_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// signer is a host's key.
type signer struct{ ed25519.PrivateKey }

func signerOf(i int) signer {
	return signer{ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), byte(1+i)))}
}

func (s signer) PublicKey() ed25519.PublicKey { return s.Public().(ed25519.PublicKey) }
func (s signer) Sign(message []byte) []byte   { return ed25519.Sign(s.PrivateKey, message) }
func holderOf(hosts int) func(ed25519.PublicKey) string {
	return func(key ed25519.PublicKey) string {
		for i := range hosts {
			if signerOf(i).PublicKey().Equal(key) {
				return fmt.Sprint("host", i)
			}
		}
		return "a stranger"
	}
}

// divide takes away the direct links between contributors: dialling fails with an error, or never ends. Everybody has a key
// to sign with.
func (s *stage) divide(why error) {
	for i, h := range s.hosts {
		h.config.Signer, h.config.Device = signerOf(i), holderOf(len(s.hosts))
		s.members[h.id] = unreachable{s.join(h.id), why}
	}
}

var noRoute = fedkv.Errorf(fedkv.CodeLost, "no route")

// What goes through the publisher is what goes directly: the session is the same, bit for bit.
func TestARelayedSessionIsTheDirectOne(t *testing.T) {
	for _, spec := range specs("lockstep", "H=2", "contributors=0-2;publisher=all") {
		for _, types := range []fedkv.WireTypes{f16, lossy} {
			for _, cast := range [][]int{{4, 2, 3}, {7, 1, 4, 2}, {2, 9, 1, 3, 1, 6, 4, 2}} {
				play(t, fmt.Sprint(spec, types, cast), func(t *testing.T) {
					direct := newStage(t, spec, types, cast...)
					direct.open()
					want := direct.mustAsk()
					direct.close()

					s := newStage(t, spec, types, cast...)
					s.divide(noRoute)
					s.open()
					o := s.mustAsk()
					s.close()
					s.check(o)
					if !equal(o.logits, want.logits) || o.report.Present() != len(s.hosts) {
						t.Errorf("not what the direct session gives; missing: %v\n%s", missing(o.report), s.log)
					}
					notes, paths := 0, len(s.hosts)*(len(s.hosts)-1)/2
					for i, h := range s.hosts {
						c := h.contributions()[0]
						if len(c.Missing) != 0 || len(c.Via) != len(s.hosts)-1 {
							t.Errorf("%s misses %v, and has %v", h.id, c.Missing, c.Via)
						}
						if got := o.report.Peers[i].Via; len(got) != len(s.hosts)-1-i {
							t.Errorf("the rows of %s went to %v", h.id, got)
						}
					}
					for _, note := range o.report.Notes {
						contains(t, note, "cannot reach each other", "via publisher")
						notes++
					}
					if notes != paths {
						t.Errorf("%d notes of %d paths", notes, paths)
					}
				})
			}
		}
	}
}

// A direct link that is not answered is given up in time for the rows to take the other way.
func TestAnUnansweredDialIsRelayedInTime(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "lockstep", lossy, 4, 2, 3, 3)
		s.divide(nil)
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		for _, h := range s.hosts {
			if c := h.contributions()[0]; len(c.Missing) != 0 {
				t.Errorf("%s misses %v", h.id, c.Missing)
			}
		}
		if o.took > 3*time.Second {
			t.Errorf("it took %v", o.took)
		}
	})
}

// Who may not be reached is not reached through the publisher either.
func TestWhatAnOwnerForbidsIsNotRelayed(t *testing.T) {
	for name, forbid := range map[string]func(s *stage){
		"the sender's owner":    func(s *stage) { s.divide(fedkv.Errorf(fedkv.CodeForbidden, "not that one")) },
		"the recipient's owner": func(s *stage) { s.divide(noRoute); s.hosts[1].config.Owner = publishersOnly{} },
		"no key to sign with":   func(s *stage) { s.divide(noRoute); s.hosts[0].config.Signer = nil },
		"nobody to check keys":  func(s *stage) { s.divide(noRoute); s.hosts[1].config.Device = nil },
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "lockstep", lossy, 4, 2, 3)
			forbid(s)
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			c := s.hosts[1].contributions()[0]
			if len(c.Missing) != 1 || c.Missing[0].Layer != 0 || c.Err != nil || o.report.Present() != 2 {
				t.Errorf("%+v; missing %v", c, missing(o.report))
			}
			if via := o.report.Peers[0].Via; len(via) != 0 {
				t.Errorf("rows went to %v", via)
			}
		})
	}
}

// publishersOnly is an owner who lets nobody contribute beside this device.
type publishersOnly struct{ node.Owner }

func (publishersOnly) Admit(_ string, role fedkv.Role) (node.Grant, error) {
	if role == fedkv.RoleContributor {
		return node.Grant{}, fedkv.Errorf(fedkv.CodeForbidden, "not beside that one")
	}
	return node.Grant{}, nil
}

func (publishersOnly) Consent(_ context.Context, _ node.Request) error { return nil }

// A publisher that changes what it passes on, or makes something up, or brings back what was signed for others, only loses
// the contributor whose rows these should be: the recipient goes on as if that one had left.
func TestForgedRelayedBlocksAreRefused(t *testing.T) {
	type crime = func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte)
	sign := func(i int, nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) fedkv.BlockHeader {
		text, err := h.SealText(nonce, rows)
		if err != nil {
			t.Fatal(err)
		}
		copy(h.Seal.Key[:], signerOf(i).PublicKey())
		copy(h.Seal.Signature[:], signerOf(i).Sign(text))
		return h
	}
	for name, test := range map[string]struct {
		do   crime
		code fedkv.Code
	}{
		"a changed row": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			rows = slices.Clone(rows)
			rows[2] ^= 1 // a code of the first group, which stays finite
			return h, rows
		}, fedkv.CodeForged},
		"a changed signature": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			h.Seal.Signature[0] ^= 1
			return h, rows
		}, fedkv.CodeForged},
		"another layer's rows": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			h.Layer ^= 1
			return h, rows
		}, fedkv.CodeForged},
		"signed by the publisher": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			return sign(7, nonce, h, rows), rows
		}, fedkv.CodeForged},
		"signed by the owner for another session": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			return sign(0, fedkv.Nonce{1}, h, rows), rows
		}, fedkv.CodeForged},
		"signed by another contributor": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			return sign(1, nonce, h, rows), rows
		}, fedkv.CodeForged},
		"an origin that is not on its way": {func(nonce fedkv.Nonce, h fedkv.BlockHeader, rows []byte) (fedkv.BlockHeader, []byte) {
			h.Origin, h.Seal.To = 1, 2
			return h, rows
		}, fedkv.CodeDeadline},
	} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "lockstep", fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q8_0}, 4, 2, 3)
			s.divide(noRoute)
			s.dialledAs = func(id string, l node.Link) node.Link {
				if id == "host1" {
					return &forger{Link: l, crime: test.do}
				}
				return l
			}
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			c := s.hosts[1].contributions()[0]
			if len(c.Missing) != 1 || c.Missing[0].Name != "host0" || c.Missing[0].Code != test.code || c.Err != nil {
				t.Errorf("%+v", c)
			}
			if o.report.Present() != 2 {
				t.Errorf("missing: %v", missing(o.report))
			}
		})
	}
}

// forger is a publisher's link to a contributor.
type forger struct {
	node.Link
	crime func(fedkv.Nonce, fedkv.BlockHeader, []byte) (fedkv.BlockHeader, []byte)

	mu    sync.Mutex
	nonce fedkv.Nonce // that the contributor wants signed: a publisher knows it
}

func (f *forger) Receive(ctx context.Context) (fedkv.Message, error) {
	m, err := f.Link.Receive(ctx)
	if open, ok := m.(fedkv.Relay); ok && open.State == fedkv.RelayOpen {
		f.mu.Lock()
		f.nonce = open.Nonce
		f.mu.Unlock()
	}
	return m, err
}

func (f *forger) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	f.mu.Lock()
	nonce := f.nonce
	f.mu.Unlock()
	h, rows = f.crime(nonce, h, rows)
	return f.Link.SendBlock(ctx, h, rows)
}

// A block that comes again is dropped, whoever brings it.
func TestRelayedBlocksThatComeAgainAreDropped(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "lockstep", lossy, 4, 2, 3)
		s.divide(noRoute)
		var mu sync.Mutex
		again := 0
		s.dialledAs = func(id string, l node.Link) node.Link {
			if id != "host1" {
				return l
			}
			return &nodetest.Watched{Link: l, Blocks: func(h fedkv.BlockHeader) []fedkv.BlockHeader {
				mu.Lock()
				defer mu.Unlock()
				again++
				return []fedkv.BlockHeader{h, h}
			}}
		}
		s.open()
		o := s.mustAsk()
		s.close()
		s.check(o)
		if c := s.hosts[1].contributions()[0]; again == 0 || len(c.Missing) != 0 {
			t.Errorf("%d blocks came twice: %+v", again, c)
		}
	})
}

// A contributor that dies is noticed by the other ends of its paths, and is the peer that left: hidden from then on.
func TestALostPeerOfARelayedSession(t *testing.T) {
	for victim := range 3 {
		for layer := range 4 {
			play(t, fmt.Sprint(victim, layer), func(t *testing.T) {
				s := newStage(t, "lockstep", lossy, 4, 2, 3, 3)
				s.divide(noRoute)
				h := s.hosts[victim]
				h.engine.Layer = func(l, first, _ int) error {
					if l == layer && first > 0 {
						arrive()
						h.kill()
					}
					return nil
				}
				s.open()
				o := s.mustAsk()
				s.close()
				s.check(o)
				if o.report.Peers[victim].Missing == nil || o.took > 10*time.Second {
					t.Errorf("after %v; missing %v", o.took, missing(o.report))
				}
			})
		}
	}
}

// Whatever the order in which blocks arrive at the publisher and go on from there.
func TestRelayedBlocksInAnyOrder(t *testing.T) {
	for seed := range uint64(4) {
		play(t, fmt.Sprint(seed), func(t *testing.T) {
			s := newStage(t, "lockstep", lossy, 4, 2, 3, 3)
			s.divide(noRoute)
			for i, h := range s.hosts {
				h.wrap = nodetest.Scatter(seed*8+uint64(i), 300*time.Millisecond)
			}
			late := nodetest.Scatter(seed, 300*time.Millisecond)
			s.dialledAs = func(_ string, l node.Link) node.Link { return late(l) }
			s.open()
			o := s.mustAsk()
			s.close()
			s.check(o)
			if o.report.Present() != 3 {
				t.Errorf("missing %v", missing(o.report))
			}
		})
	}
}
