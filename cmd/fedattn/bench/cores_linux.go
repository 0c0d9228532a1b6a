package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxCPUs is how many the kernel tells about in one call.
const maxCPUs = 1024

// Allowed are the processors that this process may run on, ascending.
func Allowed() (cpus []int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	for cpu := range maxCPUs {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

func setOf(cpus []int) *unix.CPUSet {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return &set
}

// Pin keeps this process on processors: all threads that it has, and so those that these will start.
func Pin(cpus []int) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(id, setOf(cpus)); err != nil && err != unix.ESRCH {
			return fmt.Errorf("this process cannot be kept on the processors %v: %w", cpus, err)
		}
	}
	return nil
}

// startOn starts a command on processors of its own; nil is any. It ends with this process, however that ends.
func startOn(c *exec.Cmd, cpus []int) error {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if len(cpus) == 0 {
		return c.Start()
	}
	// a process begins where the thread runs that starts it
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var here unix.CPUSet
	if err := unix.SchedGetaffinity(0, &here); err != nil {
		return err
	}
	if err := unix.SchedSetaffinity(0, setOf(cpus)); err != nil {
		return fmt.Errorf("%s cannot be kept on the processors %v: %w", c.Path, cpus, err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &here) }()
	return c.Start()
}
