package models

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"fedattn/fedkv"
)

// digestCacheEntries bounds the cache file; a device has few models.
const digestCacheEntries = 256

// digestEntry remembers a file's digest for as long as its size and time of change stay.
type digestEntry struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mtime"`
	SHA256  string    `json:"sha256"`
}

// Digest is the SHA-256 of a model: of its file, or, of a model in several, of their digests in order. Reading gigabytes takes a small device many seconds, so the result is kept in
// cacheDir under the file's path, size and time of change; an empty cacheDir keeps nothing. A cache that cannot be read
// or written is no error: the digest is computed.
func Digest(ctx context.Context, path, cacheDir string) (fedkv.Digest, error) {
	shards := Shards(path)
	if len(shards) == 1 {
		return digestOf(ctx, path, cacheDir)
	}
	all := sha256.New()
	for _, shard := range shards {
		d, err := digestOf(ctx, shard, cacheDir)
		if err != nil {
			return d, err
		}
		all.Write(d[:])
	}
	return fedkv.Digest(all.Sum(nil)), nil
}

// digestOf is the SHA-256 of one file.
func digestOf(ctx context.Context, path, cacheDir string) (fedkv.Digest, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return fedkv.Digest{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return fedkv.Digest{}, err
	}
	if info.IsDir() {
		return fedkv.Digest{}, fmt.Errorf("%s is a directory, not a model file", path)
	}
	cache := readDigests(cacheDir)
	if e, ok := cache[path]; ok && e.Size == info.Size() && e.ModTime.Equal(info.ModTime()) {
		if d, err := hex.DecodeString(e.SHA256); err == nil && len(d) == len(fedkv.Digest{}) {
			return fedkv.Digest(d), nil
		}
	}
	d, err := hashFile(ctx, path)
	if err != nil {
		return fedkv.Digest{}, err
	}
	keep(cacheDir, path, info, d.String())
	return d, nil
}

// remember notes a digest that was computed when the file was written.
func remember(path, sha256, cacheDir string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	if info, err := os.Stat(path); err == nil {
		keep(cacheDir, path, info, sha256)
	}
}

func keep(cacheDir, path string, info os.FileInfo, sha256 string) {
	cache := readDigests(cacheDir)
	if len(cache) >= digestCacheEntries {
		clear(cache)
	}
	cache[path] = digestEntry{Size: info.Size(), ModTime: info.ModTime(), SHA256: sha256}
	writeDigests(cacheDir, cache)
}

func hashFile(ctx context.Context, path string) (d fedkv.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			h.Sum(d[:0])
			return d, nil
		}
		if err != nil {
			return d, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	return d, ctx.Err()
}

func digestFile(cacheDir string) string { return filepath.Join(cacheDir, "digests.json") }

func readDigests(cacheDir string) map[string]digestEntry {
	entries := map[string]digestEntry{}
	if cacheDir == "" {
		return entries
	}
	if b, err := os.ReadFile(digestFile(cacheDir)); err == nil {
		if json.Unmarshal(b, &entries) != nil || entries == nil {
			return map[string]digestEntry{}
		}
	}
	return entries
}

// writeDigests replaces the cache file in one step, so that a reader never sees half of it.
func writeDigests(cacheDir string, entries map[string]digestEntry) {
	b, err := json.MarshalIndent(entries, "", "  ")
	if cacheDir == "" || err != nil || os.MkdirAll(cacheDir, 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(cacheDir, "digests-*")
	if err != nil {
		return
	}
	_, err = tmp.Write(b)
	if tmp.Close() != nil || err != nil || os.Rename(tmp.Name(), digestFile(cacheDir)) != nil {
		os.Remove(tmp.Name())
	}
}
