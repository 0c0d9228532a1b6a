//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node/tap"
)

// What scripts cannot do: look into JSON, and signal or cut off a process at a certain moment.

// workplace is a directory and an environment for processes.
type workplace struct {
	t   *testing.T
	dir string
}

func newWorkplace(t *testing.T) workplace {
	t.Helper()
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	return workplace{t, t.TempDir()}
}

func (w workplace) path(name string) string { return filepath.Join(w.dir, name) }

func (w workplace) write(name string, content []byte) string {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), content, 0o666); err != nil {
		w.t.Fatal(err)
	}
	return w.path(name)
}

func (w workplace) command(args ...string) *exec.Cmd {
	c := exec.Command("fedattn", args...)
	c.Dir, c.Env = w.dir, isolated(w.dir)
	return c
}

// output runs a command that has to succeed.
func (w workplace) output(args ...string) []byte {
	w.t.Helper()
	c := w.command(args...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		w.t.Fatalf("fedattn %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// node starts one that anybody on this machine may ask, and returns its address.
func (w workplace) node(name, model, text string, flags ...string) (p *process, address string) {
	w.t.Helper()
	p, address, err := start(w.dir, isolated(w.dir), w.path(name+".log"), append([]string{"node", "--model", model, "--threads", "1",
		"--doc", w.write(name+".txt", []byte(text)), "--name", name, "--config", name, "--listen", "127.0.0.1:0"}, flags...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.kill)
	return p, address
}

func keys(t *testing.T, object json.RawMessage) []string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(object, &m); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	return slices.Sorted(maps.Keys(m))
}

func TestAskJSON(t *testing.T) {
	w := newWorkplace(t)
	tiny := w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext))
	_, garden := w.node("garden", tiny, "The pump was repaired on 3 June.")
	_, shed := w.node("shed", tiny, "The key hangs behind the door.")
	elsewhere := nobody + "@" + garden[strings.Index(garden, "@")+1:]
	own := w.write("own.txt", []byte("I am at home <until> noon & later."))

	var stderr bytes.Buffer
	c := w.command("ask", "--model", tiny, "--predict", "5", "--json", "--name", "asker", "--doc", own,
		"--peer", garden, "--peer", elsewhere, "--peer", shed, "Where is the key?")
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	if bytes.Count(out, []byte("\n")) != 1 {
		t.Errorf("it is not one line: %s", out)
	}
	if !regexp.MustCompile(`^missing: another device answers at .*\n$`).Match(stderr.Bytes()) {
		t.Errorf("stderr is %q", &stderr)
	}
	var parts struct {
		Federation json.RawMessage
	}
	var a answer
	if err := errors.Join(json.Unmarshal(out, &parts), json.Unmarshal(out, &a)); err != nil {
		t.Fatal(err)
	}
	if got, want := keys(t, out), []string{"answer", "federation", "stop"}; !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
	want := strings.Fields("bytes decode_ms decoded peers prefill_ms regime session setup_ms sources sync_ms tokens ttft_ms wait_ms wire")
	if got := keys(t, parts.Federation); !slices.Equal(got, want) {
		t.Errorf("keys of federation %v, want %v", got, want)
	}
	f := a.Federation
	if a.Answer == "" || a.Stop != "length" || f.Regime != "gather" || f.Wire != "q8_0/q4_0" || f.Decoded != 5 || len(f.Session) != 32 {
		t.Errorf("wrong values in %s", out)
	}
	if len(f.Peers) != 4 {
		t.Fatalf("%d peers, want three and this device", len(f.Peers))
	}
	for i, name := range []string{"garden", "", "shed", "asker"} {
		p := f.Peers[i]
		if i == 1 {
			if m := p.Missing; p.ID != nobody || p.Tokens != 0 || m == nil || m.Code != "forbidden" || m.Phase != "connect" ||
				m.Layer != nil || m.Text == "" {
				t.Errorf("the missing peer is %+v", p)
			}
			continue
		}
		if p.Name != name || p.Local != (i == 3) || (p.ID == "") != p.Local || p.Missing != nil ||
			p.Tokens == 0 || p.Rows != tinyLayers*p.Tokens || p.Bytes == 0 {
			t.Errorf("peer %d is %+v", i, p)
		}
	}
	if f.Bytes != f.Peers[0].Bytes+f.Peers[2].Bytes {
		t.Errorf("%d bytes, want those of the two peers without this device's own", f.Bytes)
	}

	shares := 0.0
	for _, s := range f.Sources {
		shares += s.Share
		if s.Local != (s.Name == "asker") || (s.ID == "") != s.Local || s.Share < 0 {
			t.Errorf("source %+v", s)
		}
	}
	if len(f.Sources) != 3 || shares < 0.999 || shares > 1.001 {
		t.Errorf("sources %+v, with shares of %g together", f.Sources, shares)
	}

	// a failure prints no object
	c = w.command("ask", "--model", tiny, "--json", "--peer", elsewhere, "q")
	out, err = c.Output()
	if c.ProcessState.ExitCode() != exitFailure || len(out) > 0 {
		t.Errorf("without any peer: %v, %q", err, out)
	}
}

// sameButFor are the lines of JSON with a key set to nothing.
func sameButFor(t *testing.T, lines []byte, key string) []string {
	t.Helper()
	var out []string
	value := regexp.MustCompile(`"` + key + `":[^,}]*`)
	for line := range strings.Lines(string(lines)) {
		if !value.MatchString(line) {
			t.Errorf("no %q in %s", key, line)
		}
		out = append(out, value.ReplaceAllString(line, ""))
	}
	return out
}

// TestVerify is the project's oracle through its command: lockstep at every layer with rows as they are is one process,
// bit for bit, and what QUIC carries is what memory does.
func TestVerify(t *testing.T) {
	if testing.Short() {
		t.Skip("evaluates the real model")
	}
	w := newWorkplace(t)
	text, err := filepath.Abs(filepath.Join("testdata", "verify.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, participants := range []int{2, 4} {
		out := w.output("verify", "--model", modelPath(t), "--threads", "1", "--text", text, "--tokens", "72", "--prefix-tokens", "8",
			"--publisher-tokens", "16", "--participants", fmt.Sprint(participants), "--json")
		type line struct {
			Name         string
			Participants int
			Diff         *float64 `json:"max_abs_logit_diff"`
			KL           *float64 `json:"kld_mean"`
			SameTop      *float64 `json:"same_top"`
			PPL          *float64
			Base         *float64 `json:"ppl_base"`
			Bytes        *int64   `json:"kv_bytes"`
		}
		checks := map[string]line{}
		for text := range bytes.Lines(out) {
			var l line
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatal(err)
			}
			if l.Participants != participants || l.Diff == nil || l.KL == nil || l.SameTop == nil || l.PPL == nil ||
				l.Base == nil || l.Bytes == nil {
				t.Fatalf("keys are missing in %s", text)
			}
			checks[l.Name] = l
		}
		want := []string{"default", "default-over-network", "gather-h1-f16", "lockstep-h1-f16"}
		if got := slices.Sorted(maps.Keys(checks)); !slices.Equal(got, want) {
			t.Fatalf("checks %v, want %v", got, want)
		}
		for _, name := range []string{"lockstep-h1-f16", "default-over-network"} {
			if l := checks[name]; *l.Diff != 0 || *l.KL != 0 || *l.SameTop != 1 || *l.PPL != *l.Base {
				t.Errorf("%d participants, %s: %s", participants, name, out)
			}
		}
		f16, standard := checks["gather-h1-f16"], checks["default"]
		if *standard.Diff == 0 || *standard.KL <= 0 || *standard.KL > 1 || *standard.SameTop < 0.5 {
			t.Errorf("%d participants: the default costs nothing, or too much: %s", participants, out)
		}
		// q8_0 and q4_0 take 8.5 and 4.5 bits an element, f16 16
		if *standard.Bytes*32 != *f16.Bytes*13 {
			t.Errorf("%d participants: the default takes %d bytes, f16 %d", participants, *standard.Bytes, *f16.Bytes)
		}
	}
}

func TestEvalRepeats(t *testing.T) {
	w := newWorkplace(t)
	text, err := os.ReadFile(filepath.Join("testdata", "verify.txt"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"eval", "--model", w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext)), "--threads", "1", "--text", w.write("text", text),
		"--tokens", "300", "--prefix-tokens", "20", "--publisher-tokens", "40", "--participants", "2,3", "--schedule", "gather", "--schedule", "0,2",
		"--wire", "f16", "--wire", "q8_0/q4_0", "--format", "jsonl"}
	first := w.output(args...)
	if n := bytes.Count(first, []byte("\n")); n != 1+2+2*2*2 {
		t.Fatalf("%d lines, want one process's, two of publishers alone, and one for each combination: %s", n, first)
	}
	second := w.output(args...)
	if !slices.Equal(sameButFor(t, first, "seconds"), sameButFor(t, second, "seconds")) {
		t.Errorf("two runs differ:\n%s\n%s", first, second)
	}

	w.write("problems", []byte(`{"question": "How many legs have two dogs?", "answer": "2*4 = <<2*4=8>>8\n#### 8"}`))
	w.write("shots", []byte("Question: Two and two?\nLet's think step by step\n4. The answer is 4\n\nQuestion: One and two?\n3"))
	for _, source := range [][]string{
		{"--gsm8k", "problems", "--shots", "shots", "--predict", "6", "--rows", "random=0.5"},
		{"--task", "needle", "--problems", "2", "--rows", "layer-random=0.5"},
	} {
		args := append([]string{"eval", "--model", "tiny.gguf", "--threads", "1", "--participants", "3", "--format", "csv"}, source...)
		first, second := w.output(args...), w.output(args...)
		if seconds := regexp.MustCompile(`(?m),[^,]*$`); !bytes.Equal(seconds.ReplaceAll(first, nil), seconds.ReplaceAll(second, nil)) {
			t.Errorf("two runs differ:\n%s\n%s", first, second)
		}
	}

	if !testing.Short() {
		args := []string{"eval", "--model", modelPath(t), "--threads", "1", "--text", "text", "--tokens", "96", "--prefix-tokens", "8",
			"--publisher-tokens", "16", "--windows", "2", "-n", "2", "--format", "jsonl"}
		first, second := w.output(args...), w.output(args...)
		if !slices.Equal(sameButFor(t, first, "seconds"), sameButFor(t, second, "seconds")) {
			t.Errorf("two runs of the real model differ:\n%s\n%s", first, second)
		}
	}

	// the lines are cases, and what they measured is a reference
	cases := w.write("cases.jsonl", first)
	table := w.output(append(args[:len(args)-2:len(args)-2], "--cases", cases, "--tolerance", "0")...)
	if n := bytes.Count(table, []byte("+0.0 %")); n < 2*2*2 {
		t.Errorf("the table is\n%s", table)
	}
	w.write("cases.jsonl", regexp.MustCompile(`"kld_mean":`).ReplaceAll(first, []byte(`"kld_mean":1`)))
	var stderr bytes.Buffer
	c := w.command(append(args, "--cases", cases)...)
	c.Stderr = &stderr
	out, _ := c.Output()
	if c.ProcessState.ExitCode() != exitFailure || !slices.Equal(sameButFor(t, out, "seconds"), sameButFor(t, first, "seconds")) {
		t.Errorf("with wrong references: %v\n%s", c.ProcessState, out)
	}
	if got := stderr.String(); strings.Count(got, "off: ") != 8 || !strings.HasSuffix(got, "\nfedattn: 8 of 8 cases are off their reference by more than 10 %\n") {
		t.Errorf("stderr is %q", got)
	}
}

