//go:build unix

package main

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// drained is a node with a question under way: its rows are sent, and the answer never ends.
func drained(t *testing.T, drain string) (w workplace, node *process, address string, asker *background) {
	t.Helper()
	w = newWorkplace(t)
	args := w.endless()
	node, address = w.node("garden", w.path("tiny.gguf"), "The pump was repaired on 3 June.", "--drain", drain)
	asker = w.background(append(args, "--peer", address, "q")...)
	firstByte(t, asker.stdout)
	return w, node, address, asker
}

func (w workplace) logOf(name string) string {
	text, err := os.ReadFile(w.path(name + ".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// A node that is told to stop takes no new question, waits for those under way, and ends when they have.
func TestStoppedNodeFinishesItsQuestions(t *testing.T) {
	w, node, address, asker := drained(t, "1m")
	if err := node.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(w.logOf("garden"), "told to stop") })
	c := w.command("ask", "--model", "tiny.gguf", "--threads", "1", "--predict", "4", "--config", "late", "--peer", address, "q")
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Run(); err == nil || !strings.Contains(said.String(), "this device is shutting down: ask again when it is back\n") {
		t.Errorf("a new question: %v, %s", err, &said)
	}
	select {
	case <-node.ended:
		t.Fatalf("the node did not wait: %s", w.logOf("garden"))
	default:
	}
	asker.signal(t, os.Interrupt)
	asker.exit(t, stopLimit)
	select {
	case <-node.ended:
	case <-time.After(stopLimit):
		t.Fatalf("the node still runs: %s", w.logOf("garden"))
	}
	if code := node.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// It does not wait for ever, and whoever got all its rows goes on without it.
func TestStoppedNodeAbortsWhatDoesNotEnd(t *testing.T) {
	w, node, _, asker := drained(t, "100ms")
	if code, err := node.end(syscall.SIGTERM, stopLimit); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
	if log := w.logOf("garden"); !strings.Contains(log, "sessions are aborted") || !strings.Contains(log, "session over") {
		t.Errorf("its log: %s", log)
	}
	firstByte(t, asker.stdout)
	select {
	case <-asker.ended:
		t.Errorf("the asker ended: %s", &asker.stderr)
	default:
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	w, node, _, _ := drained(t, "1m")
	if err := node.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(w.logOf("garden"), "told to stop") })
	if code, err := node.end(syscall.SIGTERM, stopLimit); err != nil || code != -1 {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// Whatever supervises a node gives it the time that it takes by itself.
func TestSupervisorsWaitForTheDrain(t *testing.T) {
	flag := drainFlag("", "").(*cli.DurationFlag)
	const goodbye = 2 * time.Second
	for file, setting := range map[string]string{
		"systemd/fedattn.service": `\nTimeoutStopSec=(\d+)\n`,
		"compose.yaml":            `\n  stop_grace_period: (\d+)s\n`,
		"k3s/fedattn.yaml":        `\n      terminationGracePeriodSeconds: (\d+)\n`,
	} {
		text, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(setting).FindSubmatch(text)
		if found == nil {
			t.Errorf("%s says nothing of %s", file, setting)
			continue
		}
		if n, _ := strconv.Atoi(string(found[1])); time.Duration(n)*time.Second < flag.Value+goodbye {
			t.Errorf("%s: %d s, a node takes up to %v", file, n, flag.Value+goodbye)
		}
	}
}
