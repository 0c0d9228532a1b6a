//go:build unix

package status

import (
	"io/fs"
	"os"
	"syscall"
)

// ours says whether a file belongs to this user or to root.
func ours(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(owner.Uid) == os.Getuid() || owner.Uid == 0)
}