// background starts a command and returns its stdout, and what it leaves behind when it ends.
type background struct {
	*exec.Cmd
	stdout io.ReadCloser
	stderr bytes.Buffer
	ended  chan struct{}
}

func (w workplace) background(args ...string) *background {
	w.t.Helper()
	b := &background{Cmd: w.command(args...), ended: make(chan struct{})}
	b.Cmd.Stderr = &b.stderr
	// a pipe of our own: that of exec is closed when the process ends, read or not
	r, wr, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	b.stdout, b.Cmd.Stdout = r, wr
	if err := b.Start(); err != nil {
		w.t.Fatal(err)
	}
	wr.Close()
	go func() {
		_ = b.Wait()
		close(b.ended)
	}()
	w.t.Cleanup(func() {
		_ = b.Process.Kill()
		<-b.ended
		r.Close()
	})
	return b
}

// exit waits for the end and returns the exit code; -1 is a signal's.
func (b *background) exit(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(limit):
		t.Fatalf("it still runs after %v", limit)
	}
	return b.ProcessState.ExitCode()
}

func (b *background) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := b.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func firstByte(t *testing.T, r io.Reader) {
	t.Helper()
	var one [1]byte
	if _, err := io.ReadFull(r, one[:]); err != nil {
		t.Fatal(err)
	}
}

