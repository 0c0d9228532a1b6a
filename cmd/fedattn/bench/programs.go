package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fedattn/transport/shaper"
)

// allLayers is llama.cpp's way of saying that no layer stays here.
const allLayers = "99"

// servers are llama.cpp's RPC servers, one for each device. The first is on the asking device and is reached directly, the
// others over a link.
type servers struct {
	processes []*process
	addresses []string
	proxies   []*shaper.TCPProxy
	links     map[string]string // by link, what --rpc takes
}

func (b *Bench) startServers(ctx context.Context, devices int) (*servers, error) {
	s := &servers{links: map[string]string{}}
	for i := range devices {
		port, err := freePort()
		if err != nil {
			s.close()
			return nil, err
		}
		c := exec.Command(b.cfg.RPCServer, "--host", "127.0.0.1", "--port", port, "--threads", strconv.Itoa(b.cfg.Threads))
		p, err := start(ctx, c, b.cfg.Cores.of(i), nil)
		if err != nil {
			s.close()
			return nil, err
		}
		s.processes = append(s.processes, p)
		address := net.JoinHostPort("127.0.0.1", port)
		if err := p.answers(ctx, address); err != nil {
			s.close()
			return nil, err
		}
		s.addresses = append(s.addresses, address)
	}
	return s, nil
}

// answers waits until a process takes connections.
func (p *process) answers(ctx context.Context, address string) error {
	deadline := time.Now().Add(loadTime)
	for {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s takes no connection: %w", filepath.Base(p.command.Path), err)
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.command.Path), p.said)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freePort is one that nobody listens at now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// over is what llama-bench's --rpc takes for a link.
func (s *servers) over(link shaper.Link) (string, error) {
	if list, ok := s.links[link.Name]; ok {
		return list, nil
	}
	list := s.addresses[:1:1]
	for _, address := range s.addresses[1:] {
		if !link.Clear() {
			p, err := shaper.StartTCP("127.0.0.1:0", address, link.Path)
			if err != nil {
				return "", err
			}
			s.proxies = append(s.proxies, p)
			address = p.Addr()
		}
		list = append(list, address)
	}
	s.links[link.Name] = strings.Join(list, ",")
	return s.links[link.Name], nil
}

func (s *servers) close() {
	for _, p := range s.proxies {
		_ = p.Close()
	}
	for _, p := range s.processes {
		p.stop()
	}
	s.proxies, s.processes = nil, nil
}

// runLlamaBench lets llama-bench make a test, once, on the asking device's processors. more are further arguments.
func (b *Bench) runLlamaBench(ctx context.Context, t Test, more ...string) (s Sample, backends string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.Timeout, fmt.Errorf("llama-bench is not done after %v: allow more with --timeout", b.cfg.Timeout))
	defer cancel()
	number := strconv.Itoa
	args := []string{"-m", b.cfg.ModelFile, "-t", number(b.cfg.Threads), "-p", "0", "-n", "0", "-d", number(t.Depth),
		"-b", number(b.cfg.Batch), "-ub", number(b.cfg.MicroBatch), "-fa", "1", "-r", "1", "-o", "json"}
	switch {
	case t.Prompt > 0 && t.Generate > 0:
		args = append(args, "-pg", fmt.Sprintf("%d,%d", t.Prompt, t.Generate))
	case t.Prompt > 0:
		args[5] = number(t.Prompt)
	default:
		args[7] = number(t.Generate)
	}
	if b.cfg.NoWarmUp {
		args = append(args, "--no-warmup")
	}
	c := exec.Command(b.cfg.LlamaBench, append(args, more...)...)
	var out bytes.Buffer
	c.Stdout = &out
	p, err := start(ctx, c, b.cfg.Cores.of(0), nil)
	if err != nil {
		return s, "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop()
		return s, "", context.Cause(ctx)
	}
	var results []struct {
		Backends string  `json:"backends"`
		Samples  []int64 `json:"samples_ns"`
	}
	if !c.ProcessState.Success() {
		return s, "", fmt.Errorf("llama-bench failed: %s", p.said)
	}
	if err := json.Unmarshal(out.Bytes(), &results); err != nil || len(results) != 1 || len(results[0].Samples) != 1 {
		return s, "", errors.New("llama-bench printed no result: give the one that make bench-peers builds")
	}
	s = Sample{Tokens: t.tokens(), Took: time.Duration(results[0].Samples[0])}
	if t.Generate == 0 && t.Depth == 0 {
		s.TTFTMS = milliseconds(s.Took)
	}
	return s, results[0].Backends, nil
}

// evenSplit is llama.cpp's --tensor-split for devices that are alike.
func evenSplit(devices int) string {
	return strings.TrimSuffix(strings.Repeat("1/", devices), "/")
}
