package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fedattn/fedkv/node"
	"fedattn/transport/shaper"
)

const (
	// loadTime is how long a process may take to load a model.
	loadTime = 5 * time.Minute
	// endTime is how long a process may take to end when it is told to.
	endTime = 5 * time.Second
	// maxSaid is how much of a process' complaints is kept: an error is at its end.
	maxSaid = 4096
)

// process is a program that was started, and the end of what it said on stderr.
type process struct {
	command *exec.Cmd
	said    *tail
	done    chan struct{}
}

// start runs a program on processors of its own and, if first is not nil, waits for the first line on its stdout.
func start(ctx context.Context, c *exec.Cmd, cpus []int, first *string) (*process, error) {
	p := &process{command: c, said: &tail{}, done: make(chan struct{})}
	c.Stderr = p.said
	name := filepath.Base(c.Path)
	var stdout *os.File
	if first != nil {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer write.Close()
		stdout, c.Stdout = read, write
	}
	if err := startOn(c, cpus); err != nil {
		if stdout != nil {
			stdout.Close()
		}
		return nil, fmt.Errorf("%s cannot be started: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_ = c.Wait()
	}()
	if first == nil {
		return p, nil
	}
	line := make(chan string, 1)
	go func() {
		defer stdout.Close()
		in := bufio.NewScanner(stdout)
		if in.Scan() {
			line <- in.Text()
		}
		for in.Scan() { // whoever writes must not wait
		}
	}()
	var err error
	select {
	case *first = <-line:
		return p, nil
	case <-p.done:
		err = fmt.Errorf("%s ended: %s", name, p.said)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(loadTime):
		err = fmt.Errorf("%s is not ready after %v: %s", name, loadTime, p.said)
	}
	p.stop()
	return nil, err
}

// stop ends the process and waits for its end.
func (p *process) stop() {
	_ = p.command.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(endTime):
		_ = p.command.Process.Kill()
		<-p.done
	}
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if n := len(t.kept) - maxSaid; n > 0 {
		t.kept = append(t.kept[:0], t.kept[n:]...)
	}
	return len(b), nil
}

// String is the last line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(t.kept), []byte("\n"))
	if last := strings.TrimSpace(string(lines[len(lines)-1])); last != "" {
		return strings.TrimPrefix(last, "fedattn: ")
	}
	return "it said nothing"
}

// fleet is the devices that a prompt is split over.
type fleet struct {
	nodes     []string // ID@HOST:PORT of the contributors
	tokens    int      // of the prompt; 0: what others hold, not known yet
	parts     []int    // of the documents, this device's last; nil: not known
	frame     struct{ prefix, own int }
	beside    *node.Contact
	processes []*process
	proxies   map[string][]string // by link, the contributors' addresses behind it
	closers   []func()
}

// startFleet starts a node for each contributor of a prompt, and this device's own part beside.
func (b *Bench) startFleet(ctx context.Context, devices, prompt int) (*fleet, error) {
	frame, err := b.frame(0, 0)
	if err != nil {
		return nil, err
	}
	p, err := divide(b.cfg.Engine, prompt, devices, len(frame.prefix)+len(frame.own))
	if err != nil {
		return nil, err
	}
	f := &fleet{tokens: p.tokens, parts: p.shares, proxies: map[string][]string{}}
	f.frame.prefix, f.frame.own = len(frame.prefix), len(frame.own)
	for i, d := range p.documents[:devices-1] {
		if err := f.startNode(ctx, b, i+1, d); err != nil {
			f.close()
			return nil, err
		}
	}
	if err := f.startBeside(b, p.documents[devices-1]); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// startNode starts the node of a device that contributes a document.
func (f *fleet) startNode(ctx context.Context, b *Bench, device int, d node.Document) error {
	b.folders++
	dir := filepath.Join(b.dir, fmt.Sprint(b.folders))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	doc := filepath.Join(dir, "document.txt")
	if err := os.WriteFile(doc, []byte(d.Text), 0o600); err != nil {
		return err
	}
	c := b.cfg.Node(NodeProcess{Name: d.Name, Document: doc, Dir: dir, Context: b.cfg.Context})
	var address string
	p, err := start(ctx, c, b.cfg.Cores.of(device), &address)
	if err != nil {
		return fmt.Errorf("the node of %s: %w", d.Name, err)
	}
	f.processes, f.nodes = append(f.processes, p), append(f.nodes, address)
	return nil
}

// at is where the contributors are reached over a link.
func (f *fleet) at(link shaper.Link) ([]string, error) {
	if link.Clear() {
		return f.nodes, nil
	}
	if list := f.proxies[link.Name]; list != nil {
		return list, nil
	}
	var list []string
	for i, address := range f.nodes {
		id, hostPort, found := strings.Cut(address, "@")
		if !found {
			return nil, fmt.Errorf("%s is not reached at one address: only links to nodes that are can be slowed down", address)
		}
		if _, _, err := net.SplitHostPort(hostPort); err != nil {
			return nil, err
		}
		proxy, err := shaper.Start("127.0.0.1:0", hostPort, link.Path, uint64(i+1))
		if err != nil {
			return nil, err
		}
		f.closers = append(f.closers, func() { _ = proxy.Close() })
		list = append(list, id+"@"+proxy.Addr())
	}
	f.proxies[link.Name] = list
	return list, nil
}

// gone is an error that tells of a node that ended, or the given one.
func (f *fleet) gone(err error) error {
	for _, p := range f.processes {
		select {
		case <-p.done:
			return errors.Join(err, fmt.Errorf("a node ended: %s", p.said))
		default:
		}
	}
	return err
}

func (f *fleet) close() {
	for _, end := range f.closers {
		end()
	}
	for _, p := range f.processes {
		p.stop()
	}
	f.closers, f.processes = nil, nil
}
