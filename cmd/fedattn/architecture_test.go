package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A rule says where an import may stand. Paths are folders of the module; a folder includes the ones below it.
type rule struct {
	imports string   // an import path, or the beginning of one at a slash
	only    []string // may stand here
	except  []string // but not here
	reason  string
}

// Third-party code has one home each, so that it can be replaced, and the core stays free of it.
var anyFile = []rule{
	{imports: "C", only: []string{"llama"}, reason: "C is called through one package, and everything else builds without a compiler"},
	{imports: "github.com/go-skynet/go-llama.cpp", only: []string{"llama"}, reason: "models are reached through llama's API"},
	{imports: "github.com/quic-go/quic-go", only: []string{"transport"}, reason: "the runtime sees connections through its own interfaces"},
	{imports: "github.com/fxamacker/cbor", only: []string{"fedkv"}, except: []string{"fedkv/node"}, reason: "only the core knows the encoding of messages"},
	{imports: "github.com/rs/zerolog", only: []string{"cmd", "fedkv/node"}, reason: "libraries return errors; the runtime and the commands log"},
	{imports: "github.com/urfave/cli", only: []string{"cmd"}, reason: "flags and exit codes belong to the commands"},
	{imports: "github.com/brutella/dnssd", only: []string{"transport"}, reason: "where devices are is the transport's matter"},
	{imports: "github.com/goccy/go-yaml", only: []string{"fedkv/policy", "fedkv/documents", "cmd/fedattn/settings", "cmd/fedattn/devices"}, reason: "people write policies, rules, settings and lists of devices, and nothing else is YAML"},
	{imports: "github.com/prometheus", only: []string{"cmd/fedattn/api"}, reason: "what is counted is the API's matter"},
	{imports: "github.com/vbauerster/mpb", only: []string{"cmd/fedattn"}, reason: "progress is shown by the commands"},
	{imports: "github.com/blevesearch", only: []string{"fedkv/documents"}, reason: "how passages are found is the documents' matter"},
	{imports: "github.com/go-git/go-git", only: []string{"fedkv/documents"}, reason: "only its patterns of .gitignore are used"},
	{imports: "github.com/ledongthuc/pdf", only: []string{"fedkv/documents"}, reason: "it runs in a process of its own, with caps"},
	{imports: "github.com/fsnotify/fsnotify", only: []string{"fedkv/documents"}, reason: "only folders are watched"},
	{imports: "gonum.org/v1/plot", only: []string{"cmd/figures"}, reason: "figures are of the documentation, not of what people install"},
}

// The layers: cmd uses all; llama and transport serve fedkv/node and never meet; fedkv uses none of them.
// Tests may reach across to hold two layers against each other.
var nonTestFile = []rule{
	{imports: "fedattn/cmd", only: []string{"cmd/fedattn"}, reason: "commands are the top"},
	{imports: "fedattn/llama", only: []string{"cmd", "llama"}, reason: "the runtime drives any engine"},
	{imports: "fedattn/transport", only: []string{"cmd", "transport"}, reason: "the runtime drives any peers"},
	{imports: "fedattn/models", only: []string{"cmd", "models"}, reason: "where models come from is the commands' matter"},
	{imports: "fedattn/fedkv/node", only: []string{"cmd", "llama", "transport", "fedkv/node"}, reason: "the core does not know who drives it"},
	{imports: "fedattn/fedkv/task", only: []string{"cmd", "fedkv/node/lab", "fedkv/task"}, reason: "problems are for measuring: what runs does not know them"},
}

func (r rule) allows(folder string) bool {
	in := func(f string) bool { return folder == f || strings.HasPrefix(folder, f+"/") }
	return slices.ContainsFunc(r.only, in) && !slices.ContainsFunc(r.except, in)
}

func (r rule) covers(imported string) bool {
	return imported == r.imports || strings.HasPrefix(imported, r.imports+"/")
}

func TestImports(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			skip := d.Name() == "third_party" || d.Name() == "testdata" || name != root && strings.HasPrefix(d.Name(), ".")
			if skip {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(d.Name()) != ".go" {
			return nil
		}
		files++
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		checkImports(t, name, filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("found %d Go files below %s: the walk misses the module", files, root)
	}
}

func checkImports(t *testing.T, name, rel string) {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), rel, src, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	rules := anyFile
	if !strings.HasSuffix(rel, "_test.go") {
		rules = slices.Concat(anyFile, nonTestFile)
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.covers(imported) && !r.allows(path.Dir(rel)) {
				t.Errorf("%s imports %s: %s", rel, imported, r.reason)
			}
		}
	}
}

func TestImportRulesBite(t *testing.T) {
	for _, c := range []struct {
		folder, imported string
		allowed          bool
	}{
		{"llama", "C", true},
		{"transport", "C", false},
		{"fedkv", "github.com/fxamacker/cbor/v2", true},
		{"fedkv/node", "github.com/fxamacker/cbor/v2", false},
		{"fedkv", "github.com/rs/zerolog", false},
		{"cmd/fedattn", "fedattn/transport", true},
		{"llama", "fedattn/transport", false},
		{"transport", "fedattn/llama", false},
		{"fedkv", "fedattn/fedkv/node", false},
		{"fedkv/node/lab", "fedattn/fedkv/task", true},
		{"fedkv/node", "fedattn/fedkv/task", false},
		{"transport", "fedattn/fedkv", true},
	} {
		allowed := true
		for _, r := range slices.Concat(anyFile, nonTestFile) {
			if r.covers(c.imported) && !r.allows(c.folder) {
				allowed = false
			}
		}
		if allowed != c.allowed {
			t.Errorf("%s importing %s: allowed %v, want %v", c.folder, c.imported, allowed, c.allowed)
		}
	}
}
