package node

import (
	"context"
	"io"
	"time"

	"fedattn/fedkv"
)

// Address names a peer and where it is: ID@host:port.
type Address struct {
	ID       string
	HostPort string
}

// String writes the address as users do.
func (a Address) String() string { return a.ID + "@" + a.HostPort }

// Peers reaches other participants.
type Peers interface {
	// Dial opens an authenticated link to the device with that identity, or fails by the context's deadline.
	Dial(ctx context.Context, to Address) (Link, error)
	// Accept waits for a link that another device opened.
	Accept(ctx context.Context) (Link, error)
}

// Rows are a block's K rows, then its V rows, in wire types. They are valid until Release, which may give their memory
// back to the link.
type Rows struct {
	Bytes   []byte
	Release func()
}

// Rounds is a stream of bytes in both directions whose writes leave at once.
type Rounds interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// Link is an authenticated connection to one peer. Its methods may be called from several goroutines; messages keep
// their order, blocks do not.
type Link interface {
	// ID is the peer's proven identity, Addr where it was seen.
	ID() string
	Addr() string

	Send(ctx context.Context, m fedkv.Message) error
	Receive(ctx context.Context) (fedkv.Message, error)

	// SendBlock sends a header and its rows, which the caller may overwrite when it returns.
	SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error
	// AcceptBlock waits for the next block. check decides about the header before anything of the rows is read; what
	// it refuses is not delivered, and its error is returned. Such errors leave the link usable. The rows are to be
	// released.
	AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, Rows, error)

	// OpenRounds opens a stream for queries and their answers, which whoever dialled the link may do; AcceptRounds waits
	// for it on the other side, until something was written to it. There is one at a time.
	OpenRounds(ctx context.Context) (Rounds, error)
	AcceptRounds(ctx context.Context) (Rounds, error)

	// Flush returns when the peer has received every message sent so far.
	Flush(ctx context.Context) error

	// Close ends the link and tells the peer why. Err is why it ended, nil while it lives.
	Close(code fedkv.Code, text string) error
	Err() error
}
