package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"fedattn/fedkv"
	"fedattn/fedkv/fedkvtest"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

// Peers that are allowed to take part, over sockets and mutual TLS, and break the protocol: as contributors in the middle
// of somebody's question, and as publishers at a node. Each is refused with a code, and the next honest answer is, bit for
// bit, the one without them. FEDATTN_T2_N is how many attacks there are, FEDATTN_T9_N how many of each kind of bad rows.

// raider is a contributor, or publisher, without manners: raw QUIC under a good identity.
type raider struct {
	conn    *quic.Conn
	control *quic.Stream
	random  *rand.Rand
	shape   fedkv.Shape

	hello  fedkv.Hello // its own
	plan   fedkv.Plan
	commit fedkv.Commit

	told chan fedkv.Code // codes of resets, closes, refusals and aborts
}

const raiderTokens = 4

// hear notes a code that the other side gave.
func (r *raider) hear(c fedkv.Code) {
	select {
	case r.told <- c:
	default:
	}
}

func (r *raider) raw(b ...byte) { _, _ = r.control.Write(b) }

func (r *raider) say(m fedkv.Message) {
	if frame, err := fedkv.AppendMessage(nil, m); err == nil {
		r.raw(frame...)
	}
}

// frame is a message as bytes, to be spoilt; its length field is set to what is there when it is sent.
func (r *raider) spoil(m fedkv.Message, spoil func(body []byte) []byte) {
	frame, err := fedkv.AppendMessage(nil, m)
	if err != nil {
		panic(err) // a test's own message
	}
	body := spoil(slices.Clone(frame[fedkv.FrameHeaderSize:]))
	out := binary.BigEndian.AppendUint32(nil, uint32(2+len(body)))
	out = append(append(out, frame[4:6]...), body...)
	r.raw(out...)
}

// header is one of a block that the plan says, of f16 rows.
func (r *raider) header(layer int) fedkv.BlockHeader {
	h := fedkv.BlockHeader{
		Session: r.plan.Session, Origin: r.plan.Origin, Layer: layer, Rows: raiderTokens, Kept: raiderTokens, Types: r.plan.Wire.At(layer),
	}
	k, v, err := r.shape.Layers[layer].BlockSize(h.Types, h.Rows)
	if err != nil {
		panic(err)
	}
	h.Length = k + v
	return h
}

// rows are finite, around 0.
func (r *raider) rows(h fedkv.BlockHeader, scale float64) (b []byte) {
	for len(b) < h.Length {
		b = fedkv.F16.AppendRow(b, []float32{float32(scale * r.random.NormFloat64())})
	}
	return b[:h.Length]
}

// block sends bytes as a stream of their own. A stream that ended, and all of which arrived, can be reset no more: what is to
// be refused stays open.
func (r *raider) block(end bool, parts ...[]byte) {
	stream, err := r.conn.OpenUniStream()
	if err != nil {
		return
	}
	go func() {
		<-stream.Context().Done()
		var refused *quic.StreamError
		if errors.As(context.Cause(stream.Context()), &refused) && refused.Remote {
			r.hear(fedkv.Code(refused.ErrorCode))
		}
	}()
	for _, part := range parts {
		if _, err := stream.Write(part); err != nil {
			return
		}
	}
	if end {
		_ = stream.Close()
	}
}

// headed sends a block with a header whose bytes are changed, or that is changed before it is written.
func (r *raider) headed(change func(h *fedkv.BlockHeader), bytes func(b []byte)) {
	h := r.header(0)
	if change != nil {
		change(&h)
	}
	raw, err := h.AppendMarshal(nil)
	if err != nil { // beyond what the format can say: the bytes of the one that it can
		raw, _ = r.header(0).AppendMarshal(nil)
	}
	if bytes != nil {
		bytes(raw)
	}
	r.block(false, raw, r.rows(r.header(0), 1))
}

func (r *raider) any(b []byte) { b[r.random.IntN(len(b))] ^= byte(1 + r.random.IntN(255)) }

