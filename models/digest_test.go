package models

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fedattn/fedkv"
)

func write(t *testing.T, path, text string, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func digest(t *testing.T, path, cache string) fedkv.Digest {
	t.Helper()
	d, err := Digest(context.Background(), path, cache)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDigestIsTheFilesHashAndIsKeptUntilTheFileChanges(t *testing.T) {
	dir := t.TempDir()
	cache, path := filepath.Join(dir, "cache"), filepath.Join(dir, "model.gguf")
	at := time.Now().Add(-time.Hour)
	write(t, path, "one", at)
	if got, want := digest(t, path, cache), fedkv.Digest(sha256.Sum256([]byte("one"))); got != want {
		t.Fatalf("%v, want %v", got, want)
	}
	// the same size and time: the cache answers, as it must for large files
	write(t, path, "two", at)
	if got, want := digest(t, path, cache), fedkv.Digest(sha256.Sum256([]byte("one"))); got != want {
		t.Errorf("the cache was not used: %v", got)
	}
	write(t, path, "two", at.Add(time.Second))
	if got, want := digest(t, path, cache), fedkv.Digest(sha256.Sum256([]byte("two"))); got != want {
		t.Errorf("a changed file has its old digest")
	}
}

func TestDigestSurvivesABrokenCache(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.gguf")
	write(t, path, "one", time.Now())
	want := fedkv.Digest(sha256.Sum256([]byte("one")))
	for _, content := range []string{"", "null", "{", `{"` + path + `":{"sha256":"zz"}}`} {
		write(t, digestFile(dir), content, time.Now())
		if got := digest(t, path, dir); got != want {
			t.Errorf("cache %q: %v", content, got)
		}
	}
	if got := digest(t, path, ""); got != want {
		t.Errorf("no cache: %v", got)
	}
	if got := digest(t, path, filepath.Join(path, "not-a-folder")); got != want {
		t.Errorf("cache folder that cannot exist: %v", got)
	}
}

func TestDigestFailsOnWhatIsNoFile(t *testing.T) {
	if _, err := Digest(context.Background(), t.TempDir(), ""); err == nil {
		t.Error("a directory has a digest")
	}
	if _, err := Digest(context.Background(), filepath.Join(t.TempDir(), "none"), ""); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := filepath.Join(t.TempDir(), "m")
	write(t, path, "x", time.Now())
	if _, err := Digest(ctx, path, ""); err == nil {
		t.Error("cancelled: no error")
	}
}
