package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/settings"
)

// Flags have three more places than the command line: a variable of the environment, config.yaml in the device's
// directory, and their default, in this order. urfave/cli reads the environment. It would read files too (altsrc), but
// would skip keys that no flag has, and take no 1 for a number that may have a fraction: so the file goes through the
// flags' own parsers here.

const settingsFile = "config.yaml"

const variablePrefix = "FEDATTN_"

// rivals are flags of which one replaces the other, so that a choice on the command line is not held against another one
// in the file.
var rivals = [][2]string{
	{"model", "hf"}, {"budget", "schedule"}, {"budget", "wire"}, {"allow", "allow-any"},
	{"json-schema", "json-schema-file"}, {"json-schema", "grammar-file"}, {"json-schema-file", "grammar-file"},
}

func init() {
	whole := cli.FlagStringer
	cli.FlagStringer = func(f cli.Flag) string {
		text, _, _ := strings.Cut(whole(f), " [$") // every flag has a variable: saying so once is enough
		return text
	}
}

// nameVariables gives each flag without one its variable of the environment.
func nameVariables(flags []cli.Flag) {
	for _, f := range flags {
		var names *[]string
		switch f := f.(type) {
		case *cli.StringFlag:
			names = &f.EnvVars
		case *cli.StringSliceFlag:
			names = &f.EnvVars
		case *cli.IntFlag:
			names = &f.EnvVars
		case *cli.Float64Flag:
			names = &f.EnvVars
		case *cli.DurationFlag:
			names = &f.EnvVars
		case *cli.BoolFlag:
			names = &f.EnvVars
		}
		if names != nil && len(*names) == 0 && f != cli.HelpFlag {
			*names = []string{variablePrefix + strings.ToUpper(strings.ReplaceAll(f.Names()[0], "-", "_"))}
		}
	}
}

// variable of a flag in the environment, empty for --help.
func variable(f cli.Flag) string {
	if d, ok := f.(cli.DocGenerationFlag); ok && len(d.GetEnvVars()) > 0 {
		return d.GetEnvVars()[0]
	}
	return ""
}

// everywhere is what the file calls a flag outside of sections: as its variable, in lower case.
func everywhere(f cli.Flag) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable(f), variablePrefix)), "_", "-")
}

// readSettings reads the file; what no flag has is a mistake.
func readSettings(c *cli.Context) (f settings.File, err error) {
	dir, err := configDir(c)
	if err != nil {
		return f, err
	}
	if f, err = settings.Read(filepath.Join(dir, settingsFile)); err != nil {
		var file *fs.PathError
		if errors.As(err, &file) {
			return f, fmt.Errorf("%w; make it readable, or %s", err, elsewhere)
		}
		return f, fmt.Errorf("%w; mend the line, or take it out", err)
	}
	for _, s := range f.Settings {
		if err := known(c.App, s); err != nil {
			return f, fmt.Errorf("%s: %w", f.Where(s), err)
		}
	}
	return f, nil
}

// known refuses settings that no command would ever read.
func known(app *cli.App, s settings.Setting) error {
	if s.Section != "" && app.Command(s.Section) == nil {
		return fmt.Errorf("there is no command %q; see fedattn --help", s.Section)
	}
	if s.Key == "config" {
		return errors.New("config is where this file is: it cannot say that itself")
	}
	found := false
	for _, command := range app.Commands {
		if s.Section == "" || command.Name == s.Section {
			eachFlag(command, func(f cli.Flag) {
				found = found || s.Section == "" && everywhere(f) == s.Key || s.Section != "" && f.Names()[0] == s.Key
			})
		}
	}
	switch {
	case found:
		return nil
	case s.Section != "":
		return fmt.Errorf("fedattn %s has no flag --%s; see fedattn %s --help", s.Section, s.Key, s.Section)
	}
	return fmt.Errorf("no command has a flag --%s; see fedattn --help", s.Key)
}

// eachFlag visits the flags of a command and of its own commands.
func eachFlag(command *cli.Command, visit func(cli.Flag)) {
	for _, f := range command.Flags {
		visit(f)
	}
	for _, sub := range command.Subcommands {
		eachFlag(sub, visit)
	}
}