// attack is one way to break the rules.
type attack struct {
	name string
	when fedkv.MessageType // instead of this message, or instead of rows: after MessageCommit was received
	do   func(r *raider)
	// code of the refusal; 0: any. Of what is dropped in silence nothing is heard.
	code   fedkv.Code
	silent bool
	bad    bool // of T9: bad rows
}

func bytesAt(at int, with ...byte) func([]byte) { return func(b []byte) { copy(b[at:], with) } }

var garbled = []attack{
	{name: "a frame over the limit", do: func(r *raider) { r.raw(0, 0, 0x80, 1, 0, 2) }, code: fedkv.CodeProtocol},
	{name: "a frame of 4 GiB", do: func(r *raider) { r.raw(0xff, 0xff, 0xff, 0xff, 0, 2) }, code: fedkv.CodeProtocol},
	{name: "a frame of no bytes", do: func(r *raider) { r.raw(0, 0, 0, byte(r.random.IntN(2)), 0, 2) }, code: fedkv.CodeProtocol},
	{name: "no CBOR", do: func(r *raider) { r.raw(0, 0, 0, 5, 0, byte(1+r.random.IntN(12)), 0xff, 0xff, 0xff) }, code: fedkv.CodeProtocol},
	{name: "an empty body", do: func(r *raider) { r.raw(0, 0, 0, 2, 0, byte(1+r.random.IntN(12))) }, code: fedkv.CodeProtocol},
	{name: "bytes after the body", do: func(r *raider) {
		r.spoil(r.hello.Welcome(""), func(b []byte) []byte { return append(b, byte(r.random.Uint32())) })
	}, code: fedkv.CodeProtocol},
	{name: "a body cut short", do: func(r *raider) {
		r.spoil(r.hello.Welcome(""), func(b []byte) []byte { return b[:r.random.IntN(len(b))] })
	}, code: fedkv.CodeProtocol},
	{name: "an indefinite map", do: func(r *raider) { r.raw(0, 0, 0, 4, 0, 5, 0xbf, 0xff) }, code: fedkv.CodeProtocol},
	{name: "a key twice", do: func(r *raider) { r.raw(0, 0, 0, 7, 0, 5, 0xa2, 2, 1, 2, 1) }, code: fedkv.CodeProtocol},
	{name: "deep nesting", do: func(r *raider) {
		r.raw(append([]byte{0, 0, 0, 66, 0, 5, 0xa1, 0x18, 99}, slices.Repeat([]byte{0x81}, 61)...)...)
	}, code: fedkv.CodeProtocol},
	{name: "the end of the control stream", do: func(r *raider) { _ = r.control.Close() }, code: fedkv.CodeProtocol},
	{name: "the end inside a frame", do: func(r *raider) { r.raw(0, 0, 0, 9, 0, 5, 1); _ = r.control.Close() }, code: fedkv.CodeProtocol},
	{name: "a reset control stream", do: func(r *raider) { r.control.CancelWrite(quic.StreamErrorCode(r.random.IntN(100))) }, code: fedkv.CodeProtocol},
}

