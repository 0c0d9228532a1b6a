package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fedattn/models/hub/hubtest"
)

func newHub(t *testing.T, files map[string][]byte) *hubtest.Hub {
	h := hubtest.New(files)
	t.Cleanup(h.Close)
	return h
}

func puller(t *testing.T, h *hubtest.Hub) *Puller {
	return &Puller{Endpoint: h.URL, Cache: Cache(t.TempDir())}
}

// pull is Pull without the pauses between attempts.
func pull(t *testing.T, p *Puller, name string) (string, Model, error) {
	t.Helper()
	ref, err := ParseRef(name)
	if err != nil {
		t.Fatal(err)
	}
	defer quick()()
	return p.Pull(context.Background(), ref)
}

// quick shortens the pauses; tests of this package do not run in parallel.
func quick() (restore func()) {
	pause, stall := retryPause, stallLimit
	retryPause, stallLimit = time.Millisecond, 200*time.Millisecond
	return func() { retryPause, stallLimit = pause, stall }
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

const one = "model-Q4_K_M.gguf"

func want(t *testing.T, path string, b []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%s: %d bytes, %v; want %d", path, len(got), err, len(b))
	}
}

// nothing reports a model in the cache that should not be there.
func nothing(t *testing.T, c Cache) {
	t.Helper()
	if list, err := c.List(); err != nil || len(list) > 0 {
		t.Errorf("the cache has %v, %v", list, err)
	}
}

func TestPullMakesTheHubsLayoutAndThenAsksForNothing(t *testing.T) {
	b := random(100_000)
	h := newHub(t, map[string][]byte{one: b, "model-Q8_0.gguf": random(9), "mmproj-Q4_K_M.gguf": random(7)})
	p := puller(t, h)
	p.Token = "hf_secret"
	var last int64
	p.Progress = func(file string, done, total int64) {
		if file != one || total != int64(len(b)) || done < last {
			t.Errorf("progress: %s %d of %d after %d", file, done, total, last)
		}
		last = done
	}
	path, m, err := pull(t, p, "user/repo")
	if err != nil {
		t.Fatal(err)
	}
	want(t, path, b)
	if last != int64(len(b)) {
		t.Errorf("the last progress was %d", last)
	}
	root := filepath.Join(string(p.Cache), "models--user--repo")
	if path != filepath.Join(root, "snapshots", hubtest.Commit, one) {
		t.Errorf("it is at %s", path)
	}
	sum := sha256.Sum256(b)
	want(t, filepath.Join(root, "blobs", hex.EncodeToString(sum[:])), b)
	want(t, filepath.Join(root, "refs", "main"), []byte(hubtest.Commit))
	for i, token := range h.Tokens {
		if token != "Bearer hf_secret" {
			t.Errorf("request %d has the token %q", i, token)
		}
	}
	h.Ranges = nil
	if again, _, err := pull(t, p, "user/repo:q4_k_m"); err != nil || again != path || len(h.Ranges) > 0 {
		t.Errorf("again: %s, %v, %v", again, err, h.Ranges)
	}
	h.Close()
	p.Offline = true
	if again, _, err := pull(t, p, "user/repo"); err != nil || again != path {
		t.Errorf("offline: %s, %v", again, err)
	}
	list, err := p.Cache.List()
	if err != nil || len(list) != 1 || list[0].Ref.String() != "user/repo:Q4_K_M" || list[0].Size() != int64(len(b)) || m.Size() != int64(len(b)) {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if err := p.Cache.Remove(list[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
	if _, _, err := pull(t, p, "user/repo"); !errors.Is(err, ErrNotCached) {
		t.Errorf("offline without it: %v", err)
	}
}

// cut answers with the first n bytes of what was asked for and breaks the connection.
func cut(n int) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(w http.ResponseWriter, r *http.Request, b []byte) bool {
		rest := b
		var first int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first); err == nil {
			rest = b[first:]
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(b)-1, len(b)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(rest)))
		if first > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(rest[:min(n, len(rest))])
		if len(rest) > n {
			panic(http.ErrAbortHandler)
		}
		return true
	}
}