// endless are the flags of an answer that takes long: the tiny model never ends its turn.
func (w workplace) endless() []string {
	tiny := w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, hugeContext))
	return []string{"ask", "--model", tiny, "--threads", "1",
		"--context", fmt.Sprint(hugeContext), "--predict", fmt.Sprint(hugeContext - 100)}
}

func TestInterruptAnswer(t *testing.T) {
	w := newWorkplace(t)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		b := w.background(append(w.endless(), "q")...)
		firstByte(t, b.stdout)
		b.signal(t, signal)
		rest, _ := io.ReadAll(b.stdout)
		if code := b.exit(t, stopLimit); code != exitInterrupted {
			t.Fatalf("%v: exit code %d", signal, code)
		}
		if got := b.stderr.String(); got != "fedattn: interrupted\n" {
			t.Errorf("%v: stderr is %q", signal, got)
		}
		// what comes next on a terminal begins a line
		if !bytes.HasSuffix(rest, []byte("\n")) {
			t.Errorf("%v: the answer breaks off without an end of line", signal)
		}
	}
}

func TestInterruptJSON(t *testing.T) {
	w := newWorkplace(t)
	silent, from := silentPeer(t)
	b := w.background(append(w.endless(), "--json", "--peer", silent, "q")...)
	from()
	b.signal(t, os.Interrupt)
	out, _ := io.ReadAll(b.stdout)
	if code := b.exit(t, stopLimit); code != exitInterrupted || len(out) > 0 {
		t.Errorf("exit code %d, stdout %q", code, out)
	}
}

