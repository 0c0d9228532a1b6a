package hub

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultQuant is the quantisation that a name without one means.
const DefaultQuant = "Q4_K_M"

// Ref is a model by name.
type Ref struct {
	Host  string // of the hub; empty: the one of the environment
	Repo  string // user/repo
	Quant string // empty: DefaultQuant, or the only one that there is
}

func (r Ref) String() string {
	s := r.Repo
	if r.Host != "" {
		s = r.Host + "/" + s
	}
	if r.Quant != "" {
		s += ":" + r.Quant
	}
	return s
}

var (
	segment   = `[A-Za-z0-9_]+(?:[.-]+[A-Za-z0-9_]+)*`
	reference = regexp.MustCompile(`^(?:https://)?(?:([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?)/)?(` + segment + `/` + segment + `)(?::([A-Za-z0-9_][A-Za-z0-9_.-]*))?/?$`)
)

// maxRef is the longest name.
const maxRef = 256

// ParseRef reads user/repo, user/repo:quant, and the same behind the name of a hub's host.
func ParseRef(text string) (Ref, error) {
	m := reference.FindStringSubmatch(text)
	if m == nil || len(text) > maxRef || strings.Contains(text, "..") {
		return Ref{}, fmt.Errorf("%q is no name of a model: write user/repo or user/repo:Q4_K_M", text)
	}
	return Ref{Host: m[1], Repo: m[2], Quant: m[3]}, nil
}
