package fedkv

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// directImports is all that the core may import.
var directImports = map[string]bool{
	"encoding/binary":              true,
	"encoding/hex":                 true,
	"errors":                       true,
	"fmt":                          true,
	"math":                         true,
	"math/bits":                    true,
	"reflect":                      true,
	"slices":                       true,
	"strconv":                      true,
	"strings":                      true,
	"time":                         true, // durations only: see clock
	"unicode":                      true,
	"unicode/utf8":                 true,
	"github.com/fxamacker/cbor/v2": true,
}

// banned is what may not come in through others either, with the reason.
var banned = map[string]string{
	"C":                          "the core builds without a C compiler",
	"runtime/cgo":                "the core builds without a C compiler",
	"net":                        "the driver owns the network",
	"os/exec":                    "the core starts nothing",
	"log":                        "the core returns what it has to say",
	"log/slog":                   "the core returns what it has to say",
	"crypto/rand":                "the same events give the same outputs",
	"github.com/rs/zerolog":      "the core returns what it has to say, and zerolog brings net",
	"github.com/quic-go/quic-go": "the transport is not the core's business",
	"fedattn/fedkv/node":         "the runtime drives the core, not the other way round",
	"fedattn/llama":              "the engine is reached through the runtime",
	"fedattn/transport":          "the transport is not the core's business",
}

// clock is what would read or wait for time.
var clock = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true, "Tick": true,
	"NewTimer": true, "NewTicker": true,
}

// The core is pure: what it does depends on its arguments alone, so that sessions replay and tests need
// neither network nor clock.
func TestTheCoreIsPure(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	positions := token.NewFileSet()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(positions, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range file.Imports {
			path, err := strconv.Unquote(imported.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !directImports[path] {
				t.Errorf("%v: imports %q", positions.Position(imported.Pos()), path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%v: starts a goroutine", positions.Position(n.Pos()))
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && clock[n.Sel.Name] {
					t.Errorf("%v: asks the clock (time.%s)", positions.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestTheCoreDependsOnNothingImpure(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "fedattn/fedkv").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if reason, ok := banned[path]; ok {
			t.Errorf("depends on %s: %s", path, reason)
		}
	}
}
