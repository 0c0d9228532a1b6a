package main

import (
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
)

// logLevels are the values of --log-level.
var logLevels = map[string]zerolog.Level{
	"debug": zerolog.DebugLevel, "info": zerolog.InfoLevel, "warn": zerolog.WarnLevel, "error": zerolog.ErrorLevel, "off": zerolog.Disabled,
}

// logFlags say what is logged on stderr and how. usual is the level without them, for people.
func logFlags(usual, category string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-level", Usage: "log on stderr what has at least this `LEVEL`: debug, info, warn, error, off", DefaultText: usual, Category: category},
		&cli.StringFlag{Name: "log-format", Value: "console", Usage: "`FORMAT` of the log: console, json", Category: category},
	}
}

// verboseLog is the usual level of commands that say themselves what matters.
const verboseLog = "off, or debug with --verbose"

// checkLog finds mistakes in the values of logFlags.
func checkLog(c *cli.Context) error {
	_, err := chosen(c, "log-format", map[string]bool{"console": true, "json": true})
	if err != nil || c.String("log-level") == "" {
		return err
	}
	_, err = chosen(c, "log-level", logLevels)
	return err
}

// newLogger is the log that logFlags ask for, which checkLog has seen, and of the usual level if they name none.
func newLogger(c *cli.Context, usual zerolog.Level) zerolog.Logger {
	level, named := logLevels[c.String("log-level")]
	if !named {
		level = usual
	}
	if level == zerolog.Disabled {
		return zerolog.Nop()
	}
	log := zerolog.New(c.App.ErrWriter)
	if c.String("log-format") != "json" {
		log = zerolog.New(zerolog.ConsoleWriter{Out: c.App.ErrWriter, NoColor: !colour(c.App.ErrWriter), TimeFormat: "15:04:05"})
	}
	return log.Level(level).With().Timestamp().Logger()
}

// sessionLog is the log of a command that has --verbose.
func sessionLog(c *cli.Context) zerolog.Logger {
	if c.Bool("verbose") {
		return newLogger(c, zerolog.DebugLevel)
	}
	return newLogger(c, zerolog.Disabled)
}
