package apitest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

// status is a field of /proc/self/status, in kB.
func status(t testing.TB, field string) int {
	t.Helper()
	file, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for _, line := range strings.Split(string(file), "\n") {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(rest, "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skipf("no %s in /proc/self/status", field)
	return 0
}

// mapped counts the places where the file is mapped into memory.
func mapped(t *testing.T, path string) int {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	return strings.Count(string(maps), path)
}

func TestMMap(t *testing.T) {
	path := modelPath(t)
	before := mapped(t, path)
	l := load(t, llama.SetMMap(true))
	if mapped(t, path) <= before {
		t.Error("SetMMap(true) did not map the file")
	}
	l.Free()
	if now := mapped(t, path); now != before {
		t.Errorf("%d mappings of the file after Free, %d before New", now, before)
	}
	load(t, llama.SetMMap(false))
	if now := mapped(t, path); now != before {
		t.Error("SetMMap(false) mapped the file")
	}
}

func TestMLock(t *testing.T) {
	before := status(t, "VmLck")
	log := logged(t, func() { load(t, llama.EnableMLock) })
	if status(t, "VmLck") <= before && !strings.Contains(log, "mlock") {
		t.Error("no memory is locked and llama.cpp does not say why")
	}
}
