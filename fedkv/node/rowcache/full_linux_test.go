package rowcache

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A full disk is said once, leaves nothing half, and rows stay in memory.
func TestAFullDisk(t *testing.T) {
	dir, ok := fullDisk(t)
	if !ok {
		return
	}
	c, warned := open(t, dir, 1<<30, 1<<30)
	for n := range 3 {
		c.Put(key(n), data(n, 1<<20))
	}
	c.Flush()
	for n := range 3 {
		c.expect(t, n, 1<<20, true)
	}
	if len(*warned) != 1 || !strings.Contains((*warned)[0], syscall.ENOSPC.Error()) {
		t.Error(*warned)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "rows", "device-1")); err != nil || len(files) > 0 {
		t.Errorf("%v: %v", err, files)
	}
}

// inNamespace is set where a test is its own root.
const inNamespace = "FEDATTN_TEST_NAMESPACE"

// fullDisk is a folder on a file system with no room. Whoever may not make one has the test run again in a namespace of
// its own, and is told false; where there are none it is skipped.
func fullDisk(t *testing.T) (dir string, ok bool) {
	t.Helper()
	dir = t.TempDir()
	err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k")
	if err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir, true
	}
	if os.Getenv(inNamespace) != "" {
		t.Skipf("no file system can be made here: %v", err)
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), inNamespace+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if out, err := again.CombinedOutput(); again.Process == nil {
		t.Skipf("no namespace can be made here: %v", err)
	} else if err != nil {
		t.Fatalf("%v\n%s", err, out)
	} else if bytes.Contains(out, []byte("SKIP")) {
		t.Skipf("%s", out)
	}
	return "", false
}