func TestPullResumesWhereItStopped(t *testing.T) {
	b := random(100_000)
	h := newHub(t, map[string][]byte{one: b})
	h.Serve = cut(30_000)
	p := puller(t, h)
	path, _, err := pull(t, p, "user/repo")
	if err != nil {
		t.Fatal(err)
	}
	want(t, path, b)
	if got := strings.Join(h.Ranges, " "); got != " bytes=30000- bytes=60000- bytes=90000-" {
		t.Errorf("asked for %q", got)
	}
}

func TestPullGoesOnAfterTheProcessEnded(t *testing.T) {
	b := random(50_000)
	h := newHub(t, map[string][]byte{one: b})
	p := puller(t, h)
	sum := sha256.Sum256(b)
	blobs := filepath.Join(string(p.Cache), "models--user--repo", "blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	incomplete := filepath.Join(blobs, hex.EncodeToString(sum[:])+".incomplete")
	if err := os.WriteFile(incomplete, b[:20_000], 0o600); err != nil {
		t.Fatal(err)
	}
	path, _, err := pull(t, p, "user/repo")
	if err != nil {
		t.Fatal(err)
	}
	want(t, path, b)
	if h.Ranges[0] != "bytes=20000-" {
		t.Errorf("asked for %q", h.Ranges)
	}
}

func TestPullStartsAnewWhenTheHubKnowsNoRanges(t *testing.T) {
	b := random(100_000)
	h := newHub(t, map[string][]byte{one: b})
	h.Serve = func(w http.ResponseWriter, r *http.Request, b []byte) bool {
		if len(h.Ranges) == 1 {
			return cut(30_000)(w, r, b)
		}
		_, _ = w.Write(b) // 200, all of it
		return true
	}
	path, _, err := pull(t, puller(t, h), "user/repo")
	if err != nil {
		t.Fatal(err)
	}
	want(t, path, b)
}

func TestPullRefusesWhatIsNotWhatWasAnnounced(t *testing.T) {
	b := random(10_000)
	longer := append(bytes.Clone(b), 1)
	for name, set := range map[string]func(h *hubtest.Hub){
		"hash":  func(h *hubtest.Hub) { h.Hashes[one] = strings.Repeat("a", 64) },
		"short": func(h *hubtest.Hub) { h.Sizes[one] = 20_000 },
		"long": func(h *hubtest.Hub) {
			h.Sizes[one] = int64(len(b))
			h.Serve = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { _, _ = w.Write(longer); return true }
		},
		"another part": func(h *hubtest.Hub) {
			h.Serve = func(w http.ResponseWriter, r *http.Request, b []byte) bool {
				if len(h.Ranges) == 1 {
					return cut(3_000)(w, r, b)
				}
				w.Header().Set("Content-Range", "bytes 0-9/10000")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(b[:10])
				return true
			}
		},
		"no hash": func(h *hubtest.Hub) { h.Hashes[one] = "" },
	} {
		h := newHub(t, map[string][]byte{one: b})
		set(h)
		p := puller(t, h)
		_, _, err := pull(t, p, "user/repo")
		if err == nil || name != "no hash" && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		nothing(t, p.Cache)
	}
}

// After a wrong hash nothing of the file stays: the next attempt would only repeat it.
func TestPullForgetsADamagedFile(t *testing.T) {
	b := random(10_000)
	h := newHub(t, map[string][]byte{one: b})
	damaged := bytes.Clone(b)
	damaged[5] ^= 1
	h.Serve = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(damaged))
		return true
	}
	p := puller(t, h)
	if _, _, err := pull(t, p, "user/repo"); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	h.Serve = nil
	path, _, err := pull(t, p, "user/repo")
	if err != nil {
		t.Fatal(err)
	}
	want(t, path, b)
}

func TestPullEndsWhenNothingComes(t *testing.T) {
	h := newHub(t, map[string][]byte{one: random(10_000)})
	h.Serve = func(w http.ResponseWriter, r *http.Request, b []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.(http.Flusher).Flush()
		h.Mu.Unlock()
		<-r.Context().Done()
		h.Mu.Lock()
		return true
	}
	if _, _, err := pull(t, puller(t, h), "user/repo"); err == nil || !strings.Contains(err.Error(), "nothing came any more") {
		t.Error(err)
	}
	if len(h.Ranges) != attempts {
		t.Errorf("%d attempts", len(h.Ranges))
	}
}

