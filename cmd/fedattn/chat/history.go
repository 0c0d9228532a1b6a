package chat

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// maxHistory is how many entries are kept.
const maxHistory = 500

// History is what the user typed, newest first, in a file that only the user may read: questions are private. It
// implements term.History.
type History struct {
	path    string
	entries []string // oldest first
}

// OpenHistory reads the file at path, which may be missing; an empty path keeps nothing beyond this run. A history that
// cannot be read is an empty one.
func OpenHistory(path string) *History {
	h := &History{path: path}
	f, err := os.Open(path)
	if err != nil {
		return h
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxEntry*2)
	for lines.Scan() {
		var entry string
		if json.Unmarshal(lines.Bytes(), &entry) == nil { // a line each, whatever is in it
			h.entries = append(h.entries, entry)
		}
	}
	h.trim()
	return h
}

// Remember keeps an entry and writes the file.
func (h *History) Remember(entry string) {
	if n := len(h.entries); n > 0 && h.entries[n-1] == entry {
		return
	}
	h.entries = append(h.entries, entry)
	h.trim()
	if h.path == "" || os.MkdirAll(filepath.Dir(h.path), 0o700) != nil {
		return
	}
	var b strings.Builder
	for _, e := range h.entries {
		line, err := json.Marshal(e)
		if err == nil {
			b.Write(line)
			b.WriteByte('\n')
		}
	}
	tmp := h.path + ".new"
	if os.WriteFile(tmp, []byte(b.String()), 0o600) == nil {
		_ = os.Chmod(tmp, 0o600) // it may have been there before, with other rights
		_ = os.Rename(tmp, h.path)
	}
}

func (h *History) trim() {
	if extra := len(h.entries) - maxHistory; extra > 0 {
		h.entries = h.entries[extra:]
	}
}

// Add is the editor's own idea of an entry, a single line: Remember has the whole.
func (h *History) Add(string) {}

// Len is the number of entries.
func (h *History) Len() int { return len(h.entries) }

// At is an entry, 0 the newest. Line breaks are shown as spaces, since the editor edits one line.
func (h *History) At(i int) string {
	return strings.ReplaceAll(h.entries[len(h.entries)-1-i], "\n", " ")
}
