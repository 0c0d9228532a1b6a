package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv/node"
	"fedattn/fedkv/node/rowcache"
	"fedattn/transport"
)

// rowMemory is how many bytes of computed rows a process keeps in memory.
const rowMemory = 256 << 20

func cacheDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "cache-dir", Usage: "keep computed rows in `FOLDER`", DefaultText: "the user's cache folder",
		EnvVars: []string{"FEDATTN_CACHE_DIR"}, Category: cacheCategory}
}

const cacheCategory = "Computed rows"

// rowFlags say what becomes of rows that were computed.
func rowFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "no-cache", Usage: "compute the rows of unchanged texts again for every question", DisableDefaultText: true,
			Category: cacheCategory},
		&cli.StringFlag{Name: "cache-size", Value: "1GiB", Usage: "keep at most `BYTES` of them on disk; 0 keeps them in memory only",
			Category: cacheCategory},
		cacheDirFlag(),
	}
}

// checkRows finds mistakes in rowFlags.
func checkRows(c *cli.Context) error {
	_, err := rowBytes(c)
	return err
}

func rowBytes(c *cli.Context) (int64, error) {
	if c.String("cache-size") == "0" {
		return 0, nil
	}
	n, err := parseBytes("cache-size", c.String("cache-size"))
	return int64(n), err
}

func rowFolder(c *cli.Context) string {
	if dir := c.String("cache-dir"); dir != "" {
		return dir
	}
	return cacheDir()
}

// openRows is where a device keeps computed rows, or nil with --no-cache; close ends it.
func openRows(c *cli.Context, id transport.ID, warn func(error)) (rows *rowcache.Cache, done func()) {
	if c.Bool("no-cache") {
		return nil, func() {}
	}
	disk, err := rowBytes(c)
	if err != nil { // checkRows has said so
		disk = 0
	}
	rows = rowcache.Open(rowcache.Config{
		Folder: rowFolder(c), Scope: id.Short(), Disk: disk, Memory: rowMemory, Warn: warn,
	})
	return rows, rows.Close
}

// kept is a cache as package node takes it: a nil one is none.
func kept(rows *rowcache.Cache) node.RowCache {
	if rows == nil {
		return nil
	}
	return rows
}

func cacheCommand() *cli.Command {
	return &cli.Command{
		Name:      "cache",
		Usage:     "list and erase the rows that were computed of this device's texts",
		UsageText: "fedattn cache list|clear",
		Description: "A device keeps the rows of its texts, so that a second question costs no more than sending them. Whoever has the\n" +
			"model can read the text out of them: the files are for their owner only, those of texts that a node does not share\n" +
			"any more are erased when it starts, and the least recently used go when --cache-size is reached.",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "what is kept, for which device",
				Flags:  []cli.Flag{cacheDirFlag(), &cli.BoolFlag{Name: "json", Usage: "print one JSON object", DisableDefaultText: true}},
				Action: listRows,
			},
			{Name: "clear", Usage: "erase all of it", Flags: []cli.Flag{cacheDirFlag()}, Action: clearRows},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("there is no command %q; see fedattn cache --help", c.Args().First())
			}
			return listRows(c)
		},
	}
}

// keptJSON is one file, as cache list --json prints it.
type keptJSON struct {
	Device string    `json:"device"`
	Rows   string    `json:"rows"`
	Bytes  int64     `json:"bytes"`
	Used   time.Time `json:"used"`
}

func listRows(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	folder := rowFolder(c)
	files, err := rowcache.List(folder)
	if err != nil {
		return fmt.Errorf("the cache cannot be read: %w; give its folder with --cache-dir", err)
	}
	all := struct {
		Folder string     `json:"folder"`
		Bytes  int64      `json:"bytes"`
		Kept   []keptJSON `json:"kept"`
	}{Folder: folder, Kept: []keptJSON{}}
	for _, f := range files {
		all.Bytes += f.Bytes
		all.Kept = append(all.Kept, keptJSON{f.Scope, filepath.Base(f.Path), f.Bytes, f.Used})
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(all)
	}
	if len(files) == 0 {
		fmt.Fprintln(c.App.ErrWriter, "no rows are kept")
		return nil
	}
	t := table.NewWriter()
	t.SetOutputMirror(c.App.Writer)
	t.AppendHeader(table.Row{"device", "rows", "size", "last used"})
	for _, k := range all.Kept {
		t.AppendRow(table.Row{k.Device, k.Rows[:16], fmt.Sprintf("%.1f MB", float64(k.Bytes)/1e6), k.Used.Format(time.DateTime)})
	}
	t.SetStyle(table.StyleLight)
	t.Render()
	return nil
}

func clearRows(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	files, size, err := rowcache.Clear(rowFolder(c))
	if err != nil {
		return fmt.Errorf("the rows cannot be erased: %w; delete the folder rows in %s yourself", err, rowFolder(c))
	}
	fmt.Fprintf(c.App.ErrWriter, "erased %d files, %.1f MB\n", files, float64(size)/1e6)
	return nil
}
