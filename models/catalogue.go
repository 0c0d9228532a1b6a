package models

import (
	_ "embed"
	"encoding/json"
	"slices"
	"strings"

	"fedattn/models/hub"
)

//go:embed catalogue.json
var catalogueJSON []byte

// Entry is a model that is recommended: all of them can be federated. Sizes are those of the named quantisation; what a
// pull checks is what the hub says at that time.
type Entry struct {
	Name       string  `json:"name"` // what --model takes
	Repo       string  `json:"repo"`
	Quant      string  `json:"quant"`
	Parameters float64 `json:"parameters_billion"`
	SizeMB     int64   `json:"size_mb"`
	Context    int     `json:"context"`            // tokens that it was trained for
	KVBytes    int64   `json:"kv_bytes_per_token"` // of an f16 cache
	Memory2kMB int64   `json:"memory_2k_mb"`       // weights, scratch and a cache of 2048 tokens
	Memory8kMB int64   `json:"memory_8k_mb"`
	Licence    string  `json:"licence"`
	Note       string  `json:"note"`
}

// Ref is the entry's name on the hub.
func (e Entry) Ref() hub.Ref { return hub.Ref{Repo: e.Repo, Quant: e.Quant} }

// Catalogue lists the recommended models, smallest first.
func Catalogue() []Entry {
	var entries []Entry
	if err := json.Unmarshal(catalogueJSON, &entries); err != nil {
		return nil // a test reads the file
	}
	return entries
}

// Lookup finds a model of the catalogue by name.
func Lookup(name string) (Entry, bool) {
	all := Catalogue()
	i := slices.IndexFunc(all, func(e Entry) bool { return strings.EqualFold(e.Name, name) })
	if i < 0 {
		return Entry{}, false
	}
	return all[i], true
}
