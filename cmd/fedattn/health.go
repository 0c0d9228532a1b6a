package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/node/device"
	"fedattn/fedkv/node/status"
	"fedattn/llama"
)

func statusFlag() cli.Flag {
	return &cli.StringFlag{Name: "status", Usage: "`DIR` in which this user's nodes tell fedattn health how they are",
		DefaultText: "fedattn in the user's runtime directory", EnvVars: []string{"FEDATTN_STATUS"}, Category: deviceCategory}
}

func statusDir(c *cli.Context) string {
	if dir := c.String("status"); dir != "" {
		return dir
	}
	return status.Dir()
}

func healthCommand() *cli.Command {
	return &cli.Command{
		Name:      "health",
		Usage:     "say whether the nodes of this machine are ready",
		UsageText: "fedattn health [flags]",
		Description: "Asks the nodes that this user runs here, without the network. Exit code 0: there are some, and all of them are ready;\n" +
			"1: there is none, or one is still loading its model, stopping, or does not answer. Made for health checks.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "port", Usage: "ask only the node at UDP port `N`", DefaultText: "all nodes"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line and node", DisableDefaultText: true},
			statusFlag(),
		},
		Action: runHealth,
	}
}

func runHealth(c *cli.Context) error {
	if err := first(noArguments(c), atLeast(c, 0, "port")); err != nil {
		return err
	}
	var reports []status.Report
	var err error
	if port := c.Int("port"); port > 0 {
		var r status.Report
		r, err = status.Ask(c.Context, statusDir(c), port)
		reports = []status.Report{r}
	} else {
		reports, err = status.All(c.Context, statusDir(c))
	}
	if errors.Is(err, status.ErrNoNode) {
		return fmt.Errorf("%w; start one with fedattn node, or say with --status where it tells how it is", err)
	}
	if err != nil {
		return err
	}
	var faults []error
	for _, r := range reports {
		if c.Bool("json") {
			_ = json.NewEncoder(c.App.Writer).Encode(r)
		} else {
			fmt.Fprintf(c.App.Writer, "%s %s: %s\n", r.Address, r.Name, healthText(r))
		}
		faults = append(faults, r.Healthy())
	}
	return errors.Join(faults...)
}

func healthText(r status.Report) string {
	if r.State != status.Ready {
		return string(r.State)
	}
	text := fmt.Sprintf("ready, %s, %d tokens, since %s", r.Model, r.Tokens, r.Since.Local().Format(time.DateTime))
	if r.Serving+r.Waiting > 0 {
		text += fmt.Sprintf("; %d served, %d waiting", r.Serving, r.Waiting)
	}
	if r.Heat != "" {
		text += fmt.Sprintf("; %s, %d threads", r.Heat, r.Threads)
	}
	return text
}

// condition is what a running node tells of itself.
type condition struct {
	mu     sync.Mutex
	report status.Report
	load   func() (serving, waiting int) // nil until it is ready
}

// newCondition begins to answer fedattn health. A place that cannot be had is no reason not to run.
func newCondition(c *cli.Context, name string, address net.Addr, log zerolog.Logger) *condition {
	s := &condition{report: status.Report{State: status.Loading, Name: name, Address: address.String(), Since: time.Now().UTC().Truncate(time.Second)}}
	_, port, err := net.SplitHostPort(address.String())
	if err == nil {
		var n int
		if n, err = strconv.Atoi(port); err == nil {
			_, err = status.Serve(c.Context, statusDir(c), n, s.now)
		}
	}
	if err != nil {
		log.Warn().Err(err).Msg("fedattn health cannot ask this node: give a directory with --status")
	}
	return s
}

func (s *condition) now() status.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.load != nil {
		s.report.Serving, s.report.Waiting = s.load()
	}
	return s.report
}

func (s *condition) change(f func(*status.Report)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.report)
}

// ready is told when other devices may ask, and stopping when the context ends.
func (s *condition) ready(ctx context.Context, engine *llama.Engine, tokens int, load func() (serving, waiting int)) {
	s.mu.Lock()
	s.load = load
	s.mu.Unlock()
	s.change(func(r *status.Report) {
		r.State, r.Model, r.Tokens, r.Threads = status.Ready, engine.Description(), tokens, engine.Threads()
	})
	context.AfterFunc(ctx, func() { s.change(func(r *status.Report) { r.State = status.Stopping }) })
}

// keepCool lets the engine use fewer threads while the board throttles, until the context ends.
func (s *condition) keepCool(ctx context.Context, engine *llama.Engine, log zerolog.Logger) {
	ticker := time.NewTicker(device.Every)
	defer ticker.Stop()
	device.Board{Root: device.Sysfs}.Watch(ctx, engine.Threads(), ticker.C, func(threads int, h device.Heat) {
		engine.UseThreads(threads)
		told := ""
		if threads < engine.Threads() {
			told = h.String()
		}
		s.change(func(r *status.Report) { r.Threads, r.Heat = threads, told })
		event := log.Info()
		if h.Throttled {
			event = log.Warn()
		}
		event.Stringer("board", h).Int("threads", threads).Int("of", engine.Threads()).Msg("the board's temperature changes the number of threads")
	})
}
