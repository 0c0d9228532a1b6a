//go:build unix

package hub

import "golang.org/x/sys/unix"

// freeSpace is how many bytes this user may still write where dir is; false if nobody knows.
func freeSpace(dir string) (int64, bool) {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