var raids = append([]attack{
	{name: "text that is not UTF-8", when: fedkv.MessageWelcome, do: func(r *raider) {
		r.spoil(r.hello.Welcome(""), func(b []byte) []byte { b[slices.Index(b, 'r')] = 0xff; return b })
	}, code: fedkv.CodeProtocol},
	{name: "another model", when: fedkv.MessageWelcome, do: func(r *raider) {
		r.any(r.hello.Model.Shape[:])
		r.say(r.hello.Welcome(""))
	}, silent: true, bad: true}, // the publisher closes, and tells its user
	{name: "commit instead of welcome", when: fedkv.MessageWelcome, do: func(r *raider) {
		r.say(fedkv.Commit{Session: fedkv.SessionID{1}, Roster: []fedkv.Participant{{ID: "x", Name: "x", Tokens: 1}}})
	}, code: fedkv.CodeOrder},
	{name: "ready with more tokens than allowed", when: fedkv.MessageReady, do: func(r *raider) {
		r.say(fedkv.Ready{Session: r.plan.Session, Tokens: r.plan.MaxTokens + 1 + r.random.IntN(1000)})
	}},
	{name: "ready twice", when: fedkv.MessageReady, do: func(r *raider) {
		r.say(fedkv.Ready{Session: r.plan.Session, Tokens: 1})
		r.say(fedkv.Ready{Session: r.plan.Session, Tokens: 2})
	}, code: fedkv.CodeOrder},
	{name: "done before anything", when: fedkv.MessageReady, do: func(r *raider) { r.say(fedkv.Done{Session: r.plan.Session}) }, code: fedkv.CodeOrder},
	{name: "a plan for the publisher", when: fedkv.MessageReady, do: func(r *raider) { r.say(r.plan) }, code: fedkv.CodeOrder},
	{name: "rows before the commit", when: fedkv.MessageReady, do: func(r *raider) { r.headed(nil, nil) }},
	{name: "a block without magic", do: func(r *raider) { r.headed(nil, func(b []byte) { r.any(b[:4]) }) }, code: fedkv.CodeProtocol},
	{name: "a block of another version", do: func(r *raider) { r.headed(nil, func(b []byte) { r.any(b[4:6]) }) }, code: fedkv.CodeVersion},
	{name: "reserved bits", do: func(r *raider) { r.headed(nil, func(b []byte) { r.any(b[6:8]) }) }, code: fedkv.CodeProtocol},
	{name: "another session", do: func(r *raider) { r.headed(func(h *fedkv.BlockHeader) { r.any(h.Session[:]) }, nil) }, code: fedkv.CodeSession, bad: true},
	{name: "another origin", do: func(r *raider) { r.headed(func(h *fedkv.BlockHeader) { h.Origin ^= 1 }, nil) }, code: fedkv.CodeForbidden, bad: true},
	{name: "a layer that is not synchronised", do: func(r *raider) { r.headed(func(h *fedkv.BlockHeader) { h.Layer = 6 + r.random.IntN(500) }, nil) }, code: fedkv.CodeRange, bad: true},
	{name: "rows beyond the segment", do: func(r *raider) { r.headed(func(h *fedkv.BlockHeader) { h.First = 1 + r.random.IntN(1000) }, nil) }, code: fedkv.CodeRange, bad: true},
	{name: "no rows", do: func(r *raider) { r.headed(nil, bytesAt(32, 0, 0, 0, 0)) }, code: fedkv.CodeRange},
	{name: "a million rows", do: func(r *raider) { r.headed(nil, bytesAt(32, 0, 0x10, 0, 0)) }, code: fedkv.CodeRange},
	{name: "4 GiB of rows", do: func(r *raider) { r.headed(nil, bytesAt(40, 0xff, 0xff, 0xff, 0xff)) }, code: fedkv.CodeRange},
	{name: "other types", do: func(r *raider) {
		r.headed(func(h *fedkv.BlockHeader) { h.Types = fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q8_0} }, nil)
	}, code: fedkv.CodeTypes},
	{name: "unknown types", do: func(r *raider) { r.headed(nil, bytesAt(36, byte(9+r.random.IntN(6)))) }, code: fedkv.CodeTypes},
	{name: "a length that is not what the rows take", do: func(r *raider) {
		r.headed(func(h *fedkv.BlockHeader) { h.Length += 1 + r.random.IntN(1000) }, nil)
	}, code: fedkv.CodeRange},
	{name: "more rows kept than there are", do: func(r *raider) { r.headed(nil, bytesAt(44, 0, 0, 1, byte(r.random.IntN(256)))) }, code: fedkv.CodeRange},
	{name: "a bitmap of other rows", do: func(r *raider) {
		h := r.header(0)
		h.Kept, h.Length = 1, 1+h.Length/raiderTokens
		raw, _ := h.AppendMarshal(nil)
		r.block(true, raw, []byte{0xff}, r.rows(h, 1)[1:])
	}, code: fedkv.CodeRange},
	{name: "a header cut short", do: func(r *raider) {
		raw, _ := r.header(0).AppendMarshal(nil)
		r.block(true, raw[:r.random.IntN(len(raw))])
	}, silent: true}, // the stream is over: there is nothing left to reset
	{name: "rows cut short", do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		r.block(true, raw, r.rows(h, 1)[:r.random.IntN(h.Length)])
	}},
	{name: "rows that go on", do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		r.block(true, raw, r.rows(h, 1), []byte{1})
	}},
	{name: "a value that is not finite", do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		rows := r.rows(h, 1)
		at := 2 * r.random.IntN(len(rows)/2)
		binary.LittleEndian.PutUint16(rows[at:], []uint16{0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x7c01}[r.random.IntN(5)])
		r.block(true, raw, rows)
	}, code: fedkv.CodeValue, bad: true},
	{name: "the same rows again", do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		rows := r.rows(h, 1)
		r.block(true, raw, rows)
		time.Sleep(5 * time.Millisecond)
		r.block(false, raw, rows)
	}, code: fedkv.CodeDuplicate, bad: true},
	{name: "other rows in place of those that came", do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		r.block(true, raw, r.rows(h, 1))
		time.Sleep(5 * time.Millisecond)
		r.block(false, raw, r.rows(h, 1))
	}, code: fedkv.CodeDuplicate, bad: true},
	{name: "half of the rows again", do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		r.block(true, raw, r.rows(h, 1))
		time.Sleep(5 * time.Millisecond)
		h.First, h.Rows, h.Kept, h.Length = 2, 2, 2, h.Length/2
		raw, _ = h.AppendMarshal(nil)
		r.block(false, raw, r.rows(h, 1))
	}, code: fedkv.CodeDuplicate, bad: true},
	{name: "a stream of its own kind", do: func(r *raider) {
		if s, err := r.conn.OpenStream(); err == nil {
			_, _ = s.Write([]byte("hello"))
		}
	}, silent: true},
	{name: "a message of the future", do: func(r *raider) { r.raw(0, 0, 0, 3, 0x7f, 0xff, 0xa0) }, silent: true},
}, garbled...)

