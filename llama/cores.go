package llama

import (
	"io/fs"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// DefaultThreads is how many threads an evaluation uses unless it is told: one for each physical core that this process
// may run on. Two threads on one core share the units that multiply, so that the second one adds work and no speed, and
// threads beyond what a container is given wait for each other at every operation.
//
// Cores of different speed count alike, and so do those of other NUMA nodes; docs/benchmarks.md says what to do there.
func DefaultThreads() int {
	cpus := allowedCPUs()
	if cpus == nil {
		return runtime.GOMAXPROCS(0)
	}
	return threadsFor(systemFiles, cpus)
}

// threadsFor counts the cores that cpus belong to, up to the CPU time that the control group of the process has.
func threadsFor(system fs.FS, cpus []int) int {
	n := max(1, physicalCores(system, cpus))
	if quota := cpuQuota(system); quota > 0 {
		n = min(n, max(1, int(quota))) // a thread on half a core makes all others wait
	}
	return n
}

// physicalCores is the number of different cores among cpus: CPUs that share a core list the same siblings. CPUs of which
// nothing is known are cores of their own.
func physicalCores(system fs.FS, cpus []int) int {
	cores := map[string]bool{}
	for _, cpu := range cpus {
		core := "cpu" + strconv.Itoa(cpu)
		siblings := readLine(system, path.Join("sys/devices/system/cpu", core, "topology/thread_siblings_list"))
		if siblings != "" {
			core = siblings
		}
		cores[core] = true
	}
	return len(cores)
}

// cpuQuota is the CPU time per time that the process's control group, or one above it, is held to; 0 without a limit.
func cpuQuota(system fs.FS) float64 {
	var quota float64
	limit := func(most, period string) {
		m, err := strconv.ParseFloat(most, 64)
		p, errPeriod := strconv.ParseFloat(period, 64)
		if err == nil && errPeriod == nil && m > 0 && p > 0 && (quota == 0 || m/p < quota) {
			quota = m / p
		}
	}
	groups, _ := fs.ReadFile(system, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		// hierarchy:controllers:path; version 2 names no controllers
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		root := "sys/fs/cgroup"
		switch {
		case controllers == "":
		case strings.Contains(","+controllers+",", ",cpu,"):
			root = path.Join(root, controllers)
		default:
			continue
		}
		for at := path.Clean("/" + group); ; at = path.Dir(at) {
			dir := path.Join(root, at)
			if most, period, ok := strings.Cut(readLine(system, path.Join(dir, "cpu.max")), " "); ok {
				limit(most, period)
			}
			limit(readLine(system, path.Join(dir, "cpu.cfs_quota_us")), readLine(system, path.Join(dir, "cpu.cfs_period_us")))
			if at == "/" {
				break
			}
		}
	}
	return quota
}

func readLine(system fs.FS, name string) string {
	content, err := fs.ReadFile(system, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}
