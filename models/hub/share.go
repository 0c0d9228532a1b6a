package hub

import (
	"encoding/json"
	"net/http"
	"os"
	"path"
	"strings"
	"time"
)

// PeerUser is the user in the names of models that other devices hand out. They are kept apart from those of a hub, whose
// hashes somebody else vouches for.
const PeerUser = "peers"

// Share is a model of this device as a hub would offer it, for devices that trust this one. Its version is the beginning
// of its first file's hash.
type Share struct {
	Model
	paths map[string]string // of files, by name
}

// NewShare offers a model under a name, with its files at these paths.
func NewShare(name string, files []File, paths []string) Share {
	s := Share{Model: Model{Repo: PeerUser + "/" + repoName(name), Commit: files[0].SHA256[:40], Files: files}, paths: map[string]string{}}
	for i, f := range files {
		s.paths[f.Path] = paths[i]
	}
	return s
}

// repoName is a name in the characters that a repository may have.
func repoName(name string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	if clean := strings.Trim(b.String(), "-"); clean != "" {
		return clean
	}
	return "model"
}

// ServeHTTP answers as a hub with this one model.
func (s Share) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	api := "/api/models/" + s.Repo
	switch r.URL.Path {
	case "/api/models":
		answer(w, []any{map[string]any{"id": s.Repo, "sha": s.Commit}})
	case api + "/refs":
		answer(w, map[string]any{"branches": []any{map[string]any{"name": "main", "targetCommit": s.Commit}}})
	case api + "/tree/" + s.Commit:
		list := []any{}
		for _, f := range s.Files {
			list = append(list, map[string]any{"type": "file", "path": f.Path, "size": f.Size, "lfs": map[string]any{"oid": f.SHA256, "size": f.Size}})
		}
		answer(w, list)
	default:
		name, found := strings.CutPrefix(r.URL.Path, "/"+path.Join(s.Repo, "resolve", s.Commit)+"/")
		place := s.paths[name] // names of this model's files, nothing else, so no path leads out
		if !found || place == "" {
			http.NotFound(w, r)
			return
		}
		file, err := os.Open(place)
		if err != nil {
			http.Error(w, "the file is gone", http.StatusGone)
			return
		}
		defer file.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, file)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