// raidAsPublisher are attacks on a node, by somebody whom its owner lets ask.
var raidsAsPublisher = append([]attack{
	{name: "another protocol", when: fedkv.MessageHello, do: func(r *raider) {
		r.spoil(r.hello, func(b []byte) []byte { b[2] = 2; return b })
	}, code: fedkv.CodeVersion},
	{name: "another engine", when: fedkv.MessageHello, do: func(r *raider) { r.hello.Engine = "other"; r.say(r.hello) }, code: fedkv.CodeVersion},
	{name: "ready instead of hello", when: fedkv.MessageHello, do: func(r *raider) { r.say(fedkv.Ready{Session: fedkv.SessionID{1}, Tokens: 1}) }, code: fedkv.CodeOrder},
	{name: "hello twice", when: fedkv.MessagePlan, do: func(r *raider) { r.say(r.hello) }, code: fedkv.CodeOrder},
	{name: "commit without plan", when: fedkv.MessagePlan, do: func(r *raider) {
		r.say(fedkv.Commit{Session: fedkv.SessionID{1}, Roster: []fedkv.Participant{{ID: "x", Name: "x", Tokens: 1}}})
	}, silent: true}, // of a session that there is not
	{name: "a plan for another model", when: fedkv.MessagePlan, do: func(r *raider) {
		r.plan.Schedules, _ = fedkv.ParseSchedules("gather", 7)
		r.plan.Wire = fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, 7)
		r.say(r.plan)
	}},
	{name: "a token that does not exist", when: fedkv.MessagePlan, do: func(r *raider) {
		r.plan.Prefix = []fedkv.Token{fedkv.Token(1000 + r.random.IntN(1<<30))}
		r.say(r.plan)
	}},
	{name: "a layer that does not exist", when: fedkv.MessagePlan, do: func(r *raider) {
		r.spoil(r.plan, func(b []byte) []byte { b[slices.Index(b, 0x86)+1] = 0x18; return b })
	}, code: fedkv.CodeProtocol},
	{name: "a roster without the node", when: fedkv.MessageCommit, do: func(r *raider) {
		r.commit.Roster[0].ID = "somebody else"
		r.say(r.commit)
	}},
	{name: "a roster with a gap", when: fedkv.MessageCommit, do: func(r *raider) {
		r.spoil(r.commit, func(b []byte) []byte { b[slices.Index(b, 3)+1]++; return b })
	}},
	{name: "rows for a contributor that needs none", when: fedkv.MessageCommit, do: func(r *raider) { r.headed(nil, nil) }, silent: true},
}, garbled...)

