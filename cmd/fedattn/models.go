package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/models"
	"fedattn/models/hub"
)

func modelsCommand() *cli.Command {
	return &cli.Command{
		Name:        "models",
		Usage:       "list, verify and remove downloaded models, and recommend others",
		UsageText:   "fedattn models list|verify|rm",
		Description: "Models that fedattn pull, or another program with the same cache, brought.",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "models that are here, and those that are recommended",
				Description: "The memory of recommended models is that of weights and a cache of 2048 and of 8192 tokens.",
				Flags:       []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print one JSON object", DisableDefaultText: true}},
				Action:      listModels,
			},
			{
				Name: "verify", Usage: "compare models with the SHA-256 that they had on the hub", ArgsUsage: "[MODEL…]",
				Description: "Without a model all are compared. It fails if one is not what it was.",
				Action:      verifyModels,
			},
			{Name: "rm", Usage: "delete models", ArgsUsage: "MODEL…", Action: removeModels},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("there is no command %q; see fedattn models --help", c.Args().First())
			}
			return listModels(c)
		},
	}
}

// cachedJSON is a model that is here, as models list --json prints it.
type cachedJSON struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Files int    `json:"files"`
	Path  string `json:"path"`
}

func cachedModels() (hub.Cache, []hub.Cached, error) {
	cache, err := hub.CacheOf(os.Getenv)
	if err != nil {
		return cache, nil, err
	}
	list, err := cache.List()
	return cache, list, err
}

func listModels(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cache, list, err := cachedModels()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		here := []cachedJSON{}
		for _, m := range list {
			here = append(here, cachedJSON{m.Ref.String(), m.Size(), len(m.Files), m.Path})
		}
		out := json.NewEncoder(c.App.Writer)
		out.SetEscapeHTML(false)
		return out.Encode(map[string]any{"here": here, "recommended": models.Catalogue(), "available_bytes": models.Available()})
	}
	if len(list) == 0 {
		fmt.Fprintf(c.App.Writer, "no model is in %s\n\n", cache)
	} else {
		here := newTable(c.App.Writer, "here", "size", "files")
		for _, m := range list {
			here.AppendRow(table.Row{m.Ref, bytesText(m.Size()), len(m.Files)})
		}
		here.Render()
		fmt.Fprintln(c.App.Writer)
	}
	free := models.Available()
	t := newTable(c.App.Writer, "recommended", "size", "memory 2k", "memory 8k", "row bytes/token", "licence", "")
	for _, e := range models.Catalogue() {
		note := e.Note
		if free > 0 && e.Memory2kMB*1e6 > free {
			note = "more memory than is free here"
		}
		t.AppendRow(table.Row{e.Name, bytesText(e.SizeMB * 1e6), bytesText(e.Memory2kMB * 1e6), bytesText(e.Memory8kMB * 1e6), e.KVBytes, e.Licence, note})
	}
	t.Render()
	return nil
}

// namedModels are the models of the cache that the arguments name.
func namedModels(list []hub.Cached, names []string) ([]hub.Cached, error) {
	var found []hub.Cached
	for _, name := range names {
		want := name
		if ref, ok := models.Named(name); ok {
			want = ref.String()
		}
		before := len(found)
		for _, m := range list {
			if strings.EqualFold(m.Ref.String(), want) || strings.EqualFold(m.Ref.Repo, want) {
				found = append(found, m)
			}
		}
		if len(found) == before {
			return nil, fmt.Errorf("%s is not here; fedattn models list shows what is", name)
		}
	}
	return found, nil
}

func verifyModels(c *cli.Context) error {
	_, list, err := cachedModels()
	if err != nil {
		return err
	}
	if names := c.Args().Slice(); len(names) > 0 {
		if list, err = namedModels(list, names); err != nil {
			return err
		}
	}
	var wrong []string
	for _, m := range list {
		if err := models.Verify(c.Context, m); err != nil {
			if c.Context.Err() != nil {
				return c.Context.Err()
			}
			fmt.Fprintf(c.App.ErrWriter, "%s: %v\n", m.Ref, err)
			wrong = append(wrong, m.Ref.String())
			continue
		}
		fmt.Fprintf(c.App.Writer, "%s: as it was on the hub\n", m.Ref)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s not what it was: remove it with fedattn models rm and pull it anew", strings.Join(wrong, ", ")+" is")
	}
	return nil
}

func removeModels(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 0 {
		return usagef("no model is named: fedattn models rm MODEL…")
	}
	cache, list, err := cachedModels()
	if err != nil {
		return err
	}
	if list, err = namedModels(list, names); err != nil {
		return err
	}
	for _, m := range list {
		if err := cache.Remove(m); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "removed %s, %s in %s\n", m.Ref, bytesText(m.Size()), filepath.Dir(m.Path))
	}
	return nil
}
