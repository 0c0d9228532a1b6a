package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/documents"
)

func docsCommand() *cli.Command {
	return &cli.Command{
		Name:      "docs",
		Usage:     "say which folders, commands and documents this device's node shares, and on which terms",
		UsageText: "fedattn docs [list|add|rm|policy] [flags]",
		Description: "What is said is kept in " + documents.RulesFile + " in the directory of --config. Running nodes keep to it from then on.\n" +
			"A document's policy is rows (rows of it may be sent), home (only where rows stay home) or refuse (to nobody).",
		Flags:  docsListFlags(),
		Action: runDocsList,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "show every document, and what was skipped and why", UsageText: "fedattn docs list [flags]",
				Flags: docsListFlags(), Action: runDocsList,
			},
			{
				Name: "add", Usage: "share folders, or what a command prints", UsageText: "fedattn docs add [flags] DIR...",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "command", Usage: "share what `COMMAND` prints, anew for each question"},
					&cli.StringFlag{Name: "as", Usage: "`NAME` of the command's document", DefaultText: "the command"},
					configFlag(),
				},
				Action: runDocsAdd,
			},
			{
				Name: "rm", Usage: "share a folder or command no more, or drop a rule", UsageText: "fedattn docs rm [flags] DIR|NAME|PATTERN",
				Flags: []cli.Flag{configFlag()}, Action: runDocsRm,
			},
			{
				Name: "policy", Usage: "set the terms of documents: rows, home or refuse", UsageText: "fedattn docs policy [flags] PATTERN [POLICY]",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "tokens", Usage: "at most `N` tokens of each in one question", DefaultText: "no limit"},
					&cli.BoolFlag{Name: "pin", Usage: "they come first where not all documents fit", DisableDefaultText: true},
					configFlag(),
				},
				Action: runDocsPolicy,
			},
			{Name: "text", Hidden: true, Usage: "print the text of a PDF file on standard input", Action: runDocsText},
		},
	}
}

func docsListFlags() []cli.Flag {
	return []cli.Flag{
		docsFlag(""),
		&cli.BoolFlag{Name: "json", Usage: "one JSON object: documents, skipped", DisableDefaultText: true},
		configFlag(),
	}
}

func docsFlag(category string) cli.Flag {
	return &cli.StringSliceFlag{Name: "docs", Usage: "`DIR` of texts, Markdown, HTML, PDF, CSV, code and logs, and what is below it", Category: category}
}

// converter is this program, as it turns a PDF into text.
func converter() []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, "docs", "text"}
}

func runDocsList(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	rules, _, err := readRules(c)
	if err != nil {
		return err
	}
	library, err := documents.Open(c.Context, documents.Config{Folders: c.StringSlice("docs"), Rules: rules, Converter: converter()})
	if err != nil {
		return err
	}
	defer library.Close()
	docs, skipped := library.Documents(), library.Skipped()
	if c.Bool("json") {
		out := json.NewEncoder(c.App.Writer)
		out.SetEscapeHTML(false)
		return out.Encode(struct {
			Documents []documents.Document `json:"documents"`
			Skipped   []documents.Skipped  `json:"skipped"`
		}{slices.Concat([]documents.Document{}, docs), slices.Concat([]documents.Skipped{}, skipped)})
	}
	rows := newTable(c.App.Writer, "document", "policy", "bytes", "changed", "")
	for _, d := range docs {
		rows.AppendRow(table.Row{d.Name, d.Policy, d.Bytes, changedText(d), termsText(d)})
	}
	if len(docs) > 0 {
		rows.Render()
	} else {
		fmt.Fprintln(c.App.ErrWriter, "no documents: fedattn docs add DIR shares a folder")
	}
	for _, s := range skipped {
		fmt.Fprintf(c.App.ErrWriter, "skipped %s: %s\n", s.Path, s.Reason)
	}
	return nil
}

func changedText(d documents.Document) string {
	if d.Live {
		return "live"
	}
	if d.Modified.IsZero() {
		return ""
	}
	return d.Modified.Local().Format(time.DateOnly)
}

