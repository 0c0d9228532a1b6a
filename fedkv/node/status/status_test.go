package status

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// place is a directory whose name is short enough for sockets in it.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "st")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "own [x]")
}

func serve(t *testing.T, dir string, port int, report func() Report) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	wait, err := Serve(ctx, dir, port, report)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stop = func() { cancel(); wait() }
	t.Cleanup(stop)
	return stop
}

func TestANodeTellsHowItIsNow(t *testing.T) {
	dir := place(t)
	var state atomic.Value
	state.Store(Loading)
	want := Report{Name: "garden-pi", Address: "[::]:7843", Model: "a model", Tokens: 52, Since: time.Unix(1e9, 0).UTC(), Threads: 3, Heat: "82 °C"}
	stop := serve(t, dir, 7843, func() Report {
		r := want
		r.State = state.Load().(State)
		return r
	})

	got, err := Ask(t.Context(), dir, 7843)
	if want.State = Loading; err != nil || got != want {
		t.Errorf("it says %+v (%v), want %+v", got, err, want)
	}
	if err := got.Healthy(); err == nil || !strings.Contains(err.Error(), "loading") {
		t.Errorf("a node that loads is healthy: %v", err)
	}
	state.Store(Ready)
	if got, err = Ask(t.Context(), dir, 7843); err != nil || got.Healthy() != nil {
		t.Errorf("a node that is ready: %+v, %v", got, err)
	}
	state.Store(Stopping)
	if got, err = Ask(t.Context(), dir, 7843); err != nil || got.Healthy() == nil {
		t.Errorf("a node that stops: %+v, %v", got, err)
	}

	stop()
	if _, err := Ask(t.Context(), dir, 7843); !errors.Is(err, ErrNoNode) {
		t.Errorf("a node that has stopped: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}

func TestAll(t *testing.T) {
	dir := place(t)
	if _, err := All(t.Context(), dir); !errors.Is(err, ErrNoNode) {
		t.Errorf("no directory: %v", err)
	}
	serve(t, dir, 10000, func() Report { return Report{Name: "third"} })
	serve(t, dir, 7844, func() Report { return Report{Name: "second"} })
	serve(t, dir, 7843, func() Report { return Report{Name: "first"} })
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket(dir, 7845), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	reports, err := All(t.Context(), dir)
	var names []string
	for _, r := range reports {
		names = append(names, r.Name)
	}
	if err != nil || strings.Join(names, " ") != "first second third" {
		t.Errorf("all are %v (%v)", names, err)
	}
}

func TestASocketThatAKilledNodeLeftIsReplaced(t *testing.T) {
	dir := place(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket(dir, 1), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	serve(t, dir, 1, func() Report { return Report{Name: "alive"} })
	if r, err := Ask(t.Context(), dir, 1); err != nil || r.Name != "alive" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestNodesThatHangOrTellNonsense(t *testing.T) {
	dir := place(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket(dir, 1), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Ask(ctx, dir, 1); err == nil || errors.Is(err, ErrNoNode) {
		t.Errorf("a node that hangs: %v", err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("fine\n"))
			c.Close()
		}
	}()
	if _, err := Ask(t.Context(), dir, 1); err == nil || errors.Is(err, ErrNoNode) {
		t.Errorf("a node that tells nonsense: %v", err)
	}
}

func TestADirectoryThatOthersMayFillIsRefused(t *testing.T) {
	dir := place(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Serve(t.Context(), dir, 1, func() Report { return Report{} }); err == nil {
		t.Error("a node answers in a directory that everybody may write to")
	}
}
