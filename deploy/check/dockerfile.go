package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// dockerfile parses a Dockerfile whose context is its own folder, and holds its last stage, the image, to what
// docs/docker.md promises.
func dockerfile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	parsed, err := parser.Parse(f)
	if err != nil {
		return "", err
	}
	var found []error
	lint := linter.New(&linter.Config{Warn: func(rule, description, _, message string, at []parser.Range) {
		line := 0
		if len(at) > 0 {
			line = at[0].Start.Line
		}
		found = append(found, fmt.Errorf("line %d: %s (%s)", line, message, rule))
	}})
	stages, args, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		return "", err
	}
	for _, w := range parsed.Warnings {
		found = append(found, errors.New(w.Short))
	}
	for _, stage := range stages {
		found = append(found, sources(stage, filepath.Dir(file))...)
		if name, ok := strings.CutPrefix(stage.BaseName, "$"); ok && !declared(args, strings.Trim(name, "{}")) {
			found = append(found, fmt.Errorf("FROM %s: no ARG above says what that is if nothing is given", stage.BaseName))
		} else if !ok {
			found = append(found, fmt.Errorf("FROM %s: the name has to be an ARG, so that it can be one with a digest or of another registry", stage.BaseName))
		}
	}
	found = append(found, promises(stages[len(stages)-1])...)
	return fmt.Sprintf("%d stages", len(stages)), errors.Join(found...)
}

// declared says whether one of the arguments above the first stage has a name and a value.
func declared(args []instructions.ArgCommand, name string) bool {
	for _, arg := range args {
		for _, a := range arg.Args {
			if a.Key == name && a.Value != nil {
				return true
			}
		}
	}
	return false
}

// sources have to be there.
func sources(stage instructions.Stage, context string) (missing []error) {
	for _, command := range stage.Commands {
		copied, ok := command.(*instructions.CopyCommand)
		if !ok || copied.From != "" {
			continue
		}
		for _, source := range copied.SourcePaths {
			if _, err := os.Stat(filepath.Join(context, source)); err != nil {
				missing = append(missing, fmt.Errorf("COPY %s: %w", source, err))
			}
		}
	}
	return missing
}

var (
	otherThanRoot = regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`)
	labelsWanted  = []string{"title", "description", "licenses", "version", "base.name"}
)

// promises are what an image has whoever starts it: nobody is root, a signal ends it, others can ask how it is, and what
// it keeps is in volumes.
func promises(image instructions.Stage) (broken []error) {
	var user, signal string
	var volumes, labels []string
	var health, entry []string
	for _, command := range image.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.StopSignalCommand:
			signal = c.Signal
		case *instructions.VolumeCommand:
			volumes = c.Volumes
		case *instructions.HealthCheckCommand:
			health = c.Health.Test
		case *instructions.EntrypointCommand:
			if !c.PrependShell {
				entry = c.CmdLine
			}
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				labels = append(labels, l.Key)
			}
		case *instructions.RunCommand:
			broken = append(broken, fmt.Errorf("%s: nothing may run in the last stage, which may be for another architecture", c))
		}
	}
	hold := func(kept bool, format string, a ...any) {
		if !kept {
			broken = append(broken, fmt.Errorf(format, a...))
		}
	}
	hold(otherThanRoot.MatchString(user), "USER %q: it has to be two numbers other than 0, which need no list of users", user)
	hold(signal == "SIGTERM", "STOPSIGNAL %q: a node ends in order on SIGTERM", signal)
	hold(slices.Equal(volumes, []string{"/models", "/config"}), "VOLUME %q: there have to be /models and /config", volumes)
	hold(slices.Equal(health, []string{"CMD", "fedattn", "health"}), "HEALTHCHECK %q: it has to be fedattn health, without a shell", health)
	hold(slices.Equal(entry, []string{"fedattn"}), "ENTRYPOINT %q: it has to be fedattn itself, or it would not see signals", entry)
	for _, label := range labelsWanted {
		hold(slices.Contains(labels, "org.opencontainers.image."+label), "no LABEL org.opencontainers.image.%s", label)
	}
	return broken
}
