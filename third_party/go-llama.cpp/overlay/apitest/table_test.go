package apitest

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// exported lists what a package's files export: functions, methods as Type.Method, and variables.
func exported(t *testing.T, dir string, tests bool) map[string]bool {
	t.Helper()
	packages, err := parser.ParseDir(gotoken.NewFileSet(), dir, func(f fs.FileInfo) bool {
		return strings.HasSuffix(f.Name(), "_test.go") == tests
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	add := func(prefix string, name *ast.Ident) {
		if name.IsExported() {
			names[prefix+name.Name] = true
		}
	}
	for _, p := range packages {
		for _, file := range p.Files {
			for _, d := range file.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil {
						add("", d.Name)
					} else if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok && ast.IsExported(star.X.(*ast.Ident).Name) {
						add(star.X.(*ast.Ident).Name+".", d.Name)
					}
				case *ast.GenDecl:
					if d.Tok != gotoken.VAR {
						continue
					}
					for _, spec := range d.Specs {
						for _, name := range spec.(*ast.ValueSpec).Names {
							add("", name)
						}
					}
				}
			}
		}
	}
	return names
}

var quoted = regexp.MustCompile("`([^`]+)`")

// The README's tables name every function and option once, with a status and tests that exist.
func TestTablesAreComplete(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Skip("the tests are not in fedattn's tree: ", err)
	}
	tests := exported(t, ".", true)
	listed := map[string]int{}
	inTable := false
	for _, line := range strings.Split(string(readme), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			inTable = false
			continue
		}
		if strings.TrimSpace(cells[2]) == "status" {
			inTable = true
			continue
		}
		if !inTable || strings.HasPrefix(cells[1], "---") {
			continue
		}
		if status := strings.Fields(cells[2])[0]; !regexp.MustCompile(`^(works?[:;,]?|no|error)$`).MatchString(status) {
			t.Errorf("status %q of %s", status, cells[1])
		}
		for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
			listed[name[1]]++
		}
		named := quoted.FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 {
			t.Errorf("no test of %s", cells[1])
		}
		for _, name := range named {
			if !tests[name[1]] {
				t.Errorf("%s: there is no %s", cells[1], name[1])
			}
		}
	}
	api := exported(t, "..", false)
	for name := range api {
		if listed[name] != 1 {
			t.Errorf("%s is in the tables %d times", name, listed[name])
		}
	}
	for name := range listed {
		if !api[name] {
			t.Errorf("the tables name %s, which there is not", name)
		}
	}
}
