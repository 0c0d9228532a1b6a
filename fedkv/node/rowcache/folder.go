package rowcache

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A file:
//
//	 0  8  magic "FEDROWS1"
//	 8 48  key, as in the name
//	56  8  length of the data, big endian
//	64 32  SHA-256 of the data
//	96     data
const (
	magic      = "FEDROWS1"
	headerSize = 96
	suffix     = ".rows"
)

// folder is a device's files. The zero value has none.
type folder struct {
	root  string // of all devices
	scope string // of this one
	limit int64  // of bytes below root
}

// rowsIn is where the files of all devices are.
func rowsIn(cache string) string { return filepath.Join(cache, "rows") }

func openFolder(cache, scope string, limit int64) (folder, error) {
	if scope == "" || strings.Trim(strings.ToLower(scope), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return folder{}, fmt.Errorf("rowcache: scope %q", scope)
	}
	f := folder{root: rowsIn(cache), limit: limit}
	f.scope = filepath.Join(f.root, scope)
	return f, os.MkdirAll(f.scope, 0o700)
}

func (f folder) path(key Key) string {
	return filepath.Join(f.scope, hex.EncodeToString(key[:])+suffix)
}

// touch makes a file the most recently used.
func (f folder) touch(key Key) {
	if f.root != "" {
		now := time.Now()
		_ = os.Chtimes(f.path(key), now, now) // it may have gone, and then it is not needed
	}
}

// read returns a file's data. What is not a whole file of this key is deleted.
func (f folder) read(key Key) ([]byte, error) {
	if f.root == "" {
		return nil, os.ErrNotExist
	}
	path := f.path(key)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > f.limit {
		return nil, f.reject(path, "is not a file of this cache")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	data, ok := parse(key, raw)
	if !ok {
		return nil, f.reject(path, "is damaged")
	}
	f.touch(key)
	return data, nil
}

// reject deletes what cannot be used and says so.
func (f folder) reject(path, why string) error {
	err := fmt.Errorf("%s %s: it is deleted, and its rows are computed again", path, why)
	return errors.Join(err, os.RemoveAll(path))
}

func header(key Key, data []byte) []byte {
	h := append([]byte(magic), key[:]...)
	h = binary.BigEndian.AppendUint64(h, uint64(len(data)))
	sum := sha256.Sum256(data)
	return append(h, sum[:]...)
}

// parse is a file's data, if the file is whole and of this key.
func parse(key Key, raw []byte) ([]byte, bool) {
	if len(raw) < headerSize {
		return nil, false
	}
	data := raw[headerSize:]
	return data, bytes.Equal(raw[:headerSize], header(key, data))
}

// write makes room and keeps a file, whole or not at all.
func (f folder) write(key Key, data []byte) (err error) {
	if err := f.evict(int64(len(data)) + headerSize); err != nil {
		return err
	}
	if err := os.MkdirAll(f.scope, 0o700); err != nil { // cleared meanwhile
		return err
	}
	file, err := os.CreateTemp(f.scope, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	for _, part := range [][]byte{header(key, data), data} {
		if _, err = file.Write(part); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	if err = file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), f.path(key))
}

// File is one device's rows of one text on disk.
type File struct {
	Path  string
	Scope string // the device
	Bytes int64
	Used  time.Time // last
}

// leftover is how old a file that was never finished has to be to be deleted: nobody writes for so long.
const leftover = time.Hour

// list is all files below a root, the least recently used first; what was begun and never finished is deleted.
func listFiles(root string) (files []File, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) { // it has just gone
				return nil
			}
			return err
		}
		info, err := d.Info()
		switch {
		case err != nil:
			return nil
		case strings.HasSuffix(path, suffix):
			files = append(files, File{path, filepath.Base(filepath.Dir(path)), info.Size(), info.ModTime()})
		case time.Since(info.ModTime()) > leftover:
			return os.Remove(path)
		}
		return nil
	})
	slices.SortFunc(files, func(a, b File) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.Path, b.Path))
	})
	return files, err
}

// evict deletes the least recently used files until so many bytes fit.
func (f folder) evict(size int64) error {
	files, err := listFiles(f.root)
	if err != nil {
		return err
	}
	for _, file := range files {
		size += file.Bytes
	}
	for _, file := range files {
		if size <= f.limit {
			return nil
		}
		if err := os.Remove(file.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		size -= file.Bytes
	}
	return nil
}

// retain deletes this device's files but those that are kept.
func (f folder) retain(keep func(Key) bool) error {
	if f.root == "" {
		return nil
	}
	entries, err := os.ReadDir(f.scope)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var key Key
		raw, bad := hex.DecodeString(strings.TrimSuffix(e.Name(), suffix))
		if bad == nil && copy(key[:], raw) == len(key) && keep(key) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(f.scope, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// List is what all devices keep in a cache folder, the least recently used first.
func List(cache string) ([]File, error) {
	files, err := listFiles(rowsIn(cache))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return files, err
}

// Clear erases what all devices keep in a cache folder, and says how much it was.
func Clear(cache string) (files int, size int64, err error) {
	list, err := List(cache)
	if err != nil {
		return 0, 0, err
	}
	for _, f := range list {
		size += f.Bytes
	}
	return len(list), size, os.RemoveAll(rowsIn(cache))
}
