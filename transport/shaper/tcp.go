package shaper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// segment is how many bytes of a stream go on their way together: small enough that a slow link passes them one after
	// the other, as it does packets.
	segment = 16 << 10
	// maxStreams bounds the connections of one proxy; further ones are closed.
	maxStreams = 256
	// dialTime is how long a target may take to take a connection.
	dialTime = 10 * time.Second
)

// TCPProxy passes streams between clients and one target. What a stream has on its way is bounded as a socket's buffers
// bound it: whoever sends more waits. All streams of a direction share its rate.
type TCPProxy struct {
	listener net.Listener
	target   string
	path     Path
	start    time.Time

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
	lanes  [2]*lane // towards the target, and back
	tasks  sync.WaitGroup
}

// StartTCP listens at an address and passes streams on to a target. Of the path, rate and delay count: what is lost on a
// TCP connection comes again, so loss and reordering, and links that are down, are refused.
func StartTCP(listen, target string, path Path) (*TCPProxy, error) {
	if path != (Path{Rate: path.Rate, Delay: path.Delay, Queue: path.Queue}) {
		return nil, fmt.Errorf("a stream cannot be treated as %v: it has a rate, a delay and a queue", path)
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	p := &TCPProxy{listener: listener, target: target, path: path, start: time.Now(), open: map[net.Conn]bool{}}
	for i := range p.lanes {
		p.lanes[i] = newLane(path, 0, uint64(i))
	}
	p.tasks.Go(p.accept)
	return p, nil
}

// Addr is where clients reach the target, host:port.
func (p *TCPProxy) Addr() string { return p.listener.Addr().String() }

// Close ends the proxy and its streams.
func (p *TCPProxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.tasks.Wait()
	return err
}

func (p *TCPProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // too many files are open, which may pass
			continue
		}
		if !p.keep(client) {
			continue
		}
		p.tasks.Go(func() { p.serve(client) })
	}
}

// keep has a connection closed with the proxy; one that is too many is closed at once.
func (p *TCPProxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.open) >= 2*maxStreams {
		_ = c.Close()
		return false
	}
	p.open[c] = true
	return true
}

func (p *TCPProxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *TCPProxy) serve(client net.Conn) {
	defer p.drop(client)
	target, err := net.DialTimeout("tcp", p.target, dialTime)
	if err != nil || !p.keep(target) {
		return
	}
	defer p.drop(target)
	var both sync.WaitGroup
	both.Go(func() { p.stream(0, client, target) })
	both.Go(func() { p.stream(1, target, client) })
	both.Wait()
}

// piece is bytes of a stream that arrive at a time.
type piece struct {
	at   time.Duration // since the start of the proxy
	data []byte
}

// stream passes what one side sends to the other, and then that it sends no more. When either end is gone, so is the
// other.
func (p *TCPProxy) stream(direction int, from, to net.Conn) {
	way := make(chan piece, max(1, int(p.path.inFlight()/segment)))
	gone := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(gone)
		for s := range way {
			if wait := s.at - time.Since(p.start); wait > 0 {
				time.Sleep(wait) // bounded by what the lane lets wait, and by the delay
			}
			if _, err := to.Write(s.data); err != nil {
				_ = from.Close()
				return
			}
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	p.read(direction, from, way, gone)
	close(way)
	writer.Wait()
}

func (p *TCPProxy) read(direction int, from net.Conn, way chan<- piece, gone <-chan struct{}) {
	for {
		buffer := make([]byte, segment)
		n, err := from.Read(buffer)
		if n > 0 {
			p.mu.Lock()
			at := p.lanes[direction].through(time.Since(p.start), n) + p.path.Delay
			p.mu.Unlock()
			select {
			case way <- piece{at, buffer[:n]}:
			case <-gone:
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = from.Close()
			}
			return
		}
	}
}

// inFlight is how many bytes of a stream are on their way at most: what the rate passes in a round trip, and what waits.
func (p Path) inFlight() int64 {
	if p.Rate == 0 {
		return 4 << 20
	}
	return int64(2*p.Delay.Seconds()*float64(p.Rate)) + p.queue()
}
