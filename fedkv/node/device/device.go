// Package device reads what Linux tells of the board below a node: how hot it is and whether it slows itself down
// (heat.go), what a node does about that (backoff.go), and what energy it draws (energy.go, reading.go).
//
// Everything is read from files under the root of sysfs, which is an argument, so that a board is a directory in tests.
// What a board does not tell is missing, and is no error; nothing is ever written.
package device

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Sysfs is where Linux has its files.
const Sysfs = "/sys"

// Board is the machine whose sysfs is mounted at Root.
type Board struct{ Root string }

// glob lists the board's files that match a pattern relative to its root, in the order of their names.
func (b Board) glob(pattern string) []string {
	// the only error is a malformed pattern, and ours are constants
	files, _ := filepath.Glob(filepath.Join(b.Root, pattern))
	return files
}

// text is a small file's content without the line break; empty if there is none.
func text(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number is what a file says in decimal.
func number(file string) (int64, bool) {
	n, err := strconv.ParseInt(text(file), 10, 64)
	return n, err == nil
}
