// Package hub brings models by name: from a hub that speaks the Hugging Face API into a cache of its layout, so that
// what other programs downloaded is found here and the other way round.
//
// A pull goes through these files in order:
//
//  1. ref.go: user/repo:quant
//  2. client.go: which files the repository has, with sizes and SHA-256 sums
//  3. choose.go: which of them the quantisation means, all shards of it
//  4. download.go: each into blobs/SHA256, resumed, hashed while it is written, renamed when whole
//  5. cache.go: snapshots/COMMIT/NAME points to it; what is there already is found without a network
//
// No hub is known to the program: the user names one, see Endpoint.
package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// Variables of the environment that name the hub, the first that is set.
var endpointVariables = []string{"FEDATTN_HUB", "HF_ENDPOINT"}

// Errors that callers tell apart.
var (
	// ErrNoEndpoint: nobody said which hub to ask.
	ErrNoEndpoint = errors.New("no hub is set: put its address into FEDATTN_HUB, as FEDATTN_HUB=https://HOST, or give the model as HOST/user/repo")
	// ErrNotCached: it may not be downloaded, and the cache does not have it.
	ErrNotCached = errors.New("it is not in the cache")
	// ErrAccess: the hub does not give it to this user.
	ErrAccess = errors.New("the hub refuses access")
	// ErrCorrupt: what came is not what the hub announced.
	ErrCorrupt = errors.New("the file is damaged")
	// ErrNoSpace: the disk is full.
	ErrNoSpace = errors.New("the disk is full")
)

// Progress is told how many bytes of a file are here; total never changes. A resumed file does not begin at 0.
type Progress func(file string, done, total int64)

// Puller brings models. The zero value has no hub and no cache.
type Puller struct {
	Endpoint string // https://HOST; empty: only what is cached
	Token    string // sent to the endpoint only
	Cache    Cache
	Offline  bool
	// Dial reaches the endpoint if it is no address of the network, such as a device that this one is connected with.
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Progress Progress                                           // may be nil
	Check    func(ctx context.Context, m Model, h Remote) error // asked before a download begins; may be nil
}

// Model is a model of a repository: one file, or several shards in order.
type Model struct {
	Repo, Commit string
	Files        []File
}

// Size is that of all files, in bytes.
func (m Model) Size() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// File is a file of a repository.
type File struct {
	Path   string // in the repository
	Size   int64  // bytes
	SHA256 string // lower-case hex
}

// Endpoint is the hub's address from the environment, empty if there is none.
func Endpoint(getenv func(string) string) string {
	for _, name := range endpointVariables {
		if v := getenv(name); v != "" {
			return strings.TrimRight(v, "/")
		}
	}
	return ""
}

// New is a puller as the environment describes it.
func New(getenv func(string) string) (*Puller, error) {
	cache, err := CacheOf(getenv)
	if err != nil {
		return nil, err
	}
	return &Puller{Endpoint: Endpoint(getenv), Token: strings.TrimSpace(getenv("HF_TOKEN")), Cache: cache}, nil
}

// Pull returns the path of the model's first file, which is whole and has the announced hash; the others lie beside it.
func (p *Puller) Pull(ctx context.Context, ref Ref) (path string, m Model, err error) {
	if p.Offline || p.Endpoint == "" && ref.Host == "" {
		if path, m, err = p.Cache.Find(ref); err == nil || p.Offline || !errors.Is(err, ErrNotCached) {
			return path, m, err
		}
		return "", m, ErrNoEndpoint
	}
	c, err := p.client(ref)
	if err != nil {
		return "", m, err
	}
	if m, err = c.resolve(ctx, ref); err != nil {
		return "", m, err
	}
	missing := p.Cache.missing(m)
	if len(missing) > 0 && p.Check != nil {
		if err := p.Check(ctx, m, Remote{c, m, m.Files[0]}); err != nil {
			return "", m, err
		}
	}
	if err := p.Cache.room(missing); err != nil {
		return "", m, err
	}
	for _, f := range missing {
		if err := c.download(ctx, p.Cache, m, f, p.Progress); err != nil {
			return "", m, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	path, err = p.Cache.place(m)
	return path, m, err
}

// Names lists the models that the endpoint offers, as user/repo: for endpoints that have few.
func (p *Puller) Names(ctx context.Context) ([]string, error) {
	c, err := p.client(Ref{})
	if err != nil {
		return nil, err
	}
	return c.names(ctx)
}

// client speaks with the hub that a reference or the environment names.
func (p *Puller) client(ref Ref) (*client, error) {
	endpoint, token := p.Endpoint, p.Token
	if ref.Host != "" {
		endpoint = "https://" + ref.Host
		if own, err := url.Parse(p.Endpoint); err == nil && own.Host == ref.Host {
			endpoint = p.Endpoint
		} else if p.Endpoint != "" {
			token = "" // it is for the hub of the environment
		}
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%s=%q is no address of a hub: write https://HOST", endpointVariable(), endpoint)
	}
	if token != "" && u.Scheme != "https" && u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost" {
		return nil, fmt.Errorf("HF_TOKEN is not sent unencrypted: use https for %s, or unset HF_TOKEN", u.Host)
	}
	return newClient(endpoint, token, p.Dial), nil
}

// endpointVariable is the variable that names the hub now.
func endpointVariable() string {
	for _, name := range endpointVariables {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return cmp.Or(endpointVariables...)
}