// applySettings gives the command's flags that nobody set the values of the file, and says where these are from.
// section is the command's name, of a command of a command the first one.
func applySettings(c *cli.Context, file settings.File, section string, flags []cli.Flag) (origins map[string]string, err error) {
	set := map[string]bool{}
	for _, f := range flags {
		set[f.Names()[0]] = c.IsSet(f.Names()[0])
	}
	origins = map[string]string{}
	for _, f := range flags {
		name := f.Names()[0]
		s, found := file.Find(section, name, everywhere(f))
		if !found || set[name] || slices.ContainsFunc(rivals, func(r [2]string) bool {
			return r[0] == name && set[r[1]] || r[1] == name && set[r[0]]
		}) {
			continue
		}
		if _, several := f.(*cli.StringSliceFlag); s.List && !several {
			return nil, fmt.Errorf("%s: --%s takes one value, not a list", file.Where(s), name)
		}
		for _, text := range s.Texts {
			if c.Set(name, text) != nil {
				return nil, fmt.Errorf("%s: --%s %q is not %s; see fedattn %s --help", file.Where(s), name, text, valueOf(flags, name), section)
			}
		}
		origins[name] = file.Where(s)
	}
	return origins, nil
}

func configCommand() *cli.Command {
	return &cli.Command{
		Name:      "config",
		Usage:     "show what flags are set to in the environment and in config.yaml, and where",
		UsageText: "fedattn config [flags] [COMMAND]",
		Description: "Flags may stand in the environment and in config.yaml in this device's directory, so that they need not be typed: what is\n" +
			"typed goes first, then FEDATTN_ and the flag in capitals, with _ for -, then the file:\n\n" +
			"model: /models/model.gguf    # every command with such a flag\n" +
			"peer: [garden, shed]\n" +
			"chat:                        # one command\n" +
			"  temp: 0.7\n\n" +
			"With COMMAND, all of its flags are listed, with their defaults.",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "one JSON object a line", DisableDefaultText: true}, configFlag()},
		Action: runConfig,
	}
}

// configLine is what config --json prints.
type configLine struct {
	Command string `json:"command"`
	Flag    string `json:"flag"`
	Value   string `json:"value"`
	From    string `json:"from"` // default, a variable, or the file's path and line
}

func runConfig(c *cli.Context) error {
	args, err := words(c, "command")
	if err != nil {
		return err
	}
	if len(args) > 1 {
		return usagef("fedattn config takes one command at most; see fedattn config --help")
	}
	file, err := readSettings(c)
	if err != nil {
		return err
	}
	var lines []configLine
	for _, command := range c.App.Commands {
		if len(args) == 1 && command.Name != args[0] {
			continue
		}
		more, err := effective(c, file, command)
		if err != nil {
			return err
		}
		lines = append(lines, more...)
	}
	if len(args) == 1 && c.App.Command(args[0]) == nil {
		return unknownCommand(args[0])
	}
	if len(args) == 0 {
		lines = slices.DeleteFunc(lines, func(l configLine) bool { return l.From == fromDefault })
		if len(lines) == 0 {
			fmt.Fprintf(c.App.ErrWriter, "nothing is set, in the environment or in %s\n", file.Path)
			return nil
		}
	}
	if c.Bool("json") {
		return jsonLines(c.App.Writer, lines)
	}
	rows := newTable(c.App.Writer, "command", "flag", "value", "from")
	for _, l := range lines {
		rows.AppendRow(table.Row{l.Command, l.Flag, l.Value, l.From})
	}
	rows.Render()
	return nil
}

const fromDefault = "default"

// effective is what a command's flags would be if nothing was typed.
func effective(c *cli.Context, file settings.File, command *cli.Command) (lines []configLine, err error) {
	set := flag.NewFlagSet(command.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range command.Flags {
		if err := f.Apply(set); err != nil {
			return nil, flagError("fedattn "+command.Name, command.Flags, err)
		}
	}
	own := cli.NewContext(c.App, set, nil)
	own.Command = command
	origins, err := applySettings(own, file, command.Name, command.Flags)
	if err != nil {
		return nil, err
	}
	for _, f := range command.Flags {
		name := f.Names()[0]
		d, ok := f.(cli.DocGenerationFlag)
		if !ok || name == "config" || f == cli.HelpFlag {
			continue
		}
		l := configLine{Command: command.Name, Flag: name, Value: fmt.Sprint(own.Value(name)), From: origins[name]}
		if several, ok := f.(*cli.StringSliceFlag); ok {
			l.Value = strings.Join(own.StringSlice(several.Name), " ")
		}
		switch {
		case l.From != "":
		case own.IsSet(name):
			l.From = variable(f)
		default:
			l.From = fromDefault
			if text := d.GetDefaultText(); text != "" && text != strconv.Quote(l.Value) {
				l.Value = text
			}
		}
		lines = append(lines, l)
	}
	return lines, nil
}
