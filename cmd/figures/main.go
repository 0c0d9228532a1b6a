// Command figures draws docs/figures from the measurements in docs/figures/data, and beside each figure the points in
// it as CSV, and of the profiles that come with the program how much each layer matters. The same data give the same
// bytes.
//
//	figures [FOLDER]          docs/figures by default
//	figures -bench FOLDER     what fedattn bench --results left in a folder, into that folder
//
// What it reads is what fedattn writes: quality.jsonl and intervals.jsonl by `eval --format jsonl`, errors.jsonl by
// `analyze --format jsonl`, inversion.jsonl by `audit --format jsonl`, bench.jsonl by `bench -o jsonl`, the profiles by
// `calibrate`. Data that are not there have no figures. docs/benchmarks.md has the commands. Start reading at sources.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// profiles is the folder of those that come with the program.
var profiles = filepath.Join("fedkv", "profile", "calibrated")

func main() {
	folder := filepath.Join("docs", "figures")
	draw := run
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "-bench":
		draw, folder = drawBench, args[1]
	case len(args) > 0:
		folder = args[0]
	}
	if err := draw(folder); err != nil {
		fmt.Fprintf(os.Stderr, "figures: %v\n", err)
		os.Exit(1)
	}
}

// run writes every figure whose data are in folder/data or are profiles.
func run(folder string) error {
	files, err := drawAll(os.DirFS(filepath.Join(folder, "data")), os.DirFS(profiles))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(folder, f.name), f.content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sources say which figures are drawn from which files, of the measurements or of the profiles.
var sources = []struct {
	pattern  string
	profiles bool
	figures  func(name string, content []byte) ([]figure, error)
}{
	{"quality.jsonl", false, qualityFigures},
	{"intervals.jsonl", false, intervalFigures},
	{"errors.jsonl", false, errorFigures},
	{"bench.jsonl", false, benchFigures},
	{"simulation.jsonl", false, simulationFigures},
	{"inversion.jsonl", false, inversionFigures},
	{"*.json", true, importanceFigures},
}

// file is something that was drawn.
type file struct {
	name    string
	content []byte
}

// drawAll makes all figures that there are data for.
func drawAll(data, calibrated fs.FS) ([]file, error) {
	var out []file
	for _, s := range sources {
		from := data
		if s.profiles {
			from = calibrated
		}
		names, err := fs.Glob(from, s.pattern)
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		for _, name := range names {
			content, err := fs.ReadFile(from, name)
			if err != nil {
				return nil, err
			}
			figures, err := s.figures(name, content)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			for _, f := range figures {
				svg, err := f.svg()
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", name, f.name, err)
				}
				out = append(out, file{f.name + ".svg", svg}, file{f.name + ".csv", f.csv()})
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there are no measurements to draw; docs/benchmarks.md says how to make them")
	}
	return out, nil
}
