// Package status lets other programs of this machine ask a running node how it is: service managers, health checks of
// containers, and people.
//
// A node answers on a Unix socket of its own, in a directory that only its user may open: whoever connects is told one
// Report as a line of JSON, and the connection ends. Nothing is read from it, so it controls nothing, and no file can
// claim that a dead node lives. The socket is named by the node's UDP port, so that nodes share a directory.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxReport bounds a report in bytes.
	maxReport = 16 << 10
	// patience is how long one exchange of a report may take.
	patience = 3 * time.Second
)

// State is what a node does.
type State string

// The states of a node, in this order.
const (
	Loading  State = "loading" // its model
	Ready    State = "ready"   // other devices may ask
	Stopping State = "stopping"
)

// Report is what a node says of itself. It names no document and no peer.
type Report struct {
	State   State     `json:"state"`
	Name    string    `json:"name"`    // of the device
	Address string    `json:"address"` // UDP address that the node listens on
	Model   string    `json:"model,omitempty"`
	Tokens  int       `json:"tokens"`         // of the documents
	Since   time.Time `json:"since"`          // the node runs
	Serving int       `json:"serving"`        // questions that use the engine now
	Waiting int       `json:"waiting"`        // questions that wait for their turn
	Threads int       `json:"threads"`        // that evaluations use now
	Heat    string    `json:"heat,omitempty"` // why they are fewer than they could be
}

// Healthy says whether a node can serve, and if not, why.
func (r Report) Healthy() error {
	if r.State != Ready {
		return fmt.Errorf("the node at %s is %s", r.Address, r.State)
	}
	return nil
}

// ErrNoNode is the error of asking where no node answers.
var ErrNoNode = errors.New("no node runs here")

// Dir is where nodes of this user have their sockets unless somebody says otherwise.
func Dir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "fedattn")
	}
	return filepath.Join(os.TempDir(), "fedattn-"+strconv.Itoa(os.Getuid()))
}

// socket is the path of the socket of the node at a UDP port.
func socket(dir string, port int) string {
	return filepath.Join(dir, fmt.Sprintf("node-%d.sock", port))
}

// Serve answers on the socket in dir of the node at a UDP port, with what report says then, until the context ends. The
// directory is made if it is not there. The returned function waits until the socket is gone.
func Serve(ctx context.Context, dir string, port int, report func() Report) (wait func(), err error) {
	if err := private(dir); err != nil {
		return nil, err
	}
	path := socket(dir, port)
	// left by a node that was killed: the port is ours, so nobody else answers there
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	go func() {
		defer close(done)
		defer stop()
		for {
			conn, err := listener.Accept()
			if err != nil {
				_ = listener.Close()
				return
			}
			// one after another: each is bounded, and nobody else's time is worth more
			_ = conn.SetDeadline(time.Now().Add(patience))
			_ = json.NewEncoder(conn).Encode(report())
			_ = conn.Close()
		}
	}()
	return func() { <-done }, nil
}

// private makes sure of a directory that others can neither read nor fill.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || !ours(info) {
		return fmt.Errorf("%s belongs to somebody else, or others may write there", dir)
	}
	return nil
}

// Ask returns the report of the node at a UDP port.
func Ask(ctx context.Context, dir string, port int) (Report, error) {
	return ask(ctx, socket(dir, port))
}

func ask(ctx context.Context, path string) (r Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return r, fmt.Errorf("%w (%s)", ErrNoNode, path)
	}
	if err != nil {
		return r, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	line, err := io.ReadAll(io.LimitReader(conn, maxReport))
	if err != nil {
		return r, fmt.Errorf("the node at %s does not answer: %w", path, err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("the node at %s says no report: %w", path, err)
	}
	return r, nil
}

// All returns the reports of the nodes that answer in dir, in the order of their ports. Sockets that dead nodes left
// are passed over. It fails with ErrNoNode if none answers, and at the first node that takes connections but tells
// nothing.
func All(ctx context.Context, dir string) ([]Report, error) {
	paths, _ := filepath.Glob(filepath.Join(escape(dir), "node-*.sock"))
	slices.SortFunc(paths, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	var reports []Report
	for _, path := range paths {
		switch r, err := ask(ctx, path); {
		case errors.Is(err, ErrNoNode):
		case err != nil:
			return nil, err
		default:
			reports = append(reports, r)
		}
	}
	if len(reports) == 0 {
		return nil, fmt.Errorf("%w (%s)", ErrNoNode, dir)
	}
	return reports, nil
}

// escape takes the meaning of a path's characters in a pattern away.
func escape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}
