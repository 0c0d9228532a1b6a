package documents

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Command is a command line of the owner's shell, whose output is a document.
type Command struct {
	Name string `yaml:"name" json:"name"` // empty: the command line
	Run  string `yaml:"run" json:"run"`
}

func (c Command) name() string {
	if c.Name != "" {
		return c.Name
	}
	return strings.Join(strings.Fields(c.Run), " ")
}

// output runs a command and returns the last lines of what it prints.
func (c Command) output(ctx context.Context, lines int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	out := &ending{most: tailBytes}
	cmd := exec.CommandContext(ctx, "sh", "-c", c.Run)
	cmd.Stdout, cmd.WaitDelay = out, time.Second
	asGroup(cmd)
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("it did not end within %v", commandTime)
	case err != nil && len(out.b) == 0:
		return "", fmt.Errorf("it failed: %w", err)
	}
	text := lastLines(out.b, lines, out.cut)
	if text == "" {
		return "", errors.New("it prints no text")
	}
	return text, nil
}

// ending keeps the last bytes that are written.
type ending struct {
	b    []byte
	most int
	cut  bool
}

func (e *ending) Write(p []byte) (int, error) {
	e.b = append(e.b, p...)
	if len(e.b) > 2*e.most {
		e.b, e.cut = bytes.Clone(e.b[len(e.b)-e.most:]), true
	}
	return len(p), nil
}

// stream is standard input: a document of its last lines so far.
type stream struct {
	mu    sync.Mutex
	lines []string
	bytes int
	most  int
}

// follow reads to the end of the input, for which there is no deadline: it ends with the process.
func (s *stream) follow(in io.Reader) {
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := r.ReadSlice('\n') // a line that is longer than the buffer comes in pieces
		if len(line) > 0 && bytes.IndexByte(line, 0) < 0 {
			s.add(strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "?"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (s *stream) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
	s.bytes += len(line) + 1
	for len(s.lines) > s.most || s.bytes > tailBytes {
		s.bytes -= len(s.lines[0]) + 1
		s.lines = s.lines[1:]
	}
}

func (s *stream) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(strings.Join(s.lines, "\n"))
}
