package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Cache is a folder in the layout that the hub's own programs use:
//
//	models--USER--REPO/refs/main                 the commit that was last asked for
//	models--USER--REPO/blobs/SHA256              files by content
//	models--USER--REPO/snapshots/COMMIT/NAME     links to them
//	.locks/models--USER--REPO/SHA256.lock        held while a file is downloaded
type Cache string

// CacheOf is the cache that the environment names. The order is llama.cpp's.
func CacheOf(getenv func(string) string) (Cache, error) {
	for _, place := range []struct{ variable, below string }{
		{"LLAMA_CACHE", ""}, {"HF_HUB_CACHE", ""}, {"HUGGINGFACE_HUB_CACHE", ""}, {"HF_HOME", "hub"},
		{"XDG_CACHE_HOME", "huggingface/hub"}, {"HOME", ".cache/huggingface/hub"},
	} {
		if dir := getenv(place.variable); dir != "" {
			dir, err := filepath.Abs(dir)
			return Cache(filepath.Join(dir, place.below)), err
		}
	}
	return "", fmt.Errorf("no place for models: put a folder into LLAMA_CACHE")
}

const repoPrefix = "models--"

func (c Cache) repo(repo string) string {
	return filepath.Join(string(c), repoPrefix+strings.ReplaceAll(repo, "/", "--"))
}

func (c Cache) blob(repo string, f File) string {
	return filepath.Join(c.repo(repo), "blobs", f.SHA256)
}

// lock is held by the process that downloads a file. It stays: whoever removed it could remove another's.
func (c Cache) lock(repo string, f File) string {
	return filepath.Join(string(c), ".locks", filepath.Base(c.repo(repo)), f.SHA256+".lock")
}

func (c Cache) snapshot(m Model, f File) string {
	return filepath.Join(c.repo(m.Repo), "snapshots", m.Commit, filepath.FromSlash(f.Path))
}

func parent(path string) string { return filepath.Dir(path) }

// missing lists the files of a model that are not here whole. A blob has been hashed when it got its name.
func (c Cache) missing(m Model) (files []File) {
	for _, f := range m.Files {
		if info, err := os.Stat(c.blob(m.Repo, f)); err != nil || info.Size() != f.Size {
			files = append(files, f)
		}
	}
	return files
}

// room reports that files do not fit on the disk. What a broken download left of them counts as here.
func (c Cache) room(files []File) error {
	if len(files) == 0 {
		return nil
	}
	var need int64
	for _, f := range files {
		need += f.Size
	}
	dir := string(c)
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	if parts, err := filepath.Glob(filepath.Join(string(c), "*", "blobs", "*.incomplete")); err == nil {
		for _, f := range files {
			for _, p := range parts {
				if info, err := os.Stat(p); err == nil && strings.HasPrefix(filepath.Base(p), f.SHA256) {
					need -= info.Size()
				}
			}
		}
	}
	free, ok := freeSpace(dir)
	if ok && need > free {
		return fmt.Errorf("%w: %s are needed in %s and %s are free; free some, or put another folder into LLAMA_CACHE",
			ErrNoSpace, bytesText(need), dir, bytesText(free))
	}
	return nil
}

// place links a model's files under their names and notes its commit. It returns the path of the first.
func (c Cache) place(m Model) (string, error) {
	for _, f := range m.Files {
		link := c.snapshot(m, f)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return "", err
		}
		blob := c.blob(m.Repo, f)
		target, err := filepath.Rel(filepath.Dir(link), blob)
		if err != nil {
			return "", err
		}
		if old, err := os.Readlink(link); err == nil && old == target {
			continue
		}
		// beside it first, so that the name is never missing
		tmp := link + ".new"
		_ = os.Remove(tmp)
		if err := os.Symlink(target, tmp); err != nil {
			if err := os.Link(blob, tmp); err != nil { // a file system without symbolic links
				return "", err
			}
		}
		if err := os.Rename(tmp, link); err != nil {
			return "", err
		}
	}
	ref := filepath.Join(c.repo(m.Repo), "refs", "main")
	if err := os.MkdirAll(filepath.Dir(ref), 0o755); err != nil {
		return "", err
	}
	if err := writeFile(ref, m.Commit); err != nil {
		return "", err
	}
	return c.snapshot(m, m.Files[0]), nil
}

