package node

import (
	"context"
	"fmt"
	"net"
	"sync"

	"fedattn/fedkv"
)

// Memory is Peers without a network: every member of one Memory reaches every other by its ID. It serves participants
// in one process, the publisher's own documents among them, and tests. Messages and headers go through their wire
// encoding, so that nothing passes here that a real link would refuse.
type Memory struct {
	mu      sync.Mutex
	members map[string]*member
}

// NewMemory returns an empty network.
func NewMemory() *Memory { return &Memory{members: map[string]*member{}} }

// Join adds a device with the given identity.
func (m *Memory) Join(id string) Peers {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &member{network: m, id: id, incoming: make(chan *pipe)}
	m.members[id] = p
	return p
}

type member struct {
	network  *Memory
	id       string
	incoming chan *pipe
}

func (p *member) Dial(ctx context.Context, to Address) (Link, error) {
	p.network.mu.Lock()
	other := p.network.members[to.ID]
	p.network.mu.Unlock()
	if other == nil {
		return nil, fedkv.Errorf(fedkv.CodeLost, "no device %s here", to.ID)
	}
	near, far := newPipe(p.id, to.ID)
	select {
	case other.incoming <- far:
		return near, nil
	case <-ctx.Done():
		return nil, fedkv.Errorf(fedkv.CodeDeadline, "%s does not answer", to.ID)
	}
}

func (p *member) Accept(ctx context.Context) (Link, error) {
	select {
	case l := <-p.incoming:
		return l, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipeDepth bounds what one side may send ahead of the other; a full pipe makes the sender wait, as flow control does.
const pipeDepth = 64

type pipeBlock struct {
	header, rows []byte
}

// pipeEnd is what both ends share: closed once, with a reason.
type pipeEnd struct {
	once sync.Once
	done chan struct{}
	err  error
}

type pipe struct {
	id, addr         string // of the other side
	in, out          chan []byte
	blocksIn, blocks chan pipeBlock
	roundsIn, rounds chan net.Conn
	end              *pipeEnd
}

func newPipe(dialer, listener string) (near, far *pipe) {
	a, b := make(chan []byte, pipeDepth), make(chan []byte, pipeDepth)
	x, y := make(chan pipeBlock, pipeDepth), make(chan pipeBlock, pipeDepth)
	far2near, near2far := make(chan net.Conn, 1), make(chan net.Conn, 1)
	end := &pipeEnd{done: make(chan struct{})}
	near = &pipe{id: listener, addr: "memory", in: a, out: b, blocksIn: x, blocks: y, roundsIn: far2near, rounds: near2far, end: end}
	far = &pipe{id: dialer, addr: "memory", in: b, out: a, blocksIn: y, blocks: x, roundsIn: near2far, rounds: far2near, end: end}
	return near, far
}

func (p *pipe) ID() string   { return p.id }
func (p *pipe) Addr() string { return p.addr }

func (p *pipe) Send(ctx context.Context, m fedkv.Message) error {
	frame, err := fedkv.AppendMessage(nil, m)
	if err != nil {
		return err
	}
	return put(ctx, p.out, frame, p.end)
}

// put sends what is next. Nothing is sent after the end.
func put[T any](ctx context.Context, to chan<- T, next T, end *pipeEnd) error {
	select {
	case <-end.done:
		return end.err
	default:
	}
	select {
	case to <- next:
		return nil
	case <-end.done:
		return end.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipe) Receive(ctx context.Context) (fedkv.Message, error) {
	frame, err := take(ctx, p.in, p.end)
	if err != nil {
		return nil, err
	}
	typ, size, err := fedkv.ParseFrameHeader(frame[:fedkv.FrameHeaderSize])
	if err != nil {
		return nil, err
	}
	return fedkv.ParseMessage(typ, frame[fedkv.FrameHeaderSize:][:size])
}

// take is what comes next. What was sent before the end is delivered.
func take[T any](ctx context.Context, from <-chan T, end *pipeEnd) (next T, err error) {
	select {
	case next = <-from:
		return next, nil
	case <-end.done:
		err = end.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	select {
	case next = <-from:
		return next, nil
	default:
		return next, err
	}
}

func (p *pipe) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	header, err := h.AppendMarshal(nil)
	if err != nil {
		return err
	}
	if h.Length != len(rows) {
		return fmt.Errorf("node: a block of %d bytes whose header says %d", len(rows), h.Length)
	}
	return put(ctx, p.blocks, pipeBlock{header, append([]byte(nil), rows...)}, p.end)
}

func (p *pipe) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, Rows, error) {
	b, err := take(ctx, p.blocksIn, p.end)
	if err != nil {
		return fedkv.BlockHeader{}, Rows{}, err
	}
	h, err := fedkv.ParseBlockHeader(b.header)
	if err == nil {
		err = check(h)
	}
	return h, Rows{Bytes: b.rows, Release: func() {}}, err
}

func (p *pipe) OpenRounds(ctx context.Context) (Rounds, error) {
	near, far := net.Pipe()
	if err := put(ctx, p.rounds, far, p.end); err != nil {
		return nil, err
	}
	return p.until(near), nil
}

func (p *pipe) AcceptRounds(ctx context.Context) (Rounds, error) {
	conn, err := take(ctx, p.roundsIn, p.end)
	if err != nil {
		return nil, err
	}
	return p.until(conn), nil
}

// until closes a stream when the link ends.
func (p *pipe) until(conn net.Conn) Rounds {
	closed := make(chan struct{})
	go func() {
		select {
		case <-p.end.done:
			_ = conn.Close()
		case <-closed:
		}
	}()
	return &pipeRounds{Conn: conn, closed: closed}
}

type pipeRounds struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (r *pipeRounds) Close() error {
	r.once.Do(func() { close(r.closed) })
	return r.Conn.Close()
}

// Flush has nothing to wait for: what was sent before the end is delivered.
func (p *pipe) Flush(context.Context) error { return nil }

func (p *pipe) Close(code fedkv.Code, text string) error {
	p.end.once.Do(func() {
		p.end.err = fedkv.Errorf(code, "%s", text)
		close(p.end.done)
	})
	return nil
}

func (p *pipe) Err() error {
	select {
	case <-p.end.done:
		return p.end.err
	default:
		return nil
	}
}
