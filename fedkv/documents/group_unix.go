//go:build unix

package documents

import (
	"os/exec"
	"syscall"
)

// asGroup has the deadline of a command end what it started, too.
func asGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