// linked is an endpoint as package node sees it.
type linked struct{ *Endpoint }

type nodeLink struct{ *Peer }

func (l linked) Dial(ctx context.Context, to node.Address) (node.Link, error) {
	p, err := l.Endpoint.Dial(ctx, PeerAddress{ID: ID(to.ID), HostPort: to.HostPort})
	if err != nil {
		return nil, &fedkv.Error{Code: fedkv.CodeOf(err), Text: err.Error()}
	}
	return nodeLink{p}, nil
}

func (l linked) Accept(ctx context.Context) (node.Link, error) {
	p, err := l.Endpoint.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return nodeLink{p}, nil
}

func (l nodeLink) ID() string { return string(l.Peer.ID()) }

func (l nodeLink) Flush(ctx context.Context) error {
	_, err := l.Ping(ctx)
	return err
}

func (l nodeLink) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, node.Rows, error) {
	h, buffer, err := l.Peer.AcceptBlock(ctx, check)
	if err != nil {
		return h, node.Rows{}, err
	}
	return h, node.Rows{Bytes: buffer.Bytes(), Release: buffer.Release}, nil
}

func (l nodeLink) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	return l.Peer.SendBlock(ctx, h, rows)
}

func (l nodeLink) OpenRounds(ctx context.Context) (node.Rounds, error) { return l.Peer.OpenRounds(ctx) }
func (l nodeLink) AcceptRounds(ctx context.Context) (node.Rounds, error) {
	return l.Peer.AcceptRounds(ctx)
}

type fixedTokens []fedkv.Token

func (s fixedTokens) Segment(context.Context, fedkv.Plan) (fedkv.Text, error) {
	return fedkv.Text{Tokens: s}, nil
}

// battlefield is a publisher, an honest contributor that others may ask too, and a raider.
type battlefield struct {
	t         *testing.T
	engine    *nodetest.Engine
	publisher *Endpoint
	honest    *Endpoint
	want      [][]float32
	gather    time.Duration // for the rows
	took      time.Duration // of the last question, until its tokens were evaluated

	raiderID Identity
	raiders  *quic.Listener
	dialler  *quic.Transport
}

func newBattlefield(t *testing.T) *battlefield {
	b := &battlefield{t: t, engine: nodetest.NewEngine(), raiderID: newIdentity(t), gather: 10 * time.Second}
	b.publisher, b.honest = listenLoopback(t, Config{}), listenLoopback(t, Config{})
	c := node.NewContributor(node.ContributorConfig{
		Engine: b.engine, Peers: linked{b.honest}, Self: b.engine.Hello("honest", fedkv.RoleContributor), ID: string(b.honest.ID()),
		Source: fixedTokens{1, 2, 3, 4, 5}, MaxContext: 1000, MicroBatch: 3, Sessions: 4,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = c.Serve(ctx) })
	t.Cleanup(func() { cancel(); serving.Wait() })

	certificate, err := selfSigned(b.raiderID)
	if err != nil {
		t.Fatal(err)
	}
	listen := func() *quic.Transport {
		socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: socket}
		t.Cleanup(func() { tr.Close(); socket.Close() })
		return tr
	}
	if b.raiders, err = listen().Listen(baseTLS(certificate, alpn), &quic.Config{MaxIncomingUniStreams: -1}); err != nil {
		t.Fatal(err)
	}
	b.dialler = listen()
	b.want, _, err = b.ask(false)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask is one honest question, and what the publisher's logits are.