// silentPeer is an address that takes packets and answers none. The function waits for the first one.
func silentPeer(t *testing.T) (address string, dialled func()) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return fmt.Sprintf("%s@%v", nobody, socket.LocalAddr()), func() {
		t.Helper()
		_ = socket.SetReadDeadline(time.Now().Add(firstOutput))
		if _, _, err := socket.ReadFrom(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInterruptConnecting(t *testing.T) {
	w := newWorkplace(t)
	silent, dialled := silentPeer(t)
	b := w.background(append(w.endless(), "--peer", silent, "q")...)
	dialled()
	b.signal(t, os.Interrupt)
	if code := b.exit(t, stopLimit); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if got := b.stderr.String(); got != "fedattn: interrupted\n" {
		t.Errorf("stderr is %q", got)
	}
}

// stuck starts a command that waits for its model for ever and listens to nobody.
func (w workplace) stuck() *background {
	w.t.Helper()
	if err := syscall.Mkfifo(w.path("fifo.gguf"), 0o600); err != nil {
		w.t.Skip(err)
	}
	b := w.background("ask", "--model", "fifo.gguf", "q")
	var end *os.File
	waitFor(w.t, func() (open bool) {
		var err error
		end, err = os.OpenFile(w.path("fifo.gguf"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err == nil
	})
	w.t.Cleanup(func() { end.Close() })
	return b
}

func TestInterruptStuck(t *testing.T) {
	w := newWorkplace(t)
	b := w.stuck()
	b.signal(t, os.Interrupt)
	if code := b.exit(t, grace+stopLimit); code != exitInterrupted || b.stderr.String() != "fedattn: interrupted\n" {
		t.Errorf("exit code %d, stderr %q", code, &b.stderr)
	}
}

func TestInterruptTwice(t *testing.T) {
	w := newWorkplace(t)
	b := w.stuck()
	// the second is for impatience: it comes when the first has been heard
	for range 50 {
		select {
		case <-b.ended:
		default:
			b.signal(t, os.Interrupt)
			time.Sleep(20 * time.Millisecond)
		}
	}
	b.exit(t, stopLimit)
	if status := b.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v", b.ProcessState)
	}
}

// TestReaderLeaves is `fedattn ask … | head -c 1`.
func TestReaderLeaves(t *testing.T) {
	w := newWorkplace(t)
	b := w.background(append(w.endless(), "q")...)
	firstByte(t, b.stdout)
	b.stdout.Close()
	if code := b.exit(t, stopLimit); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if got := b.stderr.String(); got != "" {
		t.Errorf("stderr is %q", got)
	}
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	w := workplace{t, t.TempDir()}
	for _, args := range [][]string{{"id"}, {"--help"}} {
		var stderr bytes.Buffer
		c := w.command(args...)
		c.Stdout, c.Stderr = full, &stderr
		_ = c.Run()
		want := "fedattn: cannot write the output: write /dev/stdout: no space left on device\n"
		if c.ProcessState.ExitCode() != exitFailure || stderr.String() != want {
			t.Errorf("%v: %v, %q", args, c.ProcessState, &stderr)
		}
	}
}

// TestLostWithinSession stops or kills a node while it evaluates. It took part, so the question is answered: without it,
// and the user is told.
func TestLostWithinSession(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a model that is slow")
	}
	for _, c := range []struct {
		signal   syscall.Signal
		code     int
		why, how string
	}{
		{syscall.SIGTERM, exitOK, `.*stopped`, "stopped"},
		{syscall.SIGKILL, -1, `peer [A-Z2-7]{7} has given no sign of life for 2s: .*`, `timed out after 2\.0 s`},
	} {
		t.Run(c.signal.String(), func(t *testing.T) {
			w := newWorkplace(t)
			model := modelPath(t)
			text := strings.Repeat("The spare key of the workshop hangs behind the blue paint bucket. ", 100)
			p, address := w.node("slow", model, text, "--drain", "0s")
			b := w.background("ask", "--model", model, "--threads", "1", "--predict", "2", "--record", "wire", "--peer", address, "Where is it?")
			waitFor(t, func() bool { return recorded(w.path("wire"), tap.Sent, fedkv.Commit{}) })

			if code, err := p.end(c.signal, stopLimit); err != nil || code != c.code {
				t.Errorf("the node: exit code %d, %v", code, err)
			}
			if code := b.exit(t, 10*time.Second); code != exitOK {
				t.Errorf("the asker: exit code %d", code)
			}
			told := regexp.MustCompile(`^missing: slow, lost [a-z ]+ of layer \d+ [a-z ]+: ` + c.why +
				`\n0/1 peers, missing: slow \(` + c.how + ` in layer \d+\)\n\[ prefill .* \| peers 0/1 \| .*\]\n$`)
			if got := b.stderr.String(); !told.MatchString(got) {
				t.Errorf("the asker says %q", got)
			}
			log, err := os.ReadFile(w.path("slow.log"))
			if err != nil || bytes.Contains(log, []byte("session over")) != (c.signal == syscall.SIGTERM) || bytes.Contains(log, []byte("bucket")) {
				t.Errorf("the node's log is %q, %v", log, err)
			}
		})
	}
}

func waitFor(t *testing.T, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(firstOutput); !ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that")
		}
	}
}

