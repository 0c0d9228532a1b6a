// Command mutants plants one bug after another into the source, in memory, and runs the test that has to notice it. It
// fails if a test passes all the same, or fails without any bug: such a test guards nothing.
//
//	make test-mutants
//	go run ./cmd/mutants transport     only those in files whose names contain transport
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed mutants.txt
var list string

// mutant is one planted bug.
type mutant struct {
	file, pkg, test string
	was, is         string // a line without its indentation
}

func (m mutant) String() string { return fmt.Sprintf("%s: %s", m.file, m.is) }

// parse reads the list.
func parse(text string) (mutants []mutant, err error) {
	var m mutant
	number := 0
	for line := range strings.Lines(text) {
		number++
		if strings.HasPrefix(line, "#") {
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "file:":
			m = mutant{file: value}
		case "test:":
			m.pkg, m.test, _ = strings.Cut(value, " ")
		case "-":
			m.was = value
		case "+":
			m.is = value
			if m.file == "" || m.pkg == "" || m.test == "" || m.was == "" || m.is == "" || m.was == m.is {
				return nil, fmt.Errorf("line %d: a mutant without file, test or line", number)
			}
			mutants = append(mutants, m)
		case "":
		default:
			return nil, fmt.Errorf("line %d: %q", number, line)
		}
	}
	return mutants, nil
}

// source is the file with the bug in it.
func (m mutant) source() (string, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	lines, found := strings.Split(string(text), "\n"), 0
	for i, line := range lines {
		if strings.TrimSpace(line) == m.was {
			lines[i] = m.is
			found++
		}
	}
	if found != 1 {
		return "", fmt.Errorf("%s has %d lines %q, not one: bring the list up to date", m.file, found, m.was)
	}
	return strings.Join(lines, "\n"), nil
}

// overlay writes the bug beside the source and returns what go test needs to take it instead.
func (m mutant) overlay(dir string) (string, error) {
	text, err := m.source()
	if err != nil {
		return "", err
	}
	original, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	planted, overlay := filepath.Join(dir, "planted.go"), filepath.Join(dir, "overlay.json")
	raw, err := json.Marshal(map[string]map[string]string{"Replace": {original: planted}})
	return overlay, errors.Join(err, os.WriteFile(planted, []byte(text), 0o600), os.WriteFile(overlay, raw, 0o600))
}

// run is the outcome of a test: whether it passed, and what it said.
func run(pkg, test string, flags ...string) (passed bool, output string) {
	args := append([]string{"test", "-count", "1", "-vet", "off", "-timeout", "2m", "-run", "^(" + test + ")", "-v"}, flags...)
	out, err := exec.Command("go", append(args, pkg)...).CombinedOutput()
	return err == nil, string(out)
}

func main() {
	mutants, err := parse(list)
	if err != nil {
		fail(err)
	}
	if len(os.Args) > 1 {
		var chosen []mutant
		for _, m := range mutants {
			if strings.Contains(m.file, os.Args[1]) {
				chosen = append(chosen, m)
			}
		}
		mutants = chosen
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		fail(err)
	}
	defer os.RemoveAll(dir)
	survived := 0
	sound := map[string]bool{}
	for i, m := range mutants {
		verdict := m.try(dir, sound)
		if verdict != "caught" {
			survived++
		}
		fmt.Printf("%2d/%d %-9s %s %s\n      %s\n", i+1, len(mutants), verdict, m.pkg, m.test, m)
	}
	if survived > 0 {
		os.RemoveAll(dir)
		fail(fmt.Errorf("%d of %d planted bugs were not caught", survived, len(mutants)))
	}
	fmt.Printf("all %d planted bugs were caught\n", len(mutants))
}

// try plants the bug. sound holds the tests that are known to pass without any.
func (m mutant) try(dir string, sound map[string]bool) string {
	if key := m.pkg + " " + m.test; !sound[key] {
		passed, output := run(m.pkg, m.test)
		if !passed || !strings.Contains(output, "--- PASS") {
			return "INVALID: its test does not pass, or does not run, without it\n" + output
		}
		sound[key] = true
	}
	overlay, err := m.overlay(dir)
	if err != nil {
		return "INVALID: " + err.Error()
	}
	passed, output := run(m.pkg, m.test, "-overlay", overlay)
	switch {
	case passed:
		return "SURVIVED"
	case strings.Contains(output, "[build failed]") || strings.Contains(output, "[setup failed]"):
		return "INVALID: it does not compile\n" + output
	}
	return "caught"
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "mutants: %v\n", err)
	os.Exit(1)
}