func (b *battlefield) ask(withRaider bool) ([][]float32, node.Report, error) {
	schedules, err := fedkv.ParseSchedules("gather", b.engine.Model.Layers)
	if err != nil {
		return nil, node.Report{}, err
	}
	own := []fedkv.Token{7, 8, 9}
	q := node.Question{
		Engine: b.engine, Self: b.engine.Hello("publisher", fedkv.RolePublisher), ID: string(b.publisher.ID()), Prefix: []fedkv.Token{3, 1},
		Own: own, Schedules: schedules, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, b.engine.Model.Layers),
		Positions: fedkv.Canonical, MaxContext: 1000, Outputs: len(own), SetupBy: min(5*time.Second, b.gather/2), GatherBy: b.gather,
	}
	contact := func(name string, to node.Address) {
		q.Contacts = append(q.Contacts, node.Contact{Name: name, Dial: func(ctx context.Context) (node.Link, error) {
			return linked{b.publisher}.Dial(ctx, to)
		}})
	}
	contact("honest", node.Address{ID: string(b.honest.ID()), HostPort: b.honest.Addr().String()})
	if withRaider {
		contact("raider", node.Address{ID: string(b.raiderID.ID()), HostPort: b.raiders.Addr().String()})
	}
	began := time.Now()
	session, err := node.Ask(context.Background(), q)
	if err != nil {
		return nil, node.Report{}, err
	}
	b.took = time.Since(began)
	var logits [][]float32
	for i := range own {
		row, err := session.Logits(i)
		if err != nil {
			return nil, node.Report{}, err
		}
		logits = append(logits, row)
	}
	report := session.Report()
	return logits, report, session.Close()
}

func (b *battlefield) raider(conn *quic.Conn, control *quic.Stream, role fedkv.Role, random *rand.Rand) *raider {
	r := &raider{
		conn: conn, control: control, random: random, shape: b.engine.Shape(), hello: b.engine.Hello("raider", role), told: make(chan fedkv.Code, 8),
	}
	schedules, _ := fedkv.ParseSchedules("gather", len(r.shape.Layers))
	r.plan = fedkv.Plan{
		Session: fedkv.SessionID{9}, Schedules: schedules, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, len(r.shape.Layers)),
		Rows: fedkv.Selection{Kind: fedkv.RowsAll}, Positions: fedkv.Canonical, MaxTokens: 100, DeadlineMS: 10_000,
	}
	go func() {
		<-conn.Context().Done()
		var closed *quic.ApplicationError
		if errors.As(context.Cause(conn.Context()), &closed) && closed.Remote {
			r.hear(fedkv.Code(closed.ErrorCode))
		}
	}()
	return r
}

// await reads messages until one of a type, noting refusals and aborts on the way.
func (r *raider) await(frames *frameReader, typ any) bool {
	for {
		m, err := frames.next()
		if err != nil {
			return false
		}
		switch m := m.(type) {
		case fedkv.Refuse:
			r.hear(m.Code)
		case fedkv.Abort:
			r.hear(m.Code)
		case fedkv.Plan:
			r.plan = m
		case fedkv.Commit:
			r.commit = m
		}
		if typ != nil && fmt.Sprintf("%T", m) == fmt.Sprintf("%T", typ) {
			return true
		}
	}
}

// strike does what the attack says, and waits for the refusal.
func (r *raider) strike(a attack, frames *frameReader) (heard []fedkv.Code) {
	a.do(r)
	go r.await(frames, nil)
	wait := 10 * time.Second // on a busy machine, too
	if a.silent {
		wait = 10 * time.Millisecond
	}
	timeout := time.After(wait)
	for {
		select {
		case c := <-r.told:
			heard = append(heard, c)
			if c == a.code || a.code == 0 && c != 0 {
				return heard
			}
		case <-timeout:
			return heard
		}
	}
}

// contribute plays a contributor up to the attack.
func (b *battlefield) contribute(a attack, random *rand.Rand) (heard []fedkv.Code, fired bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := b.raiders.Accept(ctx)
	if err != nil {
		return nil, false
	}
	defer conn.CloseWithError(0, "")
	control, err := conn.AcceptStream(ctx)
	if err != nil {
		return nil, false
	}
	ping, err := openingPing(ctx, control)
	if err != nil {
		return nil, false
	}
	r := b.raider(conn, control, fedkv.RoleContributor, random)
	r.say(fedkv.Ping{Nonce: ping.Nonce, Reply: true})
	frames := &frameReader{from: control}
	if !r.await(frames, fedkv.Hello{}) {
		return nil, false
	}
	if a.when != fedkv.MessageWelcome {
		r.say(r.hello.Welcome(""))
		if !r.await(frames, fedkv.Plan{}) {
			return nil, false
		}
		if a.when != fedkv.MessageReady {
			r.say(fedkv.Ready{Session: r.plan.Session, Tokens: raiderTokens})
			if !r.await(frames, fedkv.Commit{}) {
				return nil, false
			}
		}
	}
	return r.strike(a, frames), true
}

