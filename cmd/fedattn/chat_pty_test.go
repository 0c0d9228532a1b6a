//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// talker is somebody at a terminal in which fedattn chat runs.
type talker struct {
	t      *testing.T
	dir    string
	file   *os.File
	ended  chan struct{}
	cmd    *exec.Cmd
	mu     sync.Mutex
	screen bytes.Buffer
	seen   int // what was expected before
}

// shown is how long something may take to appear, on a busy machine.
const shown = 30 * time.Second

// sit starts fedattn chat with a tiny model in a terminal of 80 columns.
func sit(t *testing.T, env []string, flags ...string) *talker {
	t.Helper()
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "m.gguf"), tinyTransformer(tinyTemplate, 1, hugeContext), 0o600); err != nil {
		t.Fatal(err)
	}
	return sitIn(t, dir, env, append([]string{"-m", "m.gguf", "-t", "1", "--context", "30000"}, flags...)...)
}

// sitIn starts fedattn chat with these flags in a folder.
func sitIn(t *testing.T, dir string, env []string, flags ...string) *talker {
	t.Helper()
	p := &talker{t: t, dir: dir, ended: make(chan struct{})}
	p.cmd = exec.Command("fedattn", append([]string{"chat"}, flags...)...)
	p.cmd.Dir, p.cmd.Env = p.dir, append(isolated(p.dir), append([]string{"TERM=xterm"}, env...)...)
	var err error
	if p.file, err = pty.StartWithSize(p.cmd, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := p.file.Read(buf)
			p.mu.Lock()
			p.screen.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(p.ended)
		<-read
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		_ = p.file.Close()
	})
	p.sees(`> `)
	return p
}

func (p *talker) types(text string) {
	p.t.Helper()
	if _, err := p.file.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

// all is everything that was on the screen.
func (p *talker) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.screen.String()
}

// sees waits for a pattern after what was seen last, and returns it.
func (p *talker) sees(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(shown); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		rest := p.screen.Bytes()[p.seen:]
		if at := re.FindIndex(rest); at != nil {
			found := string(rest[at[0]:at[1]])
			p.seen += at[1]
			p.mu.Unlock()
			return found
		}
		p.mu.Unlock()
	}
	p.t.Fatalf("%q did not appear; the screen:\n%q", pattern, p.all()[p.seen:])
	return ""
}

// leaves waits for the end of the program.
func (p *talker) leaves(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(shown):
		p.t.Fatalf("it still runs; the screen:\n%q", p.all())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d, want %d; the screen:\n%q", got, code, p.all())
	}
}

const (
	footerPattern = `\[ prefill \d+ tok [0-9.]+ t/s \| decode \d+ tok [0-9.]+ t/s \| TTFT [0-9.]+ s \| peers 0/0 \| recv 0 B \| sync \d+ % \]`
	endless       = "1000000"
	// answering: the line was taken, paste mode is off, and something of the answer is there
	answering = `one\r\n\x1b\[\?2004l(?s:.{20})`
)

