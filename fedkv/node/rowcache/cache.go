// Package rowcache keeps what a device computed of its texts: rows in wire types, under the digest of everything that they
// depend on. It holds them in memory and, if it is given a folder, in files, the least recently used of which go first.
//
// Rows are as good as the text for whoever has the model (docs/threat-model.md), so files are for their owner only, and
// what is withdrawn is erased at once. Files are trusted with nothing: one that is not whole, not of this format or not
// under its own name is deleted, and said once. A folder that cannot be written makes the cache one of memory only.
//
// A folder may be shared by processes; each device has a scope in it, which is a folder of its own:
//
//	<folder>/rows/<scope>/<key>.rows    mode 0600, folders 0700
//
// The limit of bytes is that of the whole folder.
package rowcache

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"fedattn/fedkv/node"
)

// Key is the digest of everything that rows depend on.
type Key = node.RowKey

// Config says where rows are kept, and how many.
type Config struct {
	Folder string // of the user's cache; empty: rows are kept in memory only
	Scope  string // of this device in it: letters, digits and -
	Disk   int64  // bytes of all files, at most
	Memory int64  // bytes in memory, at most
	// Warn is told, once for each kind of trouble, what is wrong with the folder or a file. It may be nil.
	Warn func(error)
}

var _ node.RowCache = (*Cache)(nil)

// Cache keeps rows. Its methods may be called from several goroutines.
type Cache struct {
	cfg     Config
	folder  folder
	writing sync.WaitGroup

	mu      sync.Mutex
	held    map[Key]*list.Element // of recent
	recent  *list.List            // of *entry, the most recently used first
	bytes   int64
	pending int64 // bytes that are on their way to files
	warned  map[string]bool
	closed  bool
}

type entry struct {
	key  Key
	data []byte
}

// Open makes the folder if it is not there. A folder that cannot be used is warned about, and the cache keeps rows in
// memory.
func Open(cfg Config) *Cache {
	c := &Cache{cfg: cfg, held: map[Key]*list.Element{}, recent: list.New(), warned: map[string]bool{}}
	if cfg.Folder == "" || cfg.Disk <= 0 {
		return c
	}
	f, err := openFolder(cfg.Folder, cfg.Scope, cfg.Disk)
	if err != nil {
		c.warn("folder", fmt.Errorf("rows are kept in memory only: %w", err))
		return c
	}
	c.folder = f
	return c
}

// warn says each kind of trouble once.
func (c *Cache) warn(kind string, err error) {
	c.mu.Lock()
	told := c.warned[kind]
	c.warned[kind] = true
	c.mu.Unlock()
	if !told && c.cfg.Warn != nil {
		c.cfg.Warn(err)
	}
}

// Get returns what Put kept, which must not be changed.
func (c *Cache) Get(key Key) ([]byte, bool) {
	c.mu.Lock()
	if e := c.held[key]; e != nil {
		c.recent.MoveToFront(e)
		data := e.Value.(*entry).data
		c.mu.Unlock()
		c.folder.touch(key)
		return data, true
	}
	c.mu.Unlock()
	data, err := c.folder.read(key)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, false
	case err != nil:
		c.warn("read", err)
		return nil, false
	}
	c.hold(key, data)
	return data, true
}

// Put keeps data under a key, in memory now and in a file soon. What is larger than all that may be kept is not.
func (c *Cache) Put(key Key, data []byte) {
	c.hold(key, data)
	size := int64(len(data)) + headerSize
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.folder.root == "" || size > c.cfg.Disk || c.pending > 0 && c.pending+size > c.cfg.Memory {
		return
	}
	c.pending += size
	c.writing.Go(func() {
		err := c.folder.write(key, data)
		c.mu.Lock()
		c.pending -= size
		c.mu.Unlock()
		if err == nil {
			return
		}
		why := "write"
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			why = "full"
		}
		c.warn(why, fmt.Errorf("rows are not kept on disk, and will be computed again after a restart: %w", err))
	})
}

// hold keeps data in memory.
func (c *Cache) hold(key Key, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.held[key]; e != nil {
		c.bytes += int64(len(data) - len(e.Value.(*entry).data))
		e.Value.(*entry).data = data
		c.recent.MoveToFront(e)
	} else {
		c.held[key] = c.recent.PushFront(&entry{key, data})
		c.bytes += int64(len(data))
	}
	for c.bytes > c.cfg.Memory && c.recent.Len() > 0 {
		c.drop(c.recent.Back())
	}
}

// drop forgets what is in memory; the lock is held.
func (c *Cache) drop(e *list.Element) {
	old := c.recent.Remove(e).(*entry)
	delete(c.held, old.key)
	c.bytes -= int64(len(old.data))
}

// Retain erases everything of this device's scope but what is kept by a predicate: the texts behind the rest were
// withdrawn.
func (c *Cache) Retain(keep func(Key) bool) {
	c.writing.Wait()
	c.mu.Lock()
	for key, e := range c.held {
		if !keep(key) {
			c.drop(e)
		}
	}
	c.mu.Unlock()
	if err := c.folder.retain(keep); err != nil {
		c.warn("erase", fmt.Errorf("rows of withdrawn texts could not be erased: %w", err))
	}
}

// Flush returns when everything that was kept so far is in files.
func (c *Cache) Flush() { c.writing.Wait() }

// Close flushes and forgets what is in memory.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.writing.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.held)
	c.recent.Init()
	c.bytes = 0
}
