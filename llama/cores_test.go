package llama

import (
	"runtime"
	"strconv"
	"testing"
	"testing/fstest"
)

func TestThreadsArePhysicalCores(t *testing.T) {
	// four cores with two CPUs each, numbered as PCs do: 0 and 4, 1 and 5, …
	twoEach := fstest.MapFS{}
	for cpu := range 8 {
		siblings := strconv.Itoa(cpu%4) + "," + strconv.Itoa(cpu%4+4)
		twoEach["sys/devices/system/cpu/cpu"+strconv.Itoa(cpu)+"/topology/thread_siblings_list"] = &fstest.MapFile{Data: []byte(siblings + "\n")}
	}
	with := func(files map[string]string) fstest.MapFS {
		system := fstest.MapFS{}
		for name, file := range twoEach {
			system[name] = file
		}
		for name, content := range files {
			system[name] = &fstest.MapFile{Data: []byte(content)}
		}
		return system
	}
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for _, c := range []struct {
		name   string
		system fstest.MapFS
		cpus   []int
		want   int
	}{
		{"all CPUs", twoEach, all, 4},
		{"both CPUs of one core", twoEach, []int{1, 5}, 1},
		{"one CPU of each of three cores", twoEach, []int{0, 1, 6}, 3},
		{"no topology", fstest.MapFS{}, all, 8},
		{"no CPU", fstest.MapFS{}, []int{}, 1},
		{"quota", with(map[string]string{"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "250000 100000\n"}), all, 2},
		{"quota below one", with(map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}), all, 1},
		{"no quota", with(map[string]string{"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "max 100000\n"}), all, 4},
		{"the stricter quota of a group above", with(map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
		}), all, 1},
		{"version 1", with(map[string]string{
			"proc/self/cgroup": "3:memory:/box\n2:cpu,cpuacct:/box\n",
			"sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us":  "300000\n",
			"sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
		}), all, 3},
		{"version 1 without a quota", with(map[string]string{
			"proc/self/cgroup":                            "2:cpu,cpuacct:/\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":  "-1\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
		}), all, 4},
		{"nonsense", with(map[string]string{"proc/self/cgroup": "what\n::\n", "sys/fs/cgroup/cpu.max": "a b\n"}), all, 4},
	} {
		if got := threadsFor(c.system, c.cpus); got != c.want {
			t.Errorf("%s: %d threads, want %d", c.name, got, c.want)
		}
	}
	if n := DefaultThreads(); n < 1 || n > runtime.NumCPU() {
		t.Errorf("%d threads on this machine of %d CPUs", n, runtime.NumCPU())
	}
}
