// Package hubtest is a hub on this machine for tests: it speaks the API and misbehaves as told.
package hubtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// Commit is the only version.
const Commit = "0123456789abcdef0123456789abcdef01234567"

// Hub speaks the API of a hub about one repository, user/repo, and misbehaves as told.
type Hub struct {
	*httptest.Server
	Mu     sync.Mutex // held while it answers
	Files  map[string][]byte
	Hashes map[string]string                                           // announced instead of the true ones
	Sizes  map[string]int64                                            // the same
	Serve  func(w http.ResponseWriter, r *http.Request, b []byte) bool // true: it has answered
	Status int                                                         // of every answer, if not 0
	Ranges []string                                                    // asked for, in order
	Tokens []string
}

// New starts a hub with these files; it has to be closed.
func New(files map[string][]byte) *Hub {
	h := &Hub{Files: files, Hashes: map[string]string{}, Sizes: map[string]int64{}}
	h.Server = httptest.NewServer(h)
	return h
}

// ServeHTTP answers as the hub.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.Tokens = append(h.Tokens, r.Header.Get("Authorization"))
	if h.Status != 0 {
		w.WriteHeader(h.Status)
		return
	}
	const api, resolve = "/api/models/user/repo", "/user/repo/resolve/" + Commit + "/"
	switch {
	case r.URL.Path == api+"/refs":
		fmt.Fprintf(w, `{"branches":[{"name":"dev","targetCommit":"%s"},{"name":"main","targetCommit":"%s"}]}`, strings.Repeat("f", 40), Commit)
	case r.URL.Path == api+"/tree/"+Commit:
		h.tree(w, r)
	case strings.HasPrefix(r.URL.Path, resolve):
		b, ok := h.Files[strings.TrimPrefix(r.URL.Path, resolve)]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		h.Ranges = append(h.Ranges, r.Header.Get("Range"))
		if h.Serve == nil || !h.Serve(w, r, b) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// tree lists the files on two pages, with paths among them that nobody may follow.
func (h *Hub) tree(w http.ResponseWriter, r *http.Request) {
	entries := []map[string]any{}
	if r.URL.Query().Get("cursor") == "" {
		w.Header().Set("Link", "<"+h.URL+r.URL.Path+`?recursive=true&cursor=2>; rel="next"`)
		entries = append(entries, map[string]any{"type": "file", "path": "../../evil-Q4_K_M.gguf", "size": 1},
			map[string]any{"type": "directory", "path": "Q8_0"}, map[string]any{"type": "file", "path": "README.md", "size": 3})
	} else {
		for name, b := range h.Files {
			sum := sha256.Sum256(b)
			oid, size := hex.EncodeToString(sum[:]), int64(len(b))
			if o, ok := h.Hashes[name]; ok {
				oid = o
			}
			if s, ok := h.Sizes[name]; ok {
				size = s
			}
			entries = append(entries, map[string]any{"type": "file", "path": name, "size": 130, "lfs": map[string]any{"oid": oid, "size": size}})
		}
	}
	_ = json.NewEncoder(w).Encode(entries)
}
