package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// usageError is a mistake in the command line: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// What package flag and urfave/cli say of flags that they cannot take.
var (
	undefinedFlag = regexp.MustCompile(`^flag provided but not defined: -(.*)$`)
	bareFlag      = regexp.MustCompile(`^flag needs an argument: -(.*)$`)
	wrongFlag     = regexp.MustCompile(`^invalid value "(.*)" for flag -([^:]*): `)
	wrongSwitch   = regexp.MustCompile(`^invalid boolean value "(.*)" for -([^:]*): `)
	wrongVariable = regexp.MustCompile(`^could not parse "(.*)" as .* from environment variable "(.*)" for flag ([^:]*): `)
)

// flagError words a mistake in the flags of a command; err is package flag's or urfave/cli's.
func flagError(command string, flags []cli.Flag, err error) error {
	text := err.Error()
	if m := undefinedFlag.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("there is no flag %s", dashed(m[1]))
	} else if m := bareFlag.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("%s needs a value", dashed(m[1]))
	} else if m := wrongFlag.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("%s %q is not %s", dashed(m[2]), m[1], valueOf(flags, m[2]))
	} else if m := wrongSwitch.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("%s is a switch and takes no value such as %q", dashed(m[2]), m[1])
	} else if m := wrongVariable.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("%s=%q in the environment is not %s", m[2], m[1], valueOf(flags, m[3]))
	}
	return usagef("%s; see %s --help", text, command)
}

// dashed is a flag as people write it.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + strings.TrimPrefix(name, "-")
}

// valueOf says what kind of value a flag takes.
func valueOf(flags []cli.Flag, name string) string {
	for _, f := range flags {
		if !slices.Contains(f.Names(), name) {
			continue
		}
		switch f.(type) {
		case *cli.IntFlag:
			return "a whole number"
		case *cli.Float64Flag:
			return "a number"
		case *cli.DurationFlag:
			return "a time such as 30s or 5m"
		}
	}
	return "a value that it takes"
}

// rawArguments is the key of the whole command line in the app's metadata.
const rawArguments = "arguments"

var flagLike = regexp.MustCompile(`^--?[A-Za-z][A-Za-z0-9-]*(=|$)`)

// words returns the arguments of a command. What looks like a flag among them is a mistake: urfave/cli reads no flags
// behind the first argument. A -- says that what follows is meant as it is.
func words(c *cli.Context, what string) ([]string, error) {
	args := c.Args().Slice()
	all, _ := c.App.Metadata[rawArguments].([]string)
	if before := len(all) - len(args) - 1; before >= 0 && all[before] == "--" {
		return args, nil
	}
	for i, a := range args {
		if a == "--" {
			return slices.Delete(args, i, i+1), nil
		}
		if flag, _, _ := strings.Cut(a, "="); flagLike.MatchString(a) {
			return nil, usagef("%s stands after the %s: flags come before it (a -- before the %s lets it be part of it)", flag, what, what)
		}
	}
	return args, nil
}

// noArguments refuses words that no flag takes.
func noArguments(c *cli.Context) error {
	if !c.Args().Present() {
		return nil
	}
	hint := ""
	if takesFiles := slices.ContainsFunc(c.Command.Flags, func(f cli.Flag) bool { return f.Names()[0] == "doc" }); takesFiles {
		hint = "; write --doc before each file"
	}
	return usagef("unexpected argument %q%s; see fedattn %s --help", c.Args().First(), hint, c.Command.Name)
}

// atLeast refuses numbers below a flag's least.
func atLeast(c *cli.Context, least int, names ...string) error {
	for _, name := range names {
		if n := c.Int(name); n < least {
			return usagef("--%s %d: must be at least %d", name, n, least)
		}
	}
	return nil
}

// between refuses numbers outside of [least, most].
func between(c *cli.Context, least, most float64, names ...string) error {
	for _, name := range names {
		if v := c.Float64(name); !(v >= least && v <= most) { // NaN is neither
			return usagef("--%s %v: must be between %v and %v", name, v, least, most)
		}
	}
	return nil
}

// first is the first of several mistakes: one at a time is told.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// chosen returns the value that a flag names among others.
func chosen[T any](c *cli.Context, name string, values map[string]T) (T, error) {
	v, ok := values[c.String(name)]
	if !ok {
		var known []string
		for k := range values {
			known = append(known, k)
		}
		slices.Sort(known)
		return v, usagef("--%s %q is unknown; known are %s", name, c.String(name), strings.Join(known, ", "))
	}
	return v, nil
}
