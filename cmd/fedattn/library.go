package main

import (
	"context"
	"slices"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/documents"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/rowcache"
	"fedattn/llama"
)

// folders is a node's library, and what a change of it is told to.
type folders struct {
	*documents.Library
	contributor *node.Contributor
	rows        *rowcache.Cache
	log         zerolog.Logger
	told        map[string]bool // what was skipped
}

// readStdin reports whether standard input is a document.
func readStdin(c *cli.Context) bool { return slices.Contains(c.StringSlice("doc"), "-") }

// hasLibrary reports whether a node shares more than the files that --doc names.
func hasLibrary(c *cli.Context, r documents.Rules) bool {
	return len(c.StringSlice("docs"))+len(c.StringSlice("doc-cmd"))+len(r.Folders)+len(r.Commands)+len(r.Rules) > 0 || readStdin(c)
}

// openLibrary looks at everything once. Changes are told of when watch runs.
func openLibrary(c *cli.Context, engine *llama.Engine, rules documents.Rules, docs []node.Document, log zerolog.Logger) (*folders, error) {
	cfg := documents.Config{
		Device: deviceName(c), Folders: c.StringSlice("docs"), Rules: rules, TailLines: c.Int("tail"), Converter: converter(),
		Tokenize: engine.Tokenize, Texts: map[string]string{},
	}
	for _, d := range docs {
		cfg.Texts[d.Name] = d.Text
	}
	for _, run := range c.StringSlice("doc-cmd") {
		cfg.Commands = append(cfg.Commands, documents.Command{Run: run})
	}
	if readStdin(c) {
		cfg.Stdin = c.App.Reader
	}
	f := &folders{log: log, told: map[string]bool{}}
	cfg.Changed = f.changed
	var err error
	f.Library, err = documents.Open(c.Context, cfg)
	if err == nil {
		f.skipped(f.Skipped())
	}
	return f, err
}

// skipped logs what is left out, once.
func (f *folders) skipped(list []documents.Skipped) {
	for _, s := range list {
		if key := s.Path + "\n" + s.Reason; !f.told[key] {
			f.told[key] = true
			f.log.Warn().Str("path", s.Path).Str("reason", s.Reason).Msg("skipped")
		}
	}
}

// watch keeps to the folders and to the file of rules until the context ends.
func (f *folders) watch(ctx context.Context, dir string) {
	go documents.WatchRules(ctx, dir, func(r documents.Rules, err error) {
		if err == nil {
			err = f.SetRules(ctx, r)
		}
		if err != nil {
			f.log.Error().Err(err).Msg("the rules of documents cannot be used: those before stay in place")
			return
		}
		f.log.Info().Msg("the rules of documents are new")
	})
	f.Watch(ctx)
}

// changed erases rows of what is not shared any more as it was, and asks those who got them to forget them.
func (f *folders) changed(c documents.Change) {
	if f.contributor == nil {
		return // the first look
	}
	f.skipped(c.Skipped)
	if err := f.contributor.Retain(func(k rowcache.Key) bool { return f.Holds(k.IsOf) }); err != nil {
		f.log.Error().Err(err).Msg("computed rows")
	}
	if f.rows != nil {
		f.rows.Retain(func(k rowcache.Key) bool { return f.Holds(k.IsOf) })
	}
	told := 0
	if gone := append(slices.Clone(c.Changed), c.Gone...); len(gone) > 0 {
		told = f.contributor.Withdraw(context.Background(), func(name string) bool { return slices.Contains(gone, name) },
			"its owner has withdrawn or changed a document")
	}
	f.log.Info().Int("added", len(c.Added)).Int("changed", len(c.Changed)).Int("gone", len(c.Gone)).Int("asked_to_forget", told).Msg("documents changed")
}

// size is how many tokens all documents have: counted if they are few, else a guess from their bytes.
func (f *folders) size() (tokens int, err error) {
	const counted, perToken = 1 << 20, 4
	bytes := 0
	for _, d := range f.Documents() {
		bytes += d.Bytes
	}
	if bytes > counted {
		return bytes / perToken, nil
	}
	return f.Whole()
}

// compose lets the cache keep the rows of everything, if that fits: it is what a question without more texts than fit gets.
func (f *folders) compose(ctx context.Context, most int) {
	_, _ = f.View(nil, 0).Segment(ctx, fedkv.Plan{MaxTokens: most}) // what does not fit is composed when it is asked for
}
