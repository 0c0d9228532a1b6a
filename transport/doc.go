// Package transport carries fedkv's messages and blocks between devices over QUIC. It knows who is at the
// other end, keeps every promise about sizes and times that can be kept without knowing a session, and
// nothing else: no policy, no retries, no logger.
//
// # Who
//
// A device is its Ed25519 key; its ID is the key's hash with check characters (id.go). Both sides of every
// connection prove their key in a TLS 1.3 handshake and check the other's: the dialer expects one ID, the
// acceptor takes any ID but its own and then asks Config.Allow. There are no authorities, tickets,
// resumptions or 0-RTT.
//
// # What a connection is
//
//	dialer                                     acceptor
//	  │ ───────── TLS 1.3, both keys ─────────── │  both IDs are known
//	  │                                          │  Allow, limits: else closed with code and text
//	  │ ── control stream: Ping ───────────────▶ │
//	  │ ◀───────────────────── Ping{Reply} ───── │  Dial and Accept return
//	  │ ◀────────── control messages ──────────▶ │  Send, Receive
//	  │ ◀── one uni stream per block ──────────▶ │  SendBlock, AcceptBlock
//	  │ ◀── CONNECTION_CLOSE{code, text} ──────▶ │  Close
//
// A dialer's handshake succeeds before the acceptor has judged it; the opening Ping waits for that verdict,
// so that a refusal is an error of Dial with the acceptor's own words. Pings are answered here and never
// reach Receive; Hello is the first message that does.
//
// # Errors
//
// Every error carries a fedkv.Code (fedkv.CodeOf finds it) and says what to do; errors.go is the one place
// where QUIC's errors become ours. Text from a peer is cleaned before it reaches a terminal.
//
// Start reading at endpoint.go, then peer.go and block.go. All limits are in config.go. Only this package
// imports quic-go.
package transport