// writeFile replaces a file in one step.
func writeFile(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Find is the path of a model that is in the cache.
func (c Cache) Find(ref Ref) (string, Model, error) {
	m := Model{Repo: ref.Repo}
	var err error
	if m.Commit, err = c.commit(ref.Repo); err != nil {
		return "", m, fmt.Errorf("%s: %w; fedattn pull %s brings it", ref, ErrNotCached, ref)
	}
	files := c.files(m)
	if len(files) == 0 {
		return "", m, fmt.Errorf("%s: %w; fedattn pull %s brings it", ref, ErrNotCached, ref)
	}
	if m.Files, err = choose(m.Repo, files, ref.Quant); err != nil {
		return "", m, fmt.Errorf("%w in the cache (%s)", ErrNotCached, err)
	}
	return c.snapshot(m, m.Files[0]), m, nil
}

// commit is the version of a repository that was last asked for.
func (c Cache) commit(repo string) (string, error) {
	b, err := os.ReadFile(filepath.Join(c.repo(repo), "refs", "main"))
	if err != nil {
		return "", err
	}
	commit := strings.TrimSpace(string(b))
	if !commitHash.MatchString(commit) {
		return "", ErrNotCached
	}
	return commit, nil
}

// files lists the files of a version that are here whole.
func (c Cache) files(m Model) (files []File) {
	root := filepath.Join(c.repo(m.Repo), "snapshots", m.Commit)
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		info, err := os.Stat(path) // of what the link points to
		if err != nil || !info.Mode().IsRegular() {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return nil
		}
		f := File{Path: filepath.ToSlash(name), Size: info.Size()}
		if target, err := os.Readlink(path); err == nil && sha256Hash.MatchString(filepath.Base(target)) {
			f.SHA256 = filepath.Base(target)
		}
		files = append(files, f)
		return nil
	})
	return files
}

// Cached is a model of the cache.
type Cached struct {
	Ref  Ref
	Path string // of the first file
	Model
}

// List returns the models of the cache, by name.
func (c Cache) List() ([]Cached, error) {
	entries, err := os.ReadDir(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list []Cached
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), repoPrefix)
		repo := strings.Replace(name, "--", "/", 1)
		ref, err := ParseRef(repo)
		if !ok || !e.IsDir() || err != nil {
			continue
		}
		m := Model{Repo: repo}
		if m.Commit, err = c.commit(repo); err != nil {
			continue
		}
		files := c.files(m)
		for _, f := range files {
			if !isModel(f.Path) {
				continue
			}
			ref.Quant = Quant(f.Path)
			chosen, err := choose(repo, files, filepath.Base(f.Path))
			if err != nil {
				continue // a shard is missing
			}
			list = append(list, Cached{ref, c.snapshot(m, f), Model{repo, m.Commit, chosen}})
		}
	}
	slices.SortFunc(list, func(a, b Cached) int { return strings.Compare(a.Ref.String()+a.Path, b.Ref.String()+b.Path) })
	return list, nil
}

// Remove deletes a model's files and, when nothing else is left of it, its repository.
func (c Cache) Remove(m Cached) error {
	for _, f := range m.Files {
		if err := os.Remove(c.snapshot(m.Model, f)); err != nil {
			return err
		}
		if f.SHA256 != "" {
			if err := os.Remove(c.blob(m.Repo, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if len(c.files(m.Model)) == 0 {
		return os.RemoveAll(c.repo(m.Repo))
	}
	return nil
}
