package rowcache

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A full disk is said once, leaves nothing half, and rows stay in memory.
func TestAFullDisk(t *testing.T) {
	dir := fullDisk(t)
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

// fullDisk is a folder on a file system with no room, or skips the test where none can be made.
func fullDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no file system can be made here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
