package main

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// The scripts ask the program itself: urfave/cli answers to a last argument, and completeWords knows flags' values.
//
//go:embed completion
var completionScripts embed.FS

var shells = []string{"bash", "fish", "zsh"}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script with which a shell completes commands, flags and names",
		UsageText: "fedattn completion " + strings.Join(shells, "|"),
		Description: "bash: source <(fedattn completion bash)\n" +
			"zsh:  fedattn completion zsh > a directory of $fpath/_fedattn\n" +
			"fish: fedattn completion fish > ~/.config/fish/completions/fedattn.fish",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 || !slices.Contains(shells, c.Args().First()) {
				return usagef("name one shell: %s", strings.Join(shells, ", "))
			}
			script, err := completionScripts.ReadFile("completion/" + c.Args().First())
			if err != nil {
				return err
			}
			_, err = c.App.Writer.Write(script)
			return err
		},
	}
}

// completionMark is the last argument with which a shell asks.
const completionMark = "--generate-bash-completion"

// completing prepares a shell's question: -- asks for all flags, as - does. Behind it everything is text, for which nothing
// is known, and the command would be run.
func completing(args []string) (_ []string, text bool) {
	n := len(args)
	if n < 3 || args[n-1] != completionMark {
		return args, false
	}
	args = slices.Clone(args)
	if args[n-2] == "--" {
		args[n-2] = "-"
	}
	return args, slices.Contains(args, "--")
}

// completeWords completes a value where one is due and its kind is known, and names of commands and flags otherwise.
func completeWords(command *cli.Command) cli.BashCompleteFunc {
	otherwise := cli.DefaultCompleteWithFlags(command)
	return func(c *cli.Context) {
		args, _ := c.App.Metadata[rawArguments].([]string)
		if len(args) >= 3 {
			last, before := args[len(args)-2], args[len(args)-3]
			if due := slices.ContainsFunc(command.Flags, func(f cli.Flag) bool {
				_, isSwitch := f.(*cli.BoolFlag)
				return !isSwitch && strings.HasPrefix(before, "-") && slices.Contains(f.Names(), strings.TrimLeft(before, "-"))
			}); due {
				for _, v := range values(c, strings.TrimLeft(before, "-")) {
					if strings.HasPrefix(v, last) {
						fmt.Fprintln(c.App.Writer, v)
					}
				}
				return
			}
		}
		otherwise(c)
	}
}

// values that a flag may have, as far as they are few.
func values(c *cli.Context, flag string) []string {
	switch flag {
	case "peer":
		list := []string{allPeers}
		known, _ := knownPeers(c) // nothing to complete is no error
		for _, p := range known {
			list = append(list, p.Name)
		}
		return list
	case "schedule":
		return slices.Concat(presets, []string{"home", "home:q8_0", "paper:4"})
	case "positions":
		return []string{"canonical", "inplace"}
	case "log-format":
		return []string{"console", "json"}
	case "rights":
		return []string{"ask", "contribute", "both"}
	case "trust":
		return []string{"home", "rows"}
	case "think":
		return []string{"dim", "show", "hide"}
	}
	return nil
}
