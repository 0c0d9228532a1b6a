package node

import (
	"context"
	"math/rand/v2"
	"time"

	"fedattn/fedkv"
)

// A device that has no room for another connection, because of handshakes in flight or because earlier connections are
// just ending, has it a moment later: it is dialled again, at times that grow and are drawn at random, so that those who
// were refused together do not come back together. What does not answer at all is not: QUIC has repeated its first packet
// for as long.
const (
	dialFirst = 100 * time.Millisecond // wait before the second attempt
	dialMost  = time.Second            // longest wait
	dialFor   = 5 * time.Second        // no attempt begins later than this after the first
)

// dialAgain dials until it succeeds, fails for another reason than that the device is busy, or the time is over.
func dialAgain(ctx context.Context, dial func(context.Context) (Link, error)) (Link, error) {
	began := time.Now()
	for wait := dialFirst; ; wait = min(2*wait, dialMost) {
		link, err := dial(ctx)
		if fedkv.CodeOf(err) != fedkv.CodeBusy {
			return link, err
		}
		drawn := wait/2 + rand.N(wait/2)
		if time.Since(began)+drawn > dialFor {
			return nil, err
		}
		select {
		case <-time.After(drawn):
		case <-ctx.Done():
			return nil, err
		}
	}
}
