//go:build faults && unix

package fault

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// later is how long Later waits.
const later = 50 * time.Millisecond

var (
	plan   = strings.Split(os.Getenv("FEDATTN_FAULT"), ",")
	passed atomic.Int64
)

// At lets the process die or stop if that was planned for this point and this passage.
func At(point string) {
	if len(plan) != 4 || plan[0] != point {
		return
	}
	if n, err := strconv.ParseInt(plan[2], 10, 64); err != nil || passed.Add(1) != n {
		return
	}
	if os.WriteFile(plan[3], []byte(point), 0o600) != nil {
		return
	}
	signal := syscall.SIGKILL
	if plan[1] == "stop" {
		signal = syscall.SIGSTOP
	}
	_ = syscall.Kill(os.Getpid(), signal)
	time.Sleep(time.Minute) // until the signal arrives
}

// Later is At some time after, when the caller has gone on.
func Later(point string) { time.AfterFunc(later, func() { At(point) }) }
