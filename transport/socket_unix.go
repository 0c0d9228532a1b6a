//go:build unix

package transport

import (
	"fmt"
	"net"
	"runtime"
	"syscall"
)

// smallBuffers returns a sentence for the user if the kernel grants the socket less buffer than a fast
// network needs. quic-go has already asked for all it can get.
func smallBuffers(socket net.PacketConn) string {
	udp, ok := socket.(syscall.Conn)
	if !ok {
		return ""
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return ""
	}
	var receive, send int
	raw.Control(func(fd uintptr) {
		receive, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
		send, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	})
	smaller := min(receive, send)
	if smaller == 0 || smaller >= socketBufferWanted {
		return ""
	}
	text := fmt.Sprintf("UDP buffers are small (%d KiB): a fast network may lose packets", smaller>>10)
	if runtime.GOOS == "linux" {
		text += "; on this device, outside of any container, run: sudo sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000"
	}
	return text
}
