package documents

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Skipped is an entry that is not among the documents, and why.
type Skipped struct {
	Path   string `json:"path"` // as its owner would find it
	Reason string `json:"reason"`
}

// folder is a folder that its owner gave. All reading goes through its root, which the system holds to what is below: not
// by "..", not by a link, not by exchanging a name between looking and opening.
type folder struct {
	path string // as it was given
	root *os.Root
}

func openFolder(dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no such folder: %s; give an existing one", dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s may not be read: change its permissions, or give another folder", dir)
	case err != nil:
		return nil, fmt.Errorf("%s is no folder that can be read: %w; a single file is given with --doc", dir, err)
	}
	return &folder{dir, root}, nil
}

// stamp tells whether a file may have changed.
type stamp struct {
	size int64
	time time.Time
}

// found is a file of a folder that may be a document.
type found struct {
	in    *folder
	path  string // below the folder, with slashes
	stamp stamp
}

// walk is one look at all folders.
type walk struct {
	entries int
	files   []found
	folders []string // all that were looked into, as the system names them
	skipped []Skipped
}

func (w *walk) skip(f *folder, name string, why string) {
	if len(w.skipped) < maxSkipped {
		w.skipped = append(w.skipped, Skipped{path.Join(f.path, name), why})
	}
}

// look finds the files below a folder of f, in the order of their names.
func (w *walk) look(f *folder, dir string, depth int, ignored ignore) {
	if depth > maxDepth {
		w.skip(f, dir, fmt.Sprintf("it is more than %d folders deep", maxDepth))
		return
	}
	handle, err := f.root.Open(dir)
	if err != nil {
		w.skip(f, dir, reason(err))
		return
	}
	entries, err := handle.ReadDir(maxEntries)
	_ = handle.Close()
	if err != nil && len(entries) == 0 && !isEnd(err) {
		w.skip(f, dir, reason(err))
		return
	}
	w.folders = append(w.folders, path.Join(f.path, dir))
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	ignored = ignored.with(f, dir)
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") { // hidden: where keys and caches are
			continue
		}
		if w.entries++; w.entries > maxEntries {
			if w.entries == maxEntries+1 {
				w.skip(f, dir, fmt.Sprintf("there are more than %d entries: give smaller folders, or name what is not wanted in %s", maxEntries, ignoreFile))
			}
			return
		}
		if ignored.matches(name, e.IsDir()) {
			continue
		}
		if e.IsDir() {
			w.look(f, name, depth+1, ignored)
			continue
		}
		info, err := f.root.Stat(name) // follows links, inside the folder only
		switch {
		case err != nil:
			w.skip(f, name, reason(err))
		case info.IsDir():
			w.skip(f, name, "it is a link to a folder: give that folder itself")
		case !info.Mode().IsRegular():
			w.skip(f, name, "it is no regular file")
		default:
			w.files = append(w.files, found{f, name, stamp{info.Size(), info.ModTime()}})
		}
	}
}

// open opens a file for reading. Opening waits for nobody, even if a pipe took the file's name meanwhile.
func (f found) open() (*os.File, fs.FileInfo, error) {
	file, err := f.in.root.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// reason is why something cannot be read, in words.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "its permissions do not allow reading it"
	case errors.Is(err, fs.ErrNotExist):
		return "it is gone, or a link that leads nowhere"
	case errors.Is(err, syscall.ELOOP):
		return "it is a link that leads in a circle"
	case strings.Contains(err.Error(), "escapes"):
		return "it is a link that leads out of the folder"
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return err.Error()
}
