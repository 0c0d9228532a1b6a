package transport

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// A packet that the kernel refuses for want of a network is a lost one while others were taken a moment ago, and an error
// if none was, or for any other reason.
func TestSocketBearsAGap(t *testing.T) {
	refused := &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmsg", syscall.ENETUNREACH)}
	for name, test := range map[string]struct {
		err  error
		last time.Duration // since a packet was taken; 0: never
		want bool
	}{
		"no network, a moment ago there was one": {refused, time.Second, true},
		"no network for long":                    {refused, RoamingGap + time.Second, false},
		"never a network":                        {refused, 0, false},
		"no buffer":                              {syscall.ENOBUFS, time.Second, false},
		"closed":                                 {net.ErrClosed, time.Second, false},
		"nothing wrong":                          {nil, time.Second, false},
	} {
		s := &roamingSocket{}
		if test.last > 0 {
			s.sent.Store(time.Now().Add(-test.last).UnixNano())
		}
		if got := s.bears(test.err); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
