package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// What documents the program is made of the program; make docs rewrites it.
func TestReferenceIsCurrent(t *testing.T) {
	for path, write := range map[string]func(io.Writer) error{
		"docs/man/fedattn.1": writeManual,
		"docs/errors.md":     writeErrors,
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			path = filepath.Join("..", "..", path)
			var want bytes.Buffer
			if err := write(&want); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			is, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(is, want.Bytes()) {
				t.Errorf("%s is not what the program says (%v): make docs rewrites it", path, err)
			}
		})
	}
}

func writeManual(w io.Writer) error {
	app := newApp(nil, nil, io.Discard, io.Discard)
	app.Version = ""
	app.Setup()
	man, err := app.ToManWithSection(1)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, strings.TrimRight(man, "\n")+"\n")
	return err
}

// writeErrors lists the errors of the wire, and every sentence with which a command ends.
func writeErrors(w io.Writer) error {
	fmt.Fprint(w, `# Errors

Every failure is one line on stderr, `+"`fedattn: …`"+`, which says what happened, why, and what to do next. Exit codes: 1 for a
failure, 2 for a mistake in the command line, 130 for an interrupt.

## Between devices

A device that refuses or ends a session says why by a number, which has a sentence in every version that knows it, and
mostly adds one of its own, which is shown instead. The asker prints it with the device's name.

| number | name | sentence |
|---|---|---|
`)
	for code := fedkv.Code(1); code.Err() != nil; code++ {
		fmt.Fprintf(w, "| %d | `%v` | %s |\n", code, code, code.Text())
	}
	usage, err := sentences(".", "usagef", 0)
	if err != nil {
		return err
	}
	fmt.Fprint(w, `
## Mistakes in the command line

Percent signs with a letter stand for what was typed or found. A flag that cannot be read, and one that does not exist,
is named with the command's help.

| sentence |
|---|
`)
	for _, s := range usage {
		fmt.Fprintf(w, "| %s |\n", strings.ReplaceAll(s, "|", `\|`))
	}
	fmt.Fprint(w, `
## Refusals and failures of sessions

What devices tell each other, and themselves, where a person can do something about it:

| name | sentence |
|---|---|
`)
	byCode := map[string][]string{}
	for _, dir := range []string{"../../fedkv", "../../fedkv/node", "../../fedkv/policy", "../../transport", "../../llama", "."} {
		if err := coded(dir, byCode); err != nil {
			return err
		}
	}
	for _, code := range []fedkv.Code{
		fedkv.CodeModel, fedkv.CodeTypes, fedkv.CodePlan, fedkv.CodeTooLong, fedkv.CodeBusy, fedkv.CodeForbidden, fedkv.CodeDeadline,
		fedkv.CodeLost, fedkv.CodeMemory, fedkv.CodeHome, fedkv.CodeLimit, fedkv.CodeCanary,
	} {
		list := byCode[strings.ReplaceAll(code.String(), "-", "")]
		slices.Sort(list)
		for _, s := range slices.Compact(list) {
			fmt.Fprintf(w, "| `%v` | %s |\n", code, strings.ReplaceAll(s, "|", `\|`))
		}
	}
	return nil
}

// calls visits the calls in the sources of a folder, tests left out.
func calls(dir string, visit func(*ast.CallExpr)) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				visit(call)
			}
			return true
		})
	}
	return nil
}

// sentences are the texts that a function is called with, at argument number i.
func sentences(dir, function string, i int) (list []string, err error) {
	err = calls(dir, func(call *ast.CallExpr) {
		if name, ok := call.Fun.(*ast.Ident); ok && name.Name == function && len(call.Args) > i {
			if text := constant(call.Args[i]); text != "" {
				list = append(list, text)
			}
		}
	})
	slices.Sort(list)
	return slices.Compact(list), err
}

// coded collects the texts of errors with a code, by the code's name in lower case.
func coded(dir string, byCode map[string][]string) error {
	return calls(dir, func(call *ast.CallExpr) {
		if len(call.Args) < 2 {
			return
		}
		var code string
		switch arg := call.Args[0].(type) {
		case *ast.SelectorExpr:
			code = arg.Sel.Name
		case *ast.Ident:
			code = arg.Name
		}
		name, isCode := strings.CutPrefix(code, "Code")
		if text := constant(call.Args[1]); isCode && text != "" {
			byCode[strings.ToLower(name)] = append(byCode[strings.ToLower(name)], text)
		}
	})
}

// constant is the text of a literal, or of a sum of them; what is no text in it is left out.
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.BinaryExpr:
		return constant(e.X) + constant(e.Y)
	}
	return ""
}
