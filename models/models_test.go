package models

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/models/hub"
)

func TestCatalogueAddsUp(t *testing.T) {
	decoder := json.NewDecoder(bytes.NewReader(catalogueJSON))
	decoder.DisallowUnknownFields()
	var entries []Entry
	if err := decoder.Decode(&entries); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	last := int64(0)
	for _, e := range entries {
		if ref, ok := Named(e.Name); !ok || ref != e.Ref() || seen[e.Name] {
			t.Errorf("%s: %v %v", e.Name, ref, ok)
		}
		seen[e.Name] = true
		if _, err := hub.ParseRef(e.Ref().String()); err != nil {
			t.Error(err)
		}
		if e.Licence == "" || e.Note == "" || e.Context < 2048 || e.KVBytes <= 0 {
			t.Errorf("%+v", e)
		}
		// weights, the cache of so many tokens, and 0.2 GB for evaluations
		for tokens, mb := range map[int64]int64{2048: e.Memory2kMB, 8192: e.Memory8kMB} {
			if want := float64(e.SizeMB) + 200 + float64(tokens*e.KVBytes)/1e6; want-float64(mb) > 1 || float64(mb)-want > 1 {
				t.Errorf("%s with %d tokens: %d MB, want %.0f", e.Name, tokens, mb, want)
			}
		}
		if e.Memory8kMB < last/2 {
			t.Errorf("%s is not in the order of size", e.Name)
		}
		last = e.Memory8kMB
	}
	if len(entries) < 8 {
		t.Errorf("%d models", len(entries))
	}
}

func TestNames(t *testing.T) {
	here := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(here, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"m.gguf", "./user/repo", "/a/b", "~/x", "dir/m.GGUF", here, "nothing"} {
		if ref, ok := Named(file); ok {
			t.Errorf("%s is %v", file, ref)
		}
	}
	for name, want := range map[string]string{"user/repo": "user/repo", "user/repo:Q8_0": "user/repo:Q8_0", "QWEN3-4B": "Qwen/Qwen3-4B-GGUF:Q4_K_M"} {
		if ref, ok := Named(name); !ok || ref.String() != want {
			t.Errorf("%s is %v, %v", name, ref, ok)
		}
	}
}

func TestMemory(t *testing.T) {
	n := Need{Weights: 1000, Scratch: 100, KVToken: 1}
	for _, c := range []struct {
		free   int64
		tokens int
		fits   int
		fails  bool
	}{{0, 8192, 8192, false}, {10_000, 8192, 8192, false}, {5100, 8192, 4000, false}, {1500, 8192, 0, true}, {999, 1, 0, true}, {1101, 1, 1, false}} {
		fits, err := n.Check(c.free, c.tokens)
		if fits != c.fits || errors.Is(err, ErrMemory) != c.fails {
			t.Errorf("%d free, %d tokens: %d, %v", c.free, c.tokens, fits, err)
		}
	}
}

func TestDigestOfShardsDependsOnAllOfThem(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "m-00001-of-00002.gguf"), filepath.Join(dir, "m-00002-of-00002.gguf")
	write(t, first, "one", time.Now())
	if _, err := Digest(context.Background(), first, ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a model: %v", err)
	}
	write(t, second, "two", time.Now())
	a, b := sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))
	if got, want := digest(t, first, ""), fedkv.Digest(sha256.Sum256(append(a[:], b[:]...))); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// pulled is a model in a cache, as a pull leaves it.
func pulled(t *testing.T, content, name string) hub.Cached {
	t.Helper()
	root := filepath.Join(t.TempDir(), "models--user--repo")
	commit := strings.Repeat("a", 40)
	for path, text := range map[string]string{"blobs/" + name: content, "refs/main": commit} {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := filepath.Join(root, "snapshots", commit)
	if err := errors.Join(os.MkdirAll(snapshot, 0o755), os.Symlink("../../blobs/"+name, filepath.Join(snapshot, "m-Q8_0.gguf"))); err != nil {
		t.Fatal(err)
	}
	list, err := hub.Cache(filepath.Dir(root)).List()
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	return list[0]
}

func TestVerifyFindsOtherContent(t *testing.T) {
	sum := fedkv.Digest(sha256.Sum256([]byte("content"))).String()
	if err := Verify(context.Background(), pulled(t, "content", sum)); err != nil {
		t.Error(err)
	}
	if err := Verify(context.Background(), pulled(t, "c0ntent", sum)); !errors.Is(err, ErrOtherContent) {
		t.Error(err)
	}
}