func termsText(d documents.Document) (text string) {
	if d.Tokens > 0 {
		text = fmt.Sprintf("at most %s", count(d.Tokens, "token"))
	}
	if d.Pinned {
		if text != "" {
			text += ", "
		}
		text += "pinned"
	}
	return text
}

// readRules is what was said, and where it is kept.
func readRules(c *cli.Context) (r documents.Rules, dir string, err error) {
	if dir, err = configDir(c); err != nil {
		return r, "", err
	}
	r, err = documents.ReadRules(dir)
	return r, dir, err
}

// writeRules keeps rules.
func writeRules(r documents.Rules, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return r.Write(dir)
}

func runDocsAdd(c *cli.Context) error {
	dirs, err := words(c, "folder")
	if err != nil {
		return err
	}
	command := c.String("command")
	switch {
	case len(dirs) == 0 && command == "":
		return usagef("nothing to share: fedattn docs add DIR, or --command COMMAND")
	case command == "" && c.String("as") != "":
		return usagef("--as names what a --command prints: give one")
	}
	r, dir, err := readRules(c)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		abs, err := filepath.Abs(d)
		if err != nil {
			return err
		}
		if info, err := os.Stat(abs); err != nil || !info.IsDir() {
			return fmt.Errorf("no such folder: %s; give an existing one", d)
		}
		if !slices.Contains(r.Folders, abs) {
			r.Folders = append(r.Folders, abs)
		}
	}
	if command != "" {
		added := documents.Command{Name: c.String("as"), Run: command}
		r.Commands = append(slices.DeleteFunc(r.Commands, func(old documents.Command) bool { return old.Run == command }), added)
	}
	return writeRules(r, dir)
}

func runDocsRm(c *cli.Context) error {
	args, err := words(c, "name")
	if err != nil {
		return err
	}
	if len(args) != 1 {
		return usagef("fedattn docs rm DIR|NAME|PATTERN: name one thing")
	}
	r, dir, err := readRules(c)
	if err != nil {
		return err
	}
	what := args[0]
	abs, err := filepath.Abs(what)
	if err != nil {
		return err
	}
	before := len(r.Folders) + len(r.Commands) + len(r.Rules)
	r.Folders = slices.DeleteFunc(r.Folders, func(f string) bool { return f == what || f == abs })
	r.Commands = slices.DeleteFunc(r.Commands, func(d documents.Command) bool { return d.Name == what || d.Run == what })
	r.Rules = slices.DeleteFunc(r.Rules, func(rule documents.Rule) bool { return rule.Match == what })
	if len(r.Folders)+len(r.Commands)+len(r.Rules) == before {
		return fmt.Errorf("there is no folder, command or rule %q; to keep one document back: fedattn docs policy %q refuse", what, what)
	}
	return writeRules(r, dir)
}

func runDocsPolicy(c *cli.Context) error {
	args, err := words(c, "pattern")
	if err != nil {
		return err
	}
	if len(args) < 1 || len(args) > 2 || len(args) == 1 && !c.IsSet("tokens") && !c.IsSet("pin") {
		return usagef("fedattn docs policy [--tokens N] [--pin] PATTERN rows|home|refuse")
	}
	if err := atLeast(c, 0, "tokens"); err != nil {
		return err
	}
	rule := documents.Rule{Match: args[0], Tokens: c.Int("tokens")}
	if len(args) == 2 {
		if rule.Policy, err = documents.ParsePolicy(args[1]); err != nil {
			return usagef("%v", err)
		}
	}
	if c.IsSet("pin") {
		pin := c.Bool("pin")
		rule.Pin = &pin
	}
	r, dir, err := readRules(c)
	if err != nil {
		return err
	}
	r.Set(rule)
	return writeRules(r, dir)
}

// runDocsText is what another process of this program runs for a PDF: see documents.ConvertPDF.
func runDocsText(c *cli.Context) error {
	return documents.ConvertPDF(c.App.Reader, c.App.Writer, os.Exit)
}
