package transport

import (
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// Every limit of the transport, a sentence each. Sizes of messages and blocks are fedkv's.
const (
	// HandshakeTimeout bounds a Dial, from resolving the name to the acceptor's verdict, and on the accepting
	// side both the silence within a handshake and the wait for the control stream after it.
	HandshakeTimeout = 5 * time.Second

	// MaxHandshakes bounds the incoming handshakes in flight; further ones are refused.
	MaxHandshakes = 256

	// RetryRate is the incoming handshakes per second from unverified addresses above which each must first
	// prove its address in an extra round trip (QUIC Retry), so that forged senders cost no memory.
	RetryRate = 50

	// MaxPending bounds the peers that passed the handshake and wait for Accept.
	MaxPending = 32

	// MaxPeers bounds the connections of one endpoint.
	MaxPeers = 128

	// MaxConnectionsPerPeer bounds the connections with one ID: one dialled by each side.
	MaxConnectionsPerPeer = 2

	// MaxIncomingBlocks bounds the blocks that a peer may have under way to us; its next SendBlock waits.
	MaxIncomingBlocks = 8

	// InitialStreamWindow bounds, in bytes, what a peer may send on a stream that nobody reads yet.
	InitialStreamWindow = 256 << 10

	// InitialConnectionWindow bounds the same for the whole connection. It covers every stream that the peer
	// may open and one more, so that blocks which wait to be accepted can never starve the one being read.
	InitialConnectionWindow = (MaxIncomingBlocks + 2) * InitialStreamWindow

	// StreamWindow and ConnectionWindow bound, in bytes, to what the windows may grow for streams that are
	// being read: more than a gigabit LAN has in flight, and the most that is ever buffered for a peer.
	StreamWindow     = 2 << 20
	ConnectionWindow = 8 << 20

	// BlockGrace and MinBlockRate (bytes per second) bound the time of a block from its first byte to its
	// last: a grace for header and stalls, then this rate on average, far below any usable link.
	BlockGrace   = 10 * time.Second
	MinBlockRate = 16 << 10

	// DefaultMaxStaging bounds, in bytes, the payloads of all peers that have been received and not released,
	// where Config.MaxStaging says nothing: one eighth of a 4 GiB device.
	DefaultMaxStaging = 512 << 20

	// queuedMessages bounds the control messages of one peer that wait in either direction.
	queuedMessages = 16

	// RoamingGap bounds for how long after the last packet that the kernel took further ones may be refused for want of a
	// network before that ends connections: as long as the longest of them live without a sign of life.
	RoamingGap = 5 * time.Second

	// eventRate bounds the events per second that strangers can cause.
	eventRate = 5
)

// Profile chooses how fast a dead peer is noticed. The connection uses the shorter idle time of its two
// sides.
type Profile uint8

const (
	// LAN notices a dead peer in 2 seconds: wired, or Wi-Fi in one room.
	LAN Profile = iota
	// WAN notices in 5 seconds, for weak Wi-Fi, VPNs and the internet.
	WAN
)

// String is the name that ParseProfile reads.
func (p Profile) String() string {
	if p == WAN {
		return "wan"
	}
	return "lan"
}

// ParseProfile reads lan or wan.
func ParseProfile(name string) (Profile, error) {
	for _, p := range []Profile{LAN, WAN} {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("unknown network profile %q; known are lan, wan", name)
}

// Idle is the silence after which a peer counts as lost.
func (p Profile) Idle() time.Duration {
	if p == WAN {
		return 5 * time.Second
	}
	return 2 * time.Second
}

// KeepAlive is the silence after which a packet is sent that the peer must acknowledge. QUIC counts Idle from
// the first unanswered packet (RFC 9000 10.1), which on a quiet connection is the keep-alive: a dead peer is
// noticed within Idle + KeepAlive, so this is a tenth of Idle. A shorter Idle would do as well for that, but
// breaks connections in gaps of a second: repetitions of a lost packet double their distance each time.
func (p Profile) KeepAlive() time.Duration { return p.Idle() / 10 }

// Config is what an endpoint needs. Only Identity is required.
type Config struct {
	Identity Identity

	// Listen is the UDP address host:port. Without a host it is every address of this device; port 0 or no
	// Listen at all picks a free port.
	Listen string

	// Conn is used instead of a socket at Listen. The endpoint owns it from then on, and closes it even if
	// Listen fails.
	Conn net.PacketConn

	Profile Profile

	// Allow decides about an incoming peer right after its handshake. The text of its error is sent to the
	// peer. Nil allows everybody. It is called from several goroutines.
	Allow func(ID) error

	// Notify hears what nobody asked for and somebody may want to know. It is called from several goroutines
	// and must return soon.
	Notify func(Event)

	// MaxStaging bounds, in bytes, received payloads that have not been released. 0: DefaultMaxStaging.
	MaxStaging int64
}

// Event is something that happened to an endpoint outside any call.
type Event struct {
	Kind EventKind
	Peer ID     // empty where it is not known
	Addr string // remote address, empty where there is none
	Text string // one sentence for people
}

// EventKind says what an Event is about.
type EventKind uint8

const (
	// EventSocket: the socket works, but not as well as it could.
	EventSocket EventKind = iota + 1
	// EventHandshake: an incoming handshake failed; Peer is empty.
	EventHandshake
	// EventRefused: an incoming peer proved its identity and was turned away.
	EventRefused
	// EventTwin: one identity is in use at two places.
	EventTwin
)

// String is the kind's name in lower case.
func (k EventKind) String() string {
	switch k {
	case EventSocket:
		return "socket"
	case EventHandshake:
		return "handshake"
	case EventRefused:
		return "refused"
	case EventTwin:
		return "twin"
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// quicConfig is what both directions share.
func (c Config) quicConfig() *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           HandshakeTimeout,
		MaxIdleTimeout:                 c.Profile.Idle(),
		KeepAlivePeriod:                c.Profile.KeepAlive(),
		InitialStreamReceiveWindow:     InitialStreamWindow,
		MaxStreamReceiveWindow:         StreamWindow,
		InitialConnectionReceiveWindow: InitialConnectionWindow,
		MaxConnectionReceiveWindow:     ConnectionWindow,
		MaxIncomingUniStreams:          MaxIncomingBlocks,
	}
}

// listenQUIC lets the dialer open the control stream, and one for queries beside it.
func (c Config) listenQUIC() *quic.Config {
	config := c.quicConfig()
	config.MaxIncomingStreams = 2
	return config
}

// dialQUIC lets the acceptor open no bidirectional stream at all.
func (c Config) dialQUIC() *quic.Config {
	config := c.quicConfig()
	config.MaxIncomingStreams = -1
	return config
}
