package models

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"fedattn/models/hub"
)

// Shards lists all files of the model whose first file is path, in order; those of a model in one file are that one.
func Shards(path string) []string {
	dir, base := filepath.Split(path)
	list := hub.Shards(base)
	for i := range list {
		list[i] = filepath.Join(dir, list[i])
	}
	if len(list) == 1 {
		return []string{path}
	}
	return list
}

// Source is where a model may come from.
type Source struct {
	Hub         *hub.Puller
	Context     int    // tokens that shall fit into memory with it
	CheckMemory bool   // before a download begins
	DigestCache string // of Digest
	Note        func(text string)
}

// looksLikeFile are names that are meant to be files, whether these exist or not.
var looksLikeFile = regexp.MustCompile(`(?i)\.gguf$|^[./~]|\\`)

// Named returns the reference that a name stands for: that of the catalogue, or user/repo. false: it is a file.
func Named(name string) (hub.Ref, bool) {
	if _, err := os.Stat(name); err == nil || looksLikeFile.MatchString(name) {
		return hub.Ref{}, false
	}
	if e, ok := Lookup(name); ok {
		return e.Ref(), true
	}
	ref, err := hub.ParseRef(name)
	return ref, err == nil
}

// Find returns the path of a model's first file: a file as it is, anything else from the cache or, if need be, the hub.
func (s Source) Find(ctx context.Context, name string) (string, error) {
	ref, ok := Named(name)
	if !ok {
		return name, nil
	}
	path, _, err := s.Pull(ctx, ref)
	return path, err
}

// Pull brings a model by reference, if its files are not here.
func (s Source) Pull(ctx context.Context, ref hub.Ref) (string, hub.Model, error) {
	p := *s.Hub
	if s.CheckMemory {
		p.Check = s.check
	}
	path, m, err := p.Pull(ctx, ref)
	if err != nil {
		return "", m, err
	}
	for i, shard := range Shards(path) {
		if i < len(m.Files) && m.Files[i].SHA256 != "" {
			remember(shard, m.Files[i].SHA256, s.DigestCache)
		}
	}
	return path, m, nil
}

// check refuses a download that this device's memory could not hold.
func (s Source) check(ctx context.Context, m hub.Model, remote hub.Remote) error {
	free := Available()
	if free > 0 && m.Size() > free {
		_, err := Need{Weights: m.Size()}.Check(free, 0)
		return err
	}
	return remote.Head(ctx, func(in io.Reader) error {
		n, err := need(in, m.Size())
		if err != nil {
			return fmt.Errorf("the file on the hub is no model: %w", err)
		}
		fits, err := n.Check(free, s.Context)
		if err == nil && fits < s.Context && s.Note != nil {
			s.Note(fmt.Sprintf("memory will do for a context of %d tokens, not for %d", fits, s.Context))
		}
		return err
	})
}

// ErrOtherContent says that a file is not what it was when it was downloaded.
var ErrOtherContent = errors.New("its content is not what its name says")

// Verify hashes a cached model's files anew.
func Verify(ctx context.Context, c hub.Cached) error {
	for i, path := range Shards(c.Path) {
		want := ""
		if i < len(c.Files) {
			want = c.Files[i].SHA256
		}
		if want == "" {
			return fmt.Errorf("%s: nobody knows its SHA-256, it was not downloaded by name", filepath.Base(path))
		}
		d, err := hashFile(ctx, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s is missing: bring it anew with fedattn pull", filepath.Base(path))
		case err != nil:
			return err
		case !strings.EqualFold(d.String(), want):
			return fmt.Errorf("%s: %w; remove the model and pull it anew", filepath.Base(path), ErrOtherContent)
		}
	}
	return nil
}