func TestChatAPasteOfFiftyLinesIsOneQuestion(t *testing.T) {
	p := sit(t, nil, "-n", "1")
	var paste strings.Builder
	for i := range 50 {
		fmt.Fprintf(&paste, "line %d\r", i)
	}
	p.types("\x1b[200~" + paste.String() + "\x1b[201~")
	p.sees(`line 49`)
	p.types("\r")
	tokens := p.sees(`\[ prefill \d+ tok`)
	// about a token for each byte, and far more than any single line has
	var n int
	if _, err := fmt.Sscanf(tokens, "[ prefill %d tok", &n); err != nil || n < paste.Len() {
		t.Errorf("%s for %d bytes", tokens, paste.Len())
	}
	p.types("\x04")
	p.leaves(exitOK)
	if got := strings.Count(p.all(), "[ prefill "); got != 1 {
		t.Errorf("%d answers to one paste", got)
	}
	info, err := os.Stat(filepath.Join(p.dir, ".config", "fedattn", "chat-history"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("history: %v, %v", info, err)
	}
}

func TestChatCtrlCStopsTheAnswerAndThenQuits(t *testing.T) {
	p := sit(t, nil, "-n", endless)
	p.types("one\r")
	p.sees(answering)
	p.types("\x03")
	p.sees(`stopped\r\n`)
	p.sees(`> `)
	p.types("half a line\x03") // typed text is dropped with the program: the line was not empty, but nothing was said
	p.leaves(exitInterrupted)
}

func TestChatCtrlCInPrefillLeavesNothing(t *testing.T) {
	p := sit(t, nil, "-n", "1")
	if err := os.WriteFile(filepath.Join(p.dir, "long.txt"), bytes.Repeat([]byte("a long text "), 2000), 0o600); err != nil {
		t.Fatal(err)
	}
	p.types("/read long.txt\r")
	p.sees(`long\.txt has 2\d+ tokens; the next answer attends to it`)
	p.types("one\r")
	p.sees(`one\r\n\x1b\[\?2004l`)
	p.types("\x03")
	p.sees(`stopped\r\n`)
	p.sees(`> `)
	p.types("/drop long.txt\r")
	p.sees(`long\.txt is out`)
	p.types("/regen\r")
	p.sees(`nothing was said yet`) // the turn was never there
	p.types("two\r")
	p.sees(footerPattern)
	p.types("\x04")
	p.leaves(exitOK)
}

// Whoever keeps pressing Ctrl-C gets out, wherever the presses fall: into the answer, or onto the line after it.
func TestChatCtrlCAgainAndAgainEndsTheProgram(t *testing.T) {
	p := sit(t, nil, "-n", endless)
	p.types("one\r")
	p.sees(answering)
	for {
		select {
		case <-p.ended:
			p.leaves(exitInterrupted)
			return
		case <-time.After(50 * time.Millisecond):
			_, _ = p.file.WriteString("\x03") // the terminal may be gone
		}
	}
}

func TestChatFollowsTheTerminalsSize(t *testing.T) {
	p := sit(t, nil, "-n", "1")
	if err := pty.Setsize(p.file, &pty.Winsize{Rows: 24, Cols: 20}); err != nil {
		t.Fatal(err)
	}
	p.types("123456789012345678901234567890")
	// the editor breaks the line where the narrow terminal does: 18 columns behind the prompt, or, if the signal came
	// late, when the line is drawn again
	p.sees(`7890`)
	p.types("\x15/help\r")
	p.sees(`/bye `)
	p.types("\x04")
	p.leaves(exitOK)
}

func TestChatCommandsAtATerminal(t *testing.T) {
	p := sit(t, nil, "-n", "4", "--name", "here")
	if err := os.WriteFile(filepath.Join(p.dir, "note.txt"), []byte("The key hangs there."), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ types, sees string }{
		{"/peers\r", `nobody else takes part`},
		{"/read note.txt\r", `note\.txt has \d+ tokens`},
		{"/read none\r", `no such text: none`},
		{"/docs\r", `note\.txt: \d+ tokens`},
		{"one\r", footerPattern},
		{"/trace\r", `layer +waited ms +placed ms +peer +rows +bytes +last block ms\s+\d+ +\d+\.\d +\d+\.\d +note\.txt +\d+ +\d+ +-?\d+`},
		{"two\r", footerPattern},
		{"/peers\r", `note\.txt +\d+ +\d+ +\d+ .*present, this device`},
		{"/trace\r", `prefill +\d+ +\d+ own tokens; \d+ were in the cache`},
		{"/stats\r", footerPattern},
		{"/regen\r", footerPattern},
		{"/set temp 0.7\r", `> `},
		{"/set temp\r", `0\.7\r\n`},
		{"/set temp hot\r", `temp "hot": must be a number between 0 and 100`},
		{"/set top-k 1.5\r", `must be a whole number`},
		{"/set system You are brief.\r", `> `},
		{"/show\r", `system +"You are brief\."`},
		{"/save talk.json\r", `2 turns are in talk\.json`},
		{"/clear\r", `> `},
		{"/load talk.json\r", `2 turns are taken up`},
		{"three\r", footerPattern},
		{"/sav\t\x15/nothing\r", `there is no command /nothing`},
	} {
		p.types(c.types)
		p.sees(c.sees)
	}
	p.types("/bye\r")
	p.leaves(exitOK)
}

func TestChatHasNoColoursWithNoColor(t *testing.T) {
	p := sit(t, []string{"NO_COLOR=1"}, "-n", "4")
	p.types("one\r")
	p.sees(footerPattern)
	p.types("\x04")
	p.leaves(exitOK)
	if found := regexp.MustCompile(`\x1b\[[0-9;]*m`).FindString(p.all()); found != "" {
		t.Errorf("a colour: %q", found)
	}
}

func TestChatWithoutATerminal(t *testing.T) {
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "m.gguf"), tinyTransformer(tinyTemplate, 1, tinyContext), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, extra := range [][]string{nil, {"--json"}} {
		cmd := exec.Command("fedattn", append([]string{"chat", "-m", "m.gguf", "-t", "1", "-n", "4"}, extra...)...)
		cmd.Dir, cmd.Env, cmd.Stdin = dir, isolated(dir), strings.NewReader("one\ntwo\n")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		}
		if strings.Contains(stdout.String()+stderr.String(), "\x1b") || stdout.Len() == 0 {
			t.Errorf("%q, %q", &stdout, &stderr)
		}
		if json := len(extra) > 0; strings.HasPrefix(stdout.String(), `{"answer":`) != json || regexp.MustCompile(footerPattern).MatchString(stderr.String()) == json {
			t.Errorf("%q, %q", &stdout, &stderr)
		}
	}
}
