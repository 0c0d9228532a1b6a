// Command fedattn asks one question over texts that several devices hold, without the texts leaving them.
//
// Each command has a file of its own here and no logic: it reads flags, calls the packages and prints. What all of them
// promise is kept in three places: exit codes and signals in this file, standard output in output.go, and the wording
// of mistakes in the command line in usage.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/chat"
	"fedattn/llama"
)

// Exit codes, as users of command-line tools expect them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// grace is how long a command may take to end after the first signal. Reading a large model listens to nobody.
const grace = 3 * time.Second

// version is set by the linker, see the Makefile.
var version = "development"

func main() {
	keepOffDisk()
	// A reader of our output that has had enough (`fedattn ask … | head -c 1`) shows as a failed write, not as a signal
	// that would leave peers without a farewell.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process. The first interrupt ends the command in order, a second one kills the process.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	args, text := completing(args)
	if text {
		return exitOK
	}
	signals := listen()
	defer signals.close()
	ctx, cancel := context.WithCancel(signals.ctx)
	defer cancel()
	out := &output{w: stdout, terminal: onTerminal(stdout), broken: cancel}

	app := newApp(args, stdin, out, stderr)
	app.Metadata[signalsKey] = signals
	err := execute(ctx, app, args)
	interrupted := signals.ctx.Err() != nil || errors.Is(err, chat.ErrInterrupted)
	var usage usageError
	switch {
	case errors.Is(out.failure(), syscall.EPIPE):
		return exitOK // the reader's choice
	case out.failure() != nil:
		err = fmt.Errorf("cannot write the output: %w", out.failure())
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "fedattn: %s\n", oneLine(err))
		return exitUsage
	case interrupted:
		fmt.Fprintln(stderr, "fedattn: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "fedattn: %s\n", oneLine(err))
	return exitFailure
}

// execute runs the command, and leaves it behind if it does not end within the grace after its context has.
func execute(ctx context.Context, app *cli.App, args []string) error {
	done := make(chan error, 1)
	go func() { done <- app.RunContext(ctx, args) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(grace):
		return ctx.Err()
	}
}

// oneLine is an error's text without line breaks: an error is one line on stderr.
func oneLine(err error) string {
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

func newApp(args []string, stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "fedattn",
		Usage: "ask one question over texts that stay on several devices",
		Description: "Exit codes: 0 done, 1 failed, 2 a mistake in the command line, 130 interrupted. Every failure is one line on\n" +
			"stderr. Output has no colours in pipes, or anywhere when NO_COLOR is set. Flags may also stand in the environment, as\n" +
			"FEDATTN_MODEL for --model, and in a file: see fedattn config.",
		Version:   fmt.Sprintf("%s (llama.cpp %s)", version, llama.Commit()),
		Reader:    stdin,
		Writer:    stdout,
		ErrWriter: stderr,
		Metadata:  map[string]any{rawArguments: args},
		Commands: []*cli.Command{
			nodeCommand(), askCommand(), chatCommand(), serveCommand(),
			planCommand(),
			verifyCommand(), benchCommand(), evalCommand(), analyzeCommand(), auditCommand(), calibrateCommand(),
			inspectCommand(), pullCommand(), modelsCommand(), cacheCommand(),
			idCommand(), inviteCommand(), joinCommand(), peersCommand(), receiptsCommand(), docsCommand(),
			statusCommand(), pingCommand(), healthCommand(), doctorCommand(),
			configCommand(), completionCommand(), helpCommand(),
		},
		HideHelpCommand:           true,
		EnableBashCompletion:      true,
		Flags:                     []cli.Flag{cli.HelpFlag}, // which a command named help would drop
		DisableSliceFlagSeparator: true,                     // files and schedules have commas in them
		OnUsageError:              func(c *cli.Context, err error, _ bool) error { return flagError("fedattn", c.App.Flags, err) },
		// errors are printed once, in run
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, command := range app.Commands {
		mindUsage("fedattn", command.Name, command)
	}
	return app
}

// mindUsage words the mistakes in a command's flags, and in those of its own commands, and lets flags be set elsewhere than
// on the command line. section is what the file of settings calls them.
func mindUsage(parent, section string, command *cli.Command) {
	name := parent + " " + command.Name
	command.HideHelpCommand = true
	nameVariables(command.Flags)
	command.BashComplete = completeWords(command)
	flags := slices.Clone(command.Flags) // without --help
	if len(flags) > 0 {
		command.Before = func(c *cli.Context) error {
			file, err := readSettings(c)
			if err == nil {
				_, err = applySettings(c, file, section, flags)
			}
			return err
		}
	}
	command.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return flagError(name, command.Flags, err) }
	for _, sub := range command.Subcommands {
		mindUsage(name, section, sub)
	}
}

// helpCommand is for those who type help instead of --help.
func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "show what fedattn, or one of its commands, can do",
		ArgsUsage: "[COMMAND]",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowAppHelp(c)
			}
			command := c.App.Command(c.Args().First())
			if command == nil {
				return unknownCommand(c.Args().First())
			}
			return cli.ShowCommandHelp(c, command.Name)
		},
	}
}

func unknownCommand(name string) error {
	return usagef("there is no command %q; see fedattn --help", name)
}
