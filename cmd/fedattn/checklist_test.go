package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Everything that docs/ux-checklist.md names as showing something is there: tests, scripts, targets and files. It has all
// rows.
func TestChecklist(t *testing.T) {
	const root = "../.."
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "third_party" || path != root && strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(b), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	list, makefile := read("docs/ux-checklist.md"), read("Makefile")
	row := 0
	for line := range strings.Lines(list) {
		if !strings.HasPrefix(line, fmt.Sprintf("| %d |", row+1)) {
			continue
		}
		row++
		if shown := strings.Split(line, " | ")[2]; !regexp.MustCompile("`(Test|script/|make |Dockerfile)|]\\(").MatchString(shown) {
			t.Errorf("nothing shows row %d", row)
		}
	}
	if row != 27 {
		t.Errorf("the rows end with %d", row)
	}
	exists := func(name string) {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
	for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(list, -1) {
		if !tests[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`script/([a-z_]+\\.txt)`").FindAllStringSubmatch(list, -1) {
		exists("cmd/fedattn/testdata/script/" + m[1])
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(list, -1) {
		exists("docs/" + m[1])
	}
	for _, m := range regexp.MustCompile("`make ([a-z-]+)`").FindAllStringSubmatch(list, -1) {
		if !strings.Contains(makefile, "\n"+m[1]+": ") {
			t.Errorf("there is no make %s", m[1])
		}
	}
}