func TestPullSaysWhyTheHubRefuses(t *testing.T) {
	for _, c := range []struct {
		status int
		token  string
		says   string
	}{
		{http.StatusUnauthorized, "", "HF_TOKEN"}, {http.StatusUnauthorized, "hf_x", "make a new one"},
		{http.StatusForbidden, "hf_x", "accept the model's terms"}, {http.StatusNotFound, "", "check the name"},
		{http.StatusTooManyRequests, "", "wait"}, {http.StatusInternalServerError, "", "try again later"},
	} {
		h := newHub(t, nil)
		h.Status = c.status
		p := puller(t, h)
		p.Token = c.token
		_, _, err := pull(t, p, "user/repo")
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hf_x") {
			t.Errorf("%d: %v", c.status, err)
		}
		if gated := c.status == http.StatusUnauthorized || c.status == http.StatusForbidden; errors.Is(err, ErrAccess) != gated {
			t.Errorf("%d: %v", c.status, err)
		}
	}
	h := newHub(t, map[string][]byte{one: random(100)}) // listed, and then refused: gated
	h.Serve = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	if _, _, err := pull(t, puller(t, h), "user/repo"); !errors.Is(err, ErrAccess) || len(h.Ranges) != 1 {
		t.Errorf("gated: %v after %d requests", err, len(h.Ranges))
	}
}

func TestPullBringsAllShards(t *testing.T) {
	files := map[string][]byte{}
	for i := range 3 {
		files[fmt.Sprintf("big/m-Q4_K_M-%05d-of-00003.gguf", i+1)] = random(1000 + i)
	}
	h := newHub(t, files)
	p := puller(t, h)
	path, m, err := pull(t, p, "user/repo")
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(path) != "m-Q4_K_M-00001-of-00003.gguf" || len(m.Files) != 3 {
		t.Errorf("%s, %d files", path, len(m.Files))
	}
	for name, b := range files {
		want(t, filepath.Join(filepath.Dir(path), filepath.Base(name)), b)
	}
	delete(h.Files, "big/m-Q4_K_M-00002-of-00003.gguf")
	if _, _, err := pull(t, puller(t, h), "user/repo"); err == nil || !strings.Contains(err.Error(), "00002-of-00003") {
		t.Errorf("a shard is missing: %v", err)
	}
}

