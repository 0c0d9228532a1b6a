// Command fedattn asks one question over texts that several devices hold, without the texts leaving them.
//
// Each command has a file of its own here and no logic: it reads flags, calls the packages and prints.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"fedattn/llama"
)

// Exit codes, as users of command-line tools expect them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// version is set by the linker, see the Makefile.
var version = "development"

func main() {
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: what tests call.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newApp(stdin, stdout, stderr).RunContext(ctx, args)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "fedattn: %v\n", err)
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "fedattn: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "fedattn: %v\n", err)
	return exitFailure
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "fedattn",
		Usage:     "ask one question over texts that stay on several devices",
		Version:   fmt.Sprintf("%s (llama.cpp %s)", version, llama.Commit()),
		Reader:    stdin,
		Writer:    stdout,
		ErrWriter: stderr,
		Commands: []*cli.Command{
			nodeCommand(), askCommand(), verifyCommand(), evalCommand(), inspectCommand(), idCommand(),
		},
		HideHelpCommand: true,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usagef("%v; see fedattn --help", err)
		},
		// errors are printed once, in run
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("unknown command %q; see fedattn --help", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, command := range app.Commands {
		name := command.Name
		command.OnUsageError = func(_ *cli.Context, err error, _ bool) error {
			return usagef("%s: %v; see fedattn %s --help", name, err, name)
		}
	}
	return app
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
