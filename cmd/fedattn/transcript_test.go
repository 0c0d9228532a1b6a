//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	transcriptFile = "../../docs/transcripts/chat.txt"
	readme         = "../../README.md"
)

var (
	controls = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|\r|\x07`)
	figures  = regexp.MustCompile(`-?\d[\d.]*( [kMG]?B\b)?`)
	gaps     = regexp.MustCompile(` +`)
)

// The transcript in the documentation was typed at a terminal: this is who types it again, with the model of the demo and
// two devices, and holds what comes to what is printed there. Figures differ from run to run, and an answer may from one
// processor to another, but not what it says. With -update the transcript is written anew.
func TestChatTranscript(t *testing.T) {
	if testing.Short() {
		t.Skip("evaluates the real model")
	}
	w := newWorkplace(t)
	model := modelPath(t)
	demo := func(name string) string {
		text, err := os.ReadFile(filepath.Join("../../demo", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	_, garden := w.node("garden-pi", model, demo("garden-pi"))
	_, workshop := w.node("workshop", model, demo("workshop"))
	w.write("party.txt", []byte(demo("laptop")))

	p := sitIn(t, w.dir, []string{"NO_COLOR=1"}, "-m", model, "-t", "1", "-n", "24", "--name", "laptop", "--peer", garden, "--peer", workshop)
	for _, says := range []struct{ types, sees string }{
		{"Where does the spare key of the workshop hang?", `blue paint bucket(?s:.*)\[ prefill .*\]`},
		{"/peers", `workshop .*\r\n`},
		{"/read party.txt", `the next answer attends to it`},
		{"When does the music of the summer party start?", `seven(?s:.*)\[ prefill .*\]`},
		{"/bye", `\n`},
	} {
		p.types(says.types + "\r")
		p.sees(says.sees)
	}
	p.leaves(exitOK)

	lines := strings.Split(strings.TrimSpace(controls.ReplaceAllString(p.all(), "")), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	got := "$ fedattn chat -m smollm2-135m --peer garden-pi --peer workshop\n" + strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(transcriptFile, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(transcriptFile)
	if err != nil {
		t.Fatal(err)
	}
	// what the program says itself, without figures
	frame := func(text string) (list []string) {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, ">") || strings.HasPrefix(line, "[") || strings.HasPrefix(line, " ") || strings.Contains(line, "/help") {
				list = append(list, gaps.ReplaceAllString(figures.ReplaceAllString(line, "0"), " "))
			}
		}
		return list
	}
	if now, before := frame(got), frame(string(kept)); !slices.Equal(now, before) {
		t.Errorf("it is\n%s\nand not what is kept:\n%s", got, kept)
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "```\n"+string(kept)+"```\n") {
		t.Errorf("README.md has another transcript than %s", transcriptFile)
	}
}
