package rowcache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func key(n int) Key { return Key{byte(n), byte(n >> 8), 7} }

func data(n, size int) []byte { return bytes.Repeat([]byte{byte(n)}, size) }

// open is a cache of a folder and what it warned about.
func open(t *testing.T, dir string, disk, memory int64) (*Cache, *[]string) {
	t.Helper()
	var warned []string
	c := Open(Config{Folder: dir, Scope: "device-1", Disk: disk, Memory: memory, Warn: func(err error) {
		warned = append(warned, err.Error())
	}})
	t.Cleanup(c.Close)
	return c, &warned
}

func (c *Cache) expect(t *testing.T, n, size int, there bool) {
	t.Helper()
	got, ok := c.Get(key(n))
	if ok != there || ok && !bytes.Equal(got, data(n, size)) {
		t.Errorf("entry %d: %v, %d bytes", n, ok, len(got))
	}
}

func TestRowsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, dir, 1000, 1000)
	c.expect(t, 1, 100, false)
	c.Put(key(1), data(1, 100))
	c.expect(t, 1, 100, true)
	c.Close()
	c.expect(t, 1, 100, true) // from the file

	c, warned := open(t, dir, 1000, 1000)
	c.expect(t, 1, 100, true)
	if len(*warned) > 0 {
		t.Error(*warned)
	}
	files, err := List(dir)
	if err != nil || len(files) != 1 || files[0].Bytes != 196 || files[0].Scope != "device-1" {
		t.Fatalf("%v: %+v", err, files)
	}
	for _, path := range []string{files[0].Path, filepath.Dir(files[0].Path)} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%v: %v", err, info.Mode())
		}
	}
	n, size, err := Clear(dir)
	if n != 1 || size != 196 || err != nil {
		t.Errorf("%d files, %d bytes, %v", n, size, err)
	}
	if files, err := List(dir); err != nil || len(files) > 0 {
		t.Errorf("%v: %+v", err, files)
	}
	c.Put(key(2), data(2, 10)) // into a folder that was cleared meanwhile
	c.Flush()
	if files, err := List(dir); err != nil || len(files) != 1 {
		t.Errorf("%v: %+v", err, files)
	}
}

// Without a folder, and with one that cannot be used, rows are kept in memory.
func TestRowsInMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file} {
		c, warned := open(t, dir, 1000, 250)
		for n := range 3 {
			c.Put(key(n), data(n, 100))
			c.expect(t, 0, 100, true) // used again and again
		}
		c.expect(t, 1, 100, false)
		c.expect(t, 2, 100, true)
		c.Put(key(2), data(2, 120))
		c.expect(t, 2, 120, true)
		c.Put(key(3), data(3, 300))
		c.expect(t, 3, 300, false)
		if (len(*warned) == 1) != (dir != "") {
			t.Error(*warned)
		}
	}
}

func TestTheLeastRecentlyUsedGoesFirst(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, dir, 3*196, 0) // nothing in memory
	for n := range 3 {
		c.Put(key(n), data(n, 100))
		c.Flush()
		old := time.Now().Add(time.Duration(n-10) * time.Minute)
		if err := os.Chtimes(c.folder.path(key(n)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	c.expect(t, 0, 100, true)
	c.Put(key(3), data(3, 100))
	c.Flush()
	for n := range 4 {
		c.expect(t, n, 100, n != 1)
	}
	c.Put(key(4), data(4, 1000)) // more than all
	c.Flush()
	c.expect(t, 4, 1000, false)
	c.expect(t, 3, 100, true)
}

// What is not a whole file of its name is deleted, and said once.
func TestDamagedFilesAreDeleted(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string, raw []byte) []byte{
		"cut":         func(_ *testing.T, _ string, raw []byte) []byte { return raw[:len(raw)-1] },
		"header only": func(_ *testing.T, _ string, raw []byte) []byte { return raw[:headerSize] },
		"empty":       func(*testing.T, string, []byte) []byte { return nil },
		"longer":      func(_ *testing.T, _ string, raw []byte) []byte { return append(raw, 0) },
		"a bit":       func(_ *testing.T, _ string, raw []byte) []byte { raw[len(raw)/2+10] ^= 4; return raw },
		"magic":       func(_ *testing.T, _ string, raw []byte) []byte { raw[7] = '2'; return raw },
		"length":      func(_ *testing.T, _ string, raw []byte) []byte { raw[63]++; return raw },
		"another":     func(_ *testing.T, _ string, raw []byte) []byte { raw[8]++; return raw },
		"huge":        func(*testing.T, string, []byte) []byte { return make([]byte, 5000) },
		"a folder": func(t *testing.T, path string, _ []byte) []byte {
			if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o700)); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		"a link": func(t *testing.T, path string, raw []byte) []byte {
			other := path + "-other"
			if err := errors.Join(os.Rename(path, other), os.Symlink(other, path)); err != nil {
				t.Fatal(err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, warned := open(t, dir, 4000, 0)
			for n := range 2 {
				c.Put(key(n), data(n, 100))
				c.Flush()
				path := c.folder.path(key(n))
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if bad := damage(t, path, raw); bad != nil || name == "empty" {
					if err := os.WriteFile(path, bad, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				c.expect(t, n, 100, false)
				if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("it is still there: %v", err)
				}
			}
			if len(*warned) != 1 || !strings.Contains((*warned)[0], "deleted") {
				t.Error(*warned)
			}
		})
	}
}

// Withdrawn texts leave nothing, of this device only.
func TestRetain(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, dir, 4000, 4000)
	other := Open(Config{Folder: dir, Scope: "device-2", Disk: 4000, Memory: 4000})
	defer other.Close()
	for n := range 4 {
		c.Put(key(n), data(n, 100))
		other.Put(key(n), data(n, 100))
	}
	other.Flush()
	c.Retain(func(k Key) bool { return k == key(2) })
	for n := range 4 {
		c.expect(t, n, 100, n == 2)
		other.expect(t, n, 100, true)
	}
	files, err := List(dir)
	if err != nil || len(files) != 5 {
		t.Errorf("%v: %+v", err, files)
	}
}

// Begun and never finished: a process was killed.
func TestLeftoversAreDeleted(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, dir, 4000, 0)
	for i, age := range []time.Duration{0, 2 * leftover} {
		path := filepath.Join(c.folder.scope, fmt.Sprint(".new-", i))
		then := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, data(1, 50), 0o600), os.Chtimes(path, then, then)); err != nil {
			t.Fatal(err)
		}
	}
	c.Put(key(1), data(1, 10))
	c.Flush()
	if files, err := os.ReadDir(c.folder.scope); err != nil || len(files) != 2 {
		t.Errorf("%v: %v", err, files)
	}
}
