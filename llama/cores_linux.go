package llama

import (
	"os"

	"golang.org/x/sys/unix"
)

// maxCPUs is how many the kernel tells about in one call.
const maxCPUs = 1024

var systemFiles = os.DirFS("/")

// allowedCPUs are those that this process may be scheduled on, or nil if the kernel does not say.
func allowedCPUs() (cpus []int) {
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