// publish plays a publisher up to the attack.
func (b *battlefield) publish(a attack, random *rand.Rand) (heard []fedkv.Code, fired bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	certificate, err := selfSigned(b.raiderID)
	if err != nil {
		return nil, false
	}
	conn, err := b.dialler.Dial(ctx, b.honest.Addr(), baseTLS(certificate, alpn), &quic.Config{})
	if err != nil {
		return nil, false
	}
	defer conn.CloseWithError(0, "")
	control, err := openControl(ctx, conn)
	if err != nil {
		return nil, false
	}
	r := b.raider(conn, control, fedkv.RolePublisher, random)
	random2 := rand.New(rand.NewPCG(random.Uint64(), 1))
	for i := range r.plan.Session {
		r.plan.Session[i] = byte(64 + random2.IntN(64)) // none that the attacks look for
	}
	frames := &frameReader{from: control}
	if a.when != fedkv.MessageHello {
		r.say(r.hello)
		if !r.await(frames, fedkv.Welcome{}) {
			return nil, false
		}
		if a.when == fedkv.MessageCommit {
			r.say(r.plan)
			if !r.await(frames, fedkv.Ready{}) {
				return nil, false
			}
			r.commit = fedkv.Commit{Session: r.plan.Session, Prefix: 0, Roster: []fedkv.Participant{
				{Origin: 0, ID: string(b.honest.ID()), Name: "honest", Offset: 0, Tokens: 5},
				{Origin: 1, ID: string(b.raiderID.ID()), Name: "raider", Offset: 5, Tokens: 3},
			}}
		}
	}
	return r.strike(a, frames), true
}

// raid is one attack and the honest question that goes with it.
func (b *battlefield) raid(a attack, asPublisher bool, random *rand.Rand) (fired bool, err error) {
	var heard []fedkv.Code
	var logits [][]float32
	var report node.Report
	if asPublisher {
		heard, fired = b.publish(a, random)
		logits, report, err = b.ask(false)
	} else {
		var raiding sync.WaitGroup
		raiding.Go(func() { heard, fired = b.contribute(a, random) })
		logits, report, err = b.ask(true)
		raiding.Wait()
	}
	switch {
	case err != nil:
		return fired, err
	case !fired:
		return false, nil
	case !slices.EqualFunc(logits, b.want, slices.Equal[[]float32]):
		return true, errors.New("the honest answer is another one")
	case !a.silent && (len(heard) == 0 || a.code != 0 && !slices.Contains(heard, a.code)):
		return true, fmt.Errorf("heard %v, want %v", heard, a.code)
	case slices.Contains(heard, fedkv.CodeInternal):
		return true, fmt.Errorf("heard %v", heard)
	}
	for _, p := range report.Peers {
		switch {
		case p.Name == "honest" && p.Missing != nil:
			return true, fmt.Errorf("the honest one is missing: %v", p.Missing)
		case p.Name == "raider" && (p.Missing == nil || p.Missing.Code == fedkv.CodeInternal):
			return true, fmt.Errorf("the raider is not missing: %v", p.Missing)
		}
	}
	return true, nil
}

func TestHostilePeers(t *testing.T) {
	trials := fedkvtest.NewTrials(t, "T2", len(raids)+len(raidsAsPublisher))
	b := newBattlefield(t)
	var before, most int64
	for i := range trials.N {
		random := rand.New(rand.NewPCG(trials.Seed+uint64(i), 2))
		n := i
		if i >= len(raids)+len(raidsAsPublisher) { // each once, then any
			n = random.IntN(len(raids) + len(raidsAsPublisher))
		}
		a, asPublisher := attack{}, n >= len(raids)
		if asPublisher {
			a = raidsAsPublisher[n-len(raids)]
		} else {
			a = raids[n]
		}
		fired, err := b.raid(a, asPublisher, random)
		trials.Run(t, a.name, fired, err)
		if i == min(trials.N/2, 100) {
			before = fedkvtest.Resident()
		} else if i%100 == 99 {
			most = max(most, fedkvtest.Resident())
		}
	}
	most = max(most, fedkvtest.Resident())
	trials.Note("%d kinds of attack, memory %+.1f MiB", len(raids)+len(raidsAsPublisher), float64(most-before)/(1<<20))
	if most-before > 16<<20 {
		t.Errorf("memory grew by %d MiB", (most-before)>>20)
	}
	trials.Report(t)
}