func TestPullOnAFullDisk(t *testing.T) {
	b := random(10_000)
	h := newHub(t, map[string][]byte{one: b})
	h.Sizes[one] = 1 << 41
	p := puller(t, h)
	if _, _, err := pull(t, p, "user/repo"); !errors.Is(err, ErrNoSpace) || len(h.Ranges) > 0 {
		t.Errorf("two terabytes: %v after %d requests", err, len(h.Ranges))
	}
	delete(h.Sizes, one)
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	sum := sha256.Sum256(b)
	blobs := filepath.Join(string(p.Cache), "models--user--repo", "blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	// what is written to it does not fit: the disk filled up meanwhile. Reading it gives zeros without end.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	part := &part{file: full, hash: sha256.New(), want: File{Path: one, Size: 10_000, SHA256: hex.EncodeToString(sum[:])}, tell: func(int64) {}}
	c := newClient(h.URL, "", nil)
	if err := c.fill(context.Background(), Model{Repo: "user/repo", Commit: hubtest.Commit}, part); !errors.Is(err, ErrNoSpace) || len(h.Ranges) != 1 {
		t.Errorf("a full disk: %v after %d requests", err, len(h.Ranges))
	}
}

func TestPullChecksBeforeItDownloads(t *testing.T) {
	b := append([]byte("GGUF"), random(1000)...)
	h := newHub(t, map[string][]byte{one: b})
	p := puller(t, h)
	refuse := errors.New("too large")
	p.Check = func(ctx context.Context, m Model, remote Remote) error {
		if m.Size() != int64(len(b)) {
			t.Errorf("%d bytes", m.Size())
		}
		return errors.Join(refuse, remote.Head(ctx, func(r io.Reader) error {
			magic := make([]byte, 4)
			if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "GGUF" {
				t.Errorf("%q, %v", magic, err)
			}
			return nil
		}))
	}
	if _, _, err := pull(t, p, "user/repo"); !errors.Is(err, refuse) {
		t.Error(err)
	}
	if len(h.Ranges) != 1 || h.Ranges[0] != "bytes=0-67108863" {
		t.Errorf("asked for %q", h.Ranges)
	}
	nothing(t, p.Cache)
}

func TestPullIsInterrupted(t *testing.T) {
	h := newHub(t, map[string][]byte{one: random(100_000)})
	p := puller(t, h)
	ctx, cancel := context.WithCancel(context.Background())
	p.Progress = func(string, int64, int64) { cancel() }
	if _, _, err := p.Pull(ctx, Ref{Repo: "user/repo"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	nothing(t, p.Cache)
}

func TestChoice(t *testing.T) {
	files := func(names ...string) (list []File) {
		for _, n := range names {
			list = append(list, File{Path: n, Size: 1})
		}
		return list
	}
	several := files("m-Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf", "m.Q8_0.gguf", "UD/m-UD-Q4_K_XL.gguf", "mmproj-F16.gguf", "imatrix.gguf")
	for _, c := range []struct {
		files []File
		quant string
		want  string
	}{
		{several, "", "m-Q4_K_M.gguf"}, {several, "q8_0", "m.Q8_0.gguf"}, {several, "Q4_K_S", "m-Q4_K_S.gguf"},
		{several, "Q4_K", ""}, {several, "Q4_K_XL", "UD/m-UD-Q4_K_XL.gguf"}, {several, "F16", ""},
		{several, "m-IQ4_XS.gguf", "m-IQ4_XS.gguf"}, {files("only.gguf"), "", "only.gguf"},
		{files("a.gguf", "b.gguf"), "", ""}, {files("README.md"), "", ""}, {files("only.gguf"), "Q8_0", ""},
	} {
		got, err := choose("user/repo", c.files, c.quant)
		if c.want == "" && err == nil || c.want != "" && (err != nil || got[0].Path != c.want) {
			t.Errorf("%q: %v, %v; want %q", c.quant, got, err, c.want)
		}
	}
}

func TestReferences(t *testing.T) {
	for text, want := range map[string]Ref{
		"user/repo":                           {Repo: "user/repo"},
		"user/repo-GGUF:Q8_0":                 {Repo: "user/repo-GGUF", Quant: "Q8_0"},
		"hub.example/user/repo":               {Host: "hub.example", Repo: "user/repo"},
		"https://hub.example:8443/u/r:IQ4_XS": {Host: "hub.example:8443", Repo: "u/r", Quant: "IQ4_XS"},
		"u/Llama-3.2-3B-Instruct-GGUF":        {Repo: "u/Llama-3.2-3B-Instruct-GGUF"},
	} {
		if got, err := ParseRef(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "repo", "/repo", "a/b/c/d", "a/..", "../b", "a/b:", "a b/c", "a/b?x=1", "a/" + strings.Repeat("b", 300), "http://x/y/z", "a/b:../c"} {
		if got, err := ParseRef(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestCacheIsWhereTheEnvironmentSays(t *testing.T) {
	all := map[string]string{"LLAMA_CACHE": "/1", "HF_HUB_CACHE": "/2", "HF_HOME": "/3", "XDG_CACHE_HOME": "/4", "HOME": "/5"}
	for _, c := range []struct {
		drop string
		want Cache
	}{{"", "/1"}, {"LLAMA_CACHE", "/2"}, {"HF_HUB_CACHE", "/3/hub"}, {"HF_HOME", "/4/huggingface/hub"}, {"XDG_CACHE_HOME", "/5/.cache/huggingface/hub"}} {
		delete(all, c.drop)
		if got, err := CacheOf(func(name string) string { return all[name] }); err != nil || got != c.want {
			t.Errorf("without %s: %s, %v; want %s", c.drop, got, err, c.want)
		}
	}
}

func TestWithoutAHubNothingIsAsked(t *testing.T) {
	p := &Puller{Cache: Cache(t.TempDir())}
	if _, _, err := pull(t, p, "user/repo"); !errors.Is(err, ErrNoEndpoint) {
		t.Error(err)
	}
	for _, endpoint := range []string{"hub", "ftp://hub", "https://"} {
		p.Endpoint = endpoint
		if _, _, err := pull(t, p, "user/repo"); err == nil {
			t.Errorf("%s: no error", endpoint)
		}
	}
	p.Endpoint, p.Token = "http://hub.example", "hf_x"
	if _, _, err := pull(t, p, "user/repo"); err == nil || !strings.Contains(err.Error(), "unencrypted") {
		t.Error(err)
	}
}