// recorded says whether a message like m is in a record that may still be written.
func recorded(path string, direction byte, m fedkv.Message) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	found := false
	_ = tap.Read(file, func(e tap.Entry) error {
		if e.Direction != direction || e.Kind != tap.Control {
			return nil
		}
		typ, _, err := fedkv.ParseFrameHeader(e.Bytes[:fedkv.FrameHeaderSize])
		if err != nil {
			return err
		}
		got, err := fedkv.ParseMessage(typ, e.Bytes[fedkv.FrameHeaderSize:])
		found = found || err == nil && fmt.Sprintf("%T", got) == fmt.Sprintf("%T", m)
		return nil
	})
	return found
}

// In lockstep the asker's own documents attend to the peers' rows as a contributor's do that is a device of its own.
func TestOwnDocumentsInLockstep(t *testing.T) {
	w := newWorkplace(t)
	tiny := w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext))
	_, garden := w.node("garden", tiny, "The pump was repaired on 3 June.")
	_, desk := w.node("desk", tiny, "The key hangs behind the door.")
	ask := func(schedule string, more ...string) string {
		out := w.output(append([]string{"ask", "--model", tiny, "--threads", "1", "--name", "desk", "--config", "asker", "--json", "--predict", "48",
			"--temp", "3", "--seed", "7", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--wire", "f16", "--schedule", schedule,
			"--positions", "inplace", "--peer", garden}, append(more, "Where is the key?")...)...)
		var a answer
		if err := json.Unmarshal(out, &a); err != nil {
			t.Fatal(err)
		}
		if len(a.Federation.Notes) > 0 {
			t.Errorf("notes %q", a.Federation.Notes)
		}
		return a.Answer
	}
	own, device := ask("lockstep", "--doc", w.path("desk.txt")), ask("lockstep", "--peer", desk)
	if own != device || own == "" {
		t.Errorf("own documents say %q, those of a device %q", own, device)
	}
	if own == ask("gather", "--peer", desk) {
		t.Error("the answer does not depend on rows between contributors: nothing was tested")
	}
}

