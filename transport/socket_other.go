//go:build !unix

package transport

import "net"

// smallBuffers has nothing to say where the size of socket buffers cannot be read.
func smallBuffers(net.PacketConn) string { return "" }
