package fedkv

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// banned says why the core must not depend on a package, by import path; a path that ends in / bans all below.
var banned = map[string]string{
	"C":           "cgo belongs to llama/: the core builds and tests everywhere",
	"runtime/cgo": "some dependency brings cgo in",
	"net":         "the network belongs to transport/ and to the driver",
	"net/":        "the network belongs to transport/ and to the driver",
	"crypto/tls":  "identity and encryption belong to transport/",
	"crypto/rand": "a machine is deterministic: the driver draws session IDs",
	"math/rand":   "a machine is deterministic",
	"os/exec":     "nothing is started from the core",
	"os/signal":   "signals belong to cmd/",
	"plugin":      "nothing is loaded into the core",
	"log":         "the core does not log: it returns errors and outputs",
	"log/":        "the core does not log: it returns errors and outputs",
	"testing":     "tests stay in tests",

	"github.com/rs/zerolog":      "zerolog brings net and cgo, and the core does not log",
	"github.com/quic-go/quic-go": "QUIC belongs to transport/",
	"github.com/go-skynet/":      "the model belongs to llama/",
	"fedattn/llama":              "the core knows rows and shapes, not a model",
	"fedattn/transport":          "the core knows messages and blocks, not how they travel",
	"fedattn/cmd/":               "commands are on top",
	"fedattn/fedkv/":             "the sub-packages build on the core, not it on them",
}

// indirect are packages that a dependency may use although the core itself may not import them.
var indirect = map[string]string{
	"math/rand": "math/big, which CBOR knows big numbers by, has a random source that nobody here calls",
}

// TestCoreDependsOnNothingThatMoves holds the package to what its documentation promises, through all of its
// dependencies.
func TestCoreDependsOnNothingThatMoves(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if reason := bannedBy(path); reason != "" && indirect[path] == "" && path != "fedattn/fedkv" {
			t.Errorf("depends on %s: %s", path, reason)
		}
	}
}

// TestCoreSourceHasNoClockAndNoGoroutine reads the package's own files: no banned import, no goroutine,
// channel or select, and of package time and os nothing but constants and types.
func TestCoreSourceHasNoClockAndNoGoroutine(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range faults(t, path, source) {
			t.Error(fault)
		}
		seen++
	}
	if seen < 10 {
		t.Errorf("only %d files were read", seen)
	}
}

// The scan itself is held to what it has to find.
func TestCoreScanFindsWhatItLooksFor(t *testing.T) {
	for _, body := range []string{
		`import "net"`,
		`import "crypto/rand"`,
		`import "time"; func f() { time.Now() }`,
		`import clock "time"; var now = clock.Now`,
		`import "time"; func f() { time.Sleep(1) }`,
		`import "os"; var x = os.Stdout`,
		`func f() { go f() }`,
		`func f() { var c chan int; _ = c }`,
		`func f() { select {} }`,
		`import "sync"; var mu sync.Mutex`,
	} {
		if len(faults(t, "x.go", []byte("package x; "+body))) == 0 {
			t.Errorf("nothing is wrong with %s", body)
		}
	}
	if f := faults(t, "x.go", []byte(`package x; import "time"; const d = 5 * time.Second; var e time.Duration`)); len(f) != 0 {
		t.Errorf("durations are allowed: %v", f)
	}
}

func bannedBy(path string) string {
	if reason := banned[path]; reason != "" {
		return reason
	}
	for prefix, reason := range banned {
		if strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix) {
			return reason
		}
	}
	return ""
}

// faults lists what a source file of the core must not have.
func faults(t *testing.T, path string, source []byte) (list []string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	complain := func(at ast.Node, what string) {
		list = append(list, set.Position(at.Pos()).String()+": "+what)
	}
	clock := ""
	for _, spec := range file.Imports {
		imported := strings.Trim(spec.Path.Value, `"`)
		if reason := bannedBy(imported); reason != "" {
			complain(spec, "imports "+imported+": "+reason)
		}
		switch imported {
		case "time":
			clock = "time"
			if spec.Name != nil {
				clock = spec.Name.Name
			}
		case "os", "io/fs", "path/filepath", "syscall":
			complain(spec, "imports "+imported+": files belong to whoever uses the core")
		case "sync", "sync/atomic", "context":
			complain(spec, "imports "+imported+": one goroutine at a time uses a machine")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			complain(n, "starts a goroutine")
		case *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
			complain(n, "uses a channel: the driver waits, not the core")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && clock != "" && x.Name == clock {
				switch n.Sel.Name {
				case "Duration", "Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour":
				default:
					complain(n, "uses time."+n.Sel.Name+": time is an argument")
				}
			}
		}
		return true
	})
	return list
}