// In a chat each document is a contributor of its own: in lockstep rows reach it, and go on to the next one, through the
// asker, and all is as if devices held them.
func TestChatOverOwnDocumentsInLockstep(t *testing.T) {
	w := newWorkplace(t)
	tiny := w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext))
	_, garden := w.node("garden", tiny, "The pump was repaired on 3 June.")
	_, desk := w.node("desk", tiny, "The key hangs behind the door.")
	_, drawer := w.node("drawer", tiny, "The saw is lent to Ana.", "--name", "desk")
	chat := func(schedule string, more ...string) string {
		t.Helper()
		c := w.command(append([]string{"chat", "--model", tiny, "--threads", "1", "--name", "desk", "--config", "asker", "--json", "--predict", "48",
			"--temp", "3", "--seed", "7", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--wire", "f16", "--schedule", schedule,
			"--positions", "inplace", "--peer", garden}, more...)...)
		var stderr bytes.Buffer
		c.Stdin, c.Stderr = strings.NewReader("Where is the key?"), &stderr
		out, err := c.Output()
		var a answer
		if err := errors.Join(err, json.Unmarshal(out, &a)); err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		}
		if len(a.Federation.Peers) != 3 || len(a.Federation.Notes) > 0 {
			t.Errorf("peers %+v, notes %q", a.Federation.Peers, a.Federation.Notes)
		}
		return a.Answer
	}
	own := chat("lockstep", "--doc", w.path("desk.txt"), "--doc", w.path("drawer.txt"))
	if devices := chat("lockstep", "--peer", desk, "--peer", drawer); own != devices || own == "" {
		t.Errorf("own documents say %q, those of devices %q", own, devices)
	}
	if own == chat("gather", "--peer", desk, "--peer", drawer) {
		t.Error("the answer does not depend on rows between contributors: nothing was tested")
	}
}
