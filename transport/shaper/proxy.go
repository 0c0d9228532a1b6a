// Package shaper is a UDP proxy that treats packets as a bad network does: it loses, delays and reorders them, limits
// their rate, is dead for a while, and moves clients to other addresses as a NAT does. It is for tests and measurements,
// needs no privileges, and equal seeds decide equally. It looks at nothing in a packet but whether it is of a QUIC
// handshake. Links by name are in link.go; in tcp.go is the same for the streams of programs that are measured beside.
//
//	proxy, err := shaper.Start("127.0.0.1:0", "127.0.0.1:7700", path, seed)
//	…dial proxy.Addr() instead of 127.0.0.1:7700…
//	proxy.Rebind()            // clients have other addresses from now on
//	proxy.Counts()            // what has happened: a test in which nothing did has tested nothing
//	proxy.Close()
package shaper

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPacket is the largest UDP payload.
	maxPacket = 65535
	// maxFlows bounds the clients of one proxy; packets of further ones are dropped.
	maxFlows = 256
	// maxWaiting bounds the packets on their way in one direction; further ones are dropped.
	maxWaiting = 1 << 16
	// socketBuffer is what the proxy's sockets hold, so that it loses nothing that the path does not.
	socketBuffer = 4 << 20
)

// Counts are packets since the start, both directions together.
type Counts struct {
	Passed    int64 // those that were delayed or overtaken included
	Lost      int64
	Handshake int64 // lost because they were of a handshake
	Down      int64 // lost while nothing passed
	Queue     int64 // lost because too many waited
	Overtaken int64
	Rebinds   int64 // clients that were moved
}

// Faults is how many packets did not have a good way, and how many clients were moved.
func (c Counts) Faults() int64 {
	return c.Lost + c.Handshake + c.Down + c.Queue + c.Overtaken + c.Rebinds
}

// Proxy passes packets between clients and one target.
type Proxy struct {
	front  *net.UDPConn
	target *net.UDPAddr
	path   Path
	start  time.Time

	counts [lostQueue + 1]atomic.Int64 // by fate
	over   atomic.Int64
	moved  atomic.Int64

	mu     sync.Mutex
	closed bool
	flows  map[netip.AddrPort]*flow
	lanes  [2]*lane // towards the target, and back
	pipes  [2]*line
	tasks  sync.WaitGroup
}

// flow is one client, and the socket by which the target sees it.
type flow struct {
	client netip.AddrPort
	back   *net.UDPConn
}

// Start listens at an address and passes packets on to a target.
func Start(listen, target string, path Path, seed uint64) (*Proxy, error) {
	to, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		return nil, err
	}
	at, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return nil, err
	}
	front, err := net.ListenUDP("udp", at)
	if err != nil {
		return nil, err
	}
	p := &Proxy{front: front, target: to, path: path, start: time.Now(), flows: map[netip.AddrPort]*flow{}}
	for i := range p.lanes {
		p.lanes[i] = newLane(path, seed, uint64(i))
		p.pipes[i] = &line{wake: make(chan struct{}, 1), done: make(chan struct{})}
		p.tasks.Go(p.pipes[i].run)
	}
	buffers(front)
	p.tasks.Go(p.forward)
	return p, nil
}

// buffers asks for large ones; the kernel may grant less.
func buffers(c *net.UDPConn) {
	_ = c.SetReadBuffer(socketBuffer)
	_ = c.SetWriteBuffer(socketBuffer)
}

// Addr is where clients reach the target, host:port.
func (p *Proxy) Addr() string { return p.front.LocalAddr().String() }

// Counts is what has happened so far.
func (p *Proxy) Counts() Counts {
	return Counts{
		Passed: p.counts[passes].Load(), Lost: p.counts[lost].Load(), Handshake: p.counts[lostHandshake].Load(),
		Down: p.counts[lostDown].Load(), Queue: p.counts[lostQueue].Load(), Overtaken: p.over.Load(), Rebinds: p.moved.Load(),
	}
}

// Rebind gives every client another address, as a NAT does that has forgotten it: its next packet comes from there, and
// what the target still sends to the old one is lost.
func (p *Proxy) Rebind() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, f := range p.flows {
		_ = f.back.Close()
		delete(p.flows, client)
		p.moved.Add(1)
	}
}

// Close ends the proxy; packets on their way are lost.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for _, f := range p.flows {
		_ = f.back.Close()
	}
	p.mu.Unlock()
	err := p.front.Close()
	for _, l := range p.pipes {
		close(l.done)
	}
	p.tasks.Wait()
	return err
}

// forward takes packets of clients.
func (p *Proxy) forward() {
	buffer := make([]byte, maxPacket)
	for {
		n, from, err := p.front.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an answer of the network to an earlier packet
		}
		f := p.flow(from)
		if f == nil {
			continue
		}
		p.pass(0, buffer[:n], func(data []byte) { _, _ = f.back.WriteToUDP(data, p.target) })
	}
}

// flow is a client's; nil if there are too many, or the proxy is closed.
func (p *Proxy) flow(client netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil {
		return f
	}
	if p.closed || len(p.flows) >= maxFlows {
		return nil
	}
	local := &net.UDPAddr{IP: net.IPv4zero}
	if p.target.IP.To4() == nil {
		local.IP = net.IPv6unspecified
	}
	back, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil
	}
	buffers(back)
	f := &flow{client, back}
	p.flows[client] = f
	p.tasks.Go(func() { p.backward(f) })
	return f
}

// backward takes packets of the target for one client.
func (p *Proxy) backward(f *flow) {
	buffer := make([]byte, maxPacket)
	for {
		n, _, err := f.back.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.pass(1, buffer[:n], func(data []byte) { _, _ = p.front.WriteToUDPAddrPort(data, f.client) })
	}
}

// pass does with a packet what the path says.
func (p *Proxy) pass(direction int, data []byte, send func([]byte)) {
	now := time.Since(p.start)
	p.mu.Lock()
	at, overtaken, f := p.lanes[direction].packet(now, data)
	p.mu.Unlock()
	p.counts[f].Add(1)
	if f != passes {
		return
	}
	if overtaken {
		p.over.Add(1)
	}
	if at <= now {
		send(data)
		return
	}
	packet := append([]byte(nil), data...)
	if overtaken {
		time.AfterFunc(at-now, func() { send(packet) })
		return
	}
	if !p.pipes[direction].put(waiting{p.start.Add(at), packet, send}) {
		p.counts[lostQueue].Add(1)
	}
}

// line is the packets on their way in one direction, which arrive in order.
type line struct {
	wake, done chan struct{}

	mu    sync.Mutex
	queue []waiting
}

type waiting struct {
	at   time.Time
	data []byte
	send func([]byte)
}

func (l *line) put(w waiting) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxWaiting {
		return false
	}
	l.queue = append(l.queue, w)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// due takes what has to arrive by now, and says when the next packet does; 0 if there is none.
func (l *line) due(now time.Time) (list []waiting, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.queue) && !l.queue[n].at.After(now) {
		n++
	}
	list, l.queue = l.queue[:n:n], l.queue[n:]
	if len(l.queue) > 0 {
		next = l.queue[0].at.Sub(now)
	}
	return list, next
}

func (l *line) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		list, next := l.due(time.Now())
		for _, w := range list {
			w.send(w.data)
		}
		if len(list) > 0 {
			continue
		}
		if next == 0 {
			next = time.Hour
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-l.wake:
		case <-l.done:
			return
		}
	}
}
