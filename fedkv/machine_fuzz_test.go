package fedkv

import (
	"slices"
	"testing"
	"time"
)

// FuzzSession steps both machines through any events: they may refuse, but never panic, never say anything
// that the wire would not take, and never end in two ways.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 3, 5, 4, 0, 5, 0, 1, 6, 0, 1})
	f.Add([]byte{0, 3, 4, 2, 0, 0, 2, 0, 0, 3, 0, 9, 6, 2, 0, 5, 0, 0, 2, 0, 0, 5, 0, 2, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 1, 0, 3, 5, 12, 3, 7, 0, 1, 2, 0, 11, 1, 2, 9, 6, 0, 1})
	f.Add([]byte{1, 1, 0, 0, 0, 2, 4, 3, 200, 2, 5, 0, 0, 9, 9, 9, 7, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func() int {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			return int(b)
		}
		small := func() int { return next()%6 - 1 }
		session := func() SessionID {
			id := bookSession
			if next()%8 == 7 {
				id[0]++
			}
			return id
		}
		spec := []string{"gather", "lockstep", "H=2", "contributors=0;publisher=1-", "none"}[next()%5]
		cfg := publisherConfig(t, spec, next()%4)
		if window := next() % 8; window > 0 {
			cfg.Shape.Layers[0].Window, cfg.Shape.Layers[1].Window = window, window
			if cfg.Schedules.Regime() == Gather {
				cfg.Positions = Canonical
			}
		}
		byQuery := next()%4 == 3
		if byQuery {
			cfg.Rows = RowPolicy{Kind: RowsQuery, Shares: []Share{5000}}
		}
		p, err := NewPublisher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		cc := contributorConfig()
		cc.Shape = cfg.Shape
		c, err := NewContributor(cc)
		if err != nil {
			t.Fatal(err)
		}
		hello := func() Hello { return machineHello("peer", Role(next()%3)) }
		plan := lockstepPlan(t)
		plan.Schedules, plan.Positions, plan.Rows = cfg.Schedules, cfg.Positions, cfg.Rows.Of(1)
		queries := queriesOf(cfg.Shape, 1+next()%2)
		message := func() Message {
			switch next() % 16 {
			case 0:
				return hello()
			case 1:
				return hello().Welcome("")
			case 2:
				return Refuse{Code(next()), ""}
			case 3:
				m := plan
				m.Session, m.Origin, m.MaxTokens = session(), small(), small()
				return m
			case 4:
				return Ready{session(), small()}
			case 5:
				m := lockstepCommit()
				m.Session = session()
				switch next() % 4 {
				case 2: // without the first or the last contributor
					out := 2 * (next() % 2)
					m.Roster = slices.Delete(m.Roster, out, out+1)
				case 3:
					m.Roster[next()%4].Tokens = small()
				}
				offset := m.Prefix
				for i := range m.Roster {
					m.Roster[i].Offset = offset
					offset += m.Roster[i].Tokens
				}
				return m
			case 6:
				return Join{session(), small()}
			case 7:
				return Done{Session: session()}
			case 8:
				return Abort{session(), Code(next()), ""}
			case 9:
				return Receipt{Session: session()}
			case 10:
				m := Queries{session(), 1 + next()%3, nil}
				for l := next() % 4; l < 3; l++ {
					m.Layers = append(m.Layers, LayerQuery{l, make([]byte, 32*(1+next()%4))})
				}
				return m
			case 14:
				return Sources{session(), []Source{{"a", small()}, {"", 1}}}
			case 15:
				return Withdraw{session(), ""}
			case 11:
				return Waiting{session(), 1 + next()%8, next()}
			case 12:
				m := Relay{Session: session(), From: small(), To: small(), State: RelayState(next() % 4)}
				switch m.State {
				case RelayOpen:
					m.Nonce[0] = 1
				case RelayEnd:
					m.Code = CodeLost
				}
				return m
			}
			return Ping{uint64(next()), next()%2 == 0}
		}
		header := func() BlockHeader {
			h := bookHeader(small(), small(), small(), small())
			h.Session = session()
			if next()%3 == 0 {
				h.Seal = Seal{Sealed: true, To: small()}
			}
			return h
		}
		publisherEnds, contributorEnds := 0, 0
		now := time.Duration(0)
		for len(data) > 0 {
			var e Event
			switch next() % 15 {
			case 0:
				e = PeerUp{small(), machineHello("peer", RoleContributor).Welcome(""), "key", "a:1"}
			case 1:
				e = PeerDown{small(), Code(next()), ""}
			case 2, 3, 4:
				e = Received{small(), message()}
			case 5:
				e = BlockOffered{small(), header()}
			case 6:
				e = BlockIn{small(), header()}
			case 7:
				e = BlockSent{small(), header()}
			case 8:
				e = Joined{"key-" + string(rune('0'+next()%5)), Join{session(), small()}}
			case 9:
				e = Tokenised{small()}
			case 10:
				now += time.Duration(next()) * 100 * time.Millisecond
				e = Tick{now}
			case 11:
				e = Queried{queries[:next()%4]}
			case 12:
				e = Queued{small(), time.Duration(next()) * time.Second}
			case 13:
				e = Unreachable{small(), Code(next()), ""}
			case 14:
				e = RelayTaken{small(), Nonce{1}, Code(next() % 2), ""}
			}
			_, _ = p.Step(e), c.Step(e)
			if next()%4 == 0 {
				rows := small()
				var keep []bool
				for range max(rows, 0) * (next() % 2) {
					keep = append(keep, next()%2 == 0)
				}
				_, _ = c.Blocks(small(), small(), rows, keep)
				_, _ = c.Owed()
			}
			_, _, _, _ = p.Pending(small()), c.Pending(small()), p.Shift(small()), p.Missing()
			for _, deadline := range []func() (time.Duration, bool){p.Deadline, c.Deadline} {
				if at, ok := deadline(); ok && at <= now && now > 0 {
					t.Fatalf("it is %v and a deadline at %v has not passed", now, at)
				}
			}
			pr, cr := p.Ready(), c.Ready()
			p.Advance()
			c.Advance()
			for _, list := range [][]Outbound{pr.Messages, cr.Messages} {
				for _, m := range list {
					if _, err := AppendMessage(nil, m.Message); err != nil {
						t.Fatalf("%T is not valid: %v", m.Message, err)
					}
				}
			}
			if pr.Failed != nil {
				publisherEnds++
			}
			if cr.Failed != nil {
				contributorEnds++
			}
			if cr.Finished {
				contributorEnds++
			}
			if publisherEnds > 1 || contributorEnds > 1 {
				t.Fatal("ended twice")
			}
		}
	})
}
