package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Limits of what a hub may say, and of how long it may take.
const (
	maxListing   = 16 << 20 // bytes of one answer
	maxPages     = 32       // of a listing
	maxModelFile = 1 << 42  // bytes
	askTimeout   = 30 * time.Second
	dialTimeout  = 15 * time.Second
)

var (
	retryPause = time.Second // before the first retry
	stallLimit = time.Minute // how long a body may bring nothing
)

// client speaks with one hub.
type client struct {
	endpoint, token string
	http            *http.Client
	pause           time.Duration // before the first retry
	stall           time.Duration // how long a body may bring nothing
}

func newClient(endpoint, token string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	if dial != nil {
		transport.DialContext, transport.Proxy, transport.MaxConnsPerHost = dial, nil, 1
	}
	transport.ResponseHeaderTimeout = askTimeout
	transport.DisableCompression = true // bytes of files are counted
	return &client{endpoint, token, &http.Client{Transport: transport}, retryPause, stallLimit}
}

// get asks for an address; the body is the caller's to close.
func (c *client) get(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", "fedattn")
	if c.token != "" {
		// net/http drops it when a redirection leads to another host
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.http.Do(req)
}

// refused is the error for an answer that is none.
func (c *client) refused(resp *http.Response, repo string) error {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		if c.token == "" {
			return fmt.Errorf("%w to %s: it does not exist, or is private or gated; check the name, or put a token of yours into HF_TOKEN", ErrAccess, repo)
		}
		return fmt.Errorf("%w to %s: it does not take the token in HF_TOKEN; make a new one", ErrAccess, repo)
	case http.StatusForbidden:
		return fmt.Errorf("%w to %s: accept the model's terms on its page with your account, and put a token of it into HF_TOKEN", ErrAccess, repo)
	case http.StatusNotFound:
		return fmt.Errorf("the hub has no %s: check the name", repo)
	case http.StatusTooManyRequests:
		return fmt.Errorf("the hub has had too many requests: wait some minutes and try again")
	}
	return fmt.Errorf("the hub answers %s: try again later", resp.Status)
}

// read asks for JSON.
func (c *client) read(ctx context.Context, address, repo string, into any) (next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := c.get(ctx, address, nil)
	if err != nil {
		return "", c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", c.refused(resp, repo)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
	if err != nil {
		return "", c.unreachable(err)
	}
	if len(b) > maxListing || json.Unmarshal(b, into) != nil {
		return "", fmt.Errorf("what answers at %s is no hub: check %s", c.endpoint, endpointVariable())
	}
	return nextPage(resp), nil
}

func (c *client) unreachable(err error) error {
	if inner, ok := err.(*url.Error); ok {
		err = inner.Err
	}
	return fmt.Errorf("the hub at %s cannot be reached: %w; check the network, or use what is cached with --offline", c.endpoint, err)
}

var nextLink = regexp.MustCompile(`<([^>]+)>;\s*rel="next"`)

// nextPage is the address of a listing's next page on the same host, empty if there is none.
func nextPage(resp *http.Response) string {
	m := nextLink.FindStringSubmatch(resp.Header.Get("Link"))
	if m == nil {
		return ""
	}
	next, err := resp.Request.URL.Parse(m[1])
	if err != nil || next.Host != resp.Request.URL.Host {
		return ""
	}
	return next.String()
}

var (
	commitHash = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256Hash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// resolve finds the files that a reference means.
func (c *client) resolve(ctx context.Context, ref Ref) (Model, error) {
	m := Model{Repo: ref.Repo}
	var refs struct {
		Branches []struct {
			Name         string `json:"name"`
			TargetCommit string `json:"targetCommit"`
		} `json:"branches"`
	}
	if _, err := c.read(ctx, c.endpoint+"/api/models/"+ref.Repo+"/refs", ref.Repo, &refs); err != nil {
		return m, err
	}
	for _, b := range refs.Branches {
		if b.Name == "main" || m.Commit == "" {
			m.Commit = b.TargetCommit
		}
	}
	if !commitHash.MatchString(m.Commit) {
		return m, fmt.Errorf("the hub names no version of %s: check the name", ref.Repo)
	}
	files, err := c.list(ctx, m)
	if err != nil {
		return m, err
	}
	if m.Files, err = choose(m.Repo, files, ref.Quant); err != nil {
		return m, err
	}
	for _, f := range m.Files {
		if !sha256Hash.MatchString(f.SHA256) {
			return m, fmt.Errorf("the hub gives no SHA-256 of %s, so that it could not be checked: choose another repository", f.Path)
		}
	}
	return m, nil
}

// names lists the models that the endpoint has.
func (c *client) names(ctx context.Context) (names []string, err error) {
	var list []struct {
		ID string `json:"id"`
	}
	if _, err := c.read(ctx, c.endpoint+"/api/models", "list of models", &list); err != nil {
		return nil, err
	}
	for _, m := range list {
		if _, err := ParseRef(m.ID); err == nil {
			names = append(names, m.ID)
		}
	}
	return names, nil
}

// list returns a repository's files.
func (c *client) list(ctx context.Context, m Model) (files []File, err error) {
	next := c.endpoint + "/api/models/" + m.Repo + "/tree/" + m.Commit + "?recursive=true"
	for page := 0; next != "" && page < maxPages; page++ {
		var tree []struct {
			Type string `json:"type"`
			Path string `json:"path"`
			Size int64  `json:"size"`
			LFS  *struct {
				OID  string `json:"oid"`
				Size int64  `json:"size"`
			} `json:"lfs"`
		}
		if next, err = c.read(ctx, next, m.Repo, &tree); err != nil {
			return nil, err
		}
		for _, e := range tree {
			if e.Type != "file" || !safePath(e.Path) {
				continue
			}
			f := File{Path: e.Path, Size: e.Size}
			if e.LFS != nil {
				f.SHA256, f.Size = strings.ToLower(e.LFS.OID), e.LFS.Size
			}
			if f.Size > 0 && f.Size <= maxModelFile {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

// safePath reports whether a path of a repository may be one below a folder.
func safePath(p string) bool {
	if p == "" || len(p) > 1024 || strings.ContainsAny(p, "\\\x00") {
		return false
	}
	for _, element := range strings.Split(p, "/") {
		if element == "" || element == "." || element == ".." {
			return false
		}
	}
	return true
}

// address of a file's content.
func (c *client) address(m Model, f File) string {
	return c.endpoint + "/" + m.Repo + "/resolve/" + m.Commit + "/" + (&url.URL{Path: f.Path}).EscapedPath()
}

// Remote is a file that is still on the hub.
type Remote struct {
	c *client
	m Model
	f File
}

// headerRange is how much of a file is asked for to read its header.
const headerRange = 64 << 20

// Head lets read see the file's first bytes; it need not read all of them.
func (r Remote) Head(ctx context.Context, read func(io.Reader) error) error {
	if r.c == nil {
		return fmt.Errorf("there is no remote file")
	}
	ctx, cancel := context.WithTimeout(ctx, 4*askTimeout)
	defer cancel()
	resp, err := r.c.get(ctx, r.c.address(r.m, r.f), http.Header{"Range": {fmt.Sprintf("bytes=0-%d", headerRange-1)}})
	if err != nil {
		return r.c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return r.c.refused(resp, r.m.Repo)
	}
	return read(resp.Body)
}
