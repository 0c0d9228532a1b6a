package transport

import (
	"os"
)

// socketBufferWanted is what the kernel should hold, in bytes, for a fast network not to lose packets while
// this process is busy.
const socketBufferWanted = 7_000_000

// quic-go complains about small socket buffers on standard error, which belongs to the program. It is told
// not to, here and not in Listen because changing the environment is safe only before other threads of the
// process (the inference engine's) may read it. Endpoints report the same as an Event.
func init() {
	const quiet = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"
	if _, set := os.LookupEnv(quiet); !set {
		os.Setenv(quiet, "true")
	}
}
