package models

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// Available is how many bytes of memory a process may still take without making others swap: the kernel's own estimate,
// and what a control group leaves, whichever is less. 0 if it cannot be known.
func Available() int64 {
	free := meminfo("/proc/meminfo")
	most, used := groupBytes("/sys/fs/cgroup/memory.max"), groupBytes("/sys/fs/cgroup/memory.current")
	if most > 0 && used > 0 {
		// pages of files count as used, and the kernel gives them back
		used -= min(used, groupFile("/sys/fs/cgroup/memory.stat"))
		if left := max(most-used, 1); free == 0 || left < free {
			return left
		}
	}
	return free
}

// Total is how many bytes of memory this machine has, or its control group if that may take less. 0 if it cannot be
// known.
func Total() int64 {
	total := 1024 * field("/proc/meminfo", "MemTotal:")
	if most := groupBytes("/sys/fs/cgroup/memory.max"); most > 0 && (total == 0 || most < total) {
		return most
	}
	return total
}

// meminfo is the kernel's MemAvailable in bytes.
func meminfo(path string) int64 { return 1024 * field(path, "MemAvailable:") }

// groupFile is what a control group's pages of files take that are not in use.
func groupFile(path string) int64 { return field(path, "inactive_file") + field(path, "active_file") }

// field is the number behind a name at the beginning of a line, 0 if there is none.
func field(path, name string) (n int64) {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
			_, _ = fmt.Sscan(rest, &n)
			return n
		}
	}
	return 0
}

// groupBytes reads a limit of a control group, 0 for none.
func groupBytes(path string) (n int64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		return 0 // max
	}
	return n
}