// Bad rows are refused, of each kind. Rows that are only wrong are not, which docs/threat-model.md says: they are finite, of
// the right length, and nobody can tell.
func TestBadRows(t *testing.T) {
	trials := fedkvtest.NewTrials(t, "T9", 1)
	b := newBattlefield(t)
	each, kinds := trials.N, 0
	var names []string
	for _, a := range raids {
		if !a.bad {
			continue
		}
		kinds++
		names = append(names, a.name)
		for i := range each {
			random := rand.New(rand.NewPCG(trials.Seed+uint64(i), uint64(kinds)))
			fired, err := b.raid(a, false, random)
			trials.Run(t, a.name, fired, err)
		}
	}
	trials.N = each * kinds
	trials.Note("%d of each kind: %s", each, strings.Join(names, ", "))
	trials.Report(t)
}

func TestPlausibleRowsAreNotCaught(t *testing.T) {
	b := newBattlefield(t)
	huge := attack{name: "rows of huge norm", silent: true, do: func(r *raider) {
		for layer := range r.shape.Layers {
			h := r.header(layer)
			raw, _ := h.AppendMarshal(nil)
			r.block(true, raw, r.rows(h, 1000))
		}
		r.say(fedkv.Done{Session: r.plan.Session})
		time.Sleep(200 * time.Millisecond)
	}}
	var raiding sync.WaitGroup
	raiding.Go(func() { b.contribute(huge, rand.New(rand.NewPCG(1, 1))) })
	logits, report, err := b.ask(true)
	raiding.Wait()
	if err != nil || report.Present() != 2 {
		t.Fatalf("%d present, %v", report.Present(), err)
	}
	if slices.EqualFunc(logits, b.want, slices.Equal[[]float32]) {
		t.Error("the rows had no effect: nothing was tried")
	}
	for _, row := range logits {
		for _, v := range row {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatal("finite rows gave logits that are not")
			}
		}
	}
}

// One byte a second is a sign of life, and no answer waits for it beyond its deadline. FEDATTN_T8_N is how often.
func TestATrickleIsGivenUp(t *testing.T) {
	trials := fedkvtest.NewTrials(t, "T8", 1)
	b := newBattlefield(t)
	b.gather = 1500 * time.Millisecond
	trickle := attack{name: "a byte a second", silent: true, do: func(r *raider) {
		h := r.header(0)
		raw, _ := h.AppendMarshal(nil)
		stream, err := r.conn.OpenUniStream()
		if err != nil {
			return
		}
		_, _ = stream.Write(raw)
		for range 4 {
			if _, err := stream.Write([]byte{0}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}}
	longest := time.Duration(0)
	for range trials.N {
		var raiding sync.WaitGroup
		fired := false
		raiding.Go(func() { _, fired = b.contribute(trickle, rand.New(rand.NewPCG(1, 1))) })
		logits, report, err := b.ask(true)
		longest = max(longest, b.took)
		switch {
		case err != nil:
		case b.took > b.gather*11/10+time.Second/2: // and what a busy machine adds
			err = fmt.Errorf("it took %v", b.took)
		case report.Present() != 1 || report.Peers[1].Missing.Code != fedkv.CodeDeadline:
			err = fmt.Errorf("missing: %v", report.Peers[1].Missing)
		case !slices.EqualFunc(logits, b.want, slices.Equal[[]float32]):
			err = errors.New("the honest answer is another one")
		}
		raiding.Wait()
		trials.Run(t, trickle.name, fired, err)
	}
	trials.Note("a byte a second, a deadline of %v, at most %v", b.gather, longest.Round(time.Millisecond))
	trials.Report(t)
}
