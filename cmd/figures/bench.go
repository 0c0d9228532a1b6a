package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// benchLine is what the figures need of a line of fedattn bench's raw.jsonl.
type benchLine struct {
	Program  string  `json:"program"`
	Prompt   int     `json:"n_prompt"`
	Generate int     `json:"n_gen"`
	Depth    int     `json:"n_depth"`
	Nodes    int     `json:"n_nodes"` // 0: one device alone
	Schedule string  `json:"schedule"`
	Kept     string  `json:"kept"`
	Link     string  `json:"link"`
	TTFT     float64 `json:"ttft_ms"`
	Speedup  float64 `json:"speedup"`
}

// who computes, in a few words.
func (l benchLine) who() string {
	switch {
	case l.Nodes == 0:
		return "one device"
	case l.Schedule == "":
		return fmt.Sprintf("%s, N=%d", l.Program, l.Nodes)
	case l.Kept == "":
		return fmt.Sprintf("%s, N=%d", l.Schedule, l.Nodes)
	}
	return fmt.Sprintf("%s, N=%d, %s", l.Schedule, l.Nodes, l.Kept)
}

// drawBench draws the figures of a folder of results into it.
func drawBench(folder string) error {
	content, err := os.ReadFile(filepath.Join(folder, "raw.jsonl"))
	if err != nil {
		return err
	}
	figures, err := benchFigures("raw.jsonl", content)
	if err != nil {
		return err
	}
	for _, f := range figures {
		svg, err := f.svg()
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for extension, content := range map[string][]byte{".svg": svg, ".csv": f.csv()} {
			if err := os.WriteFile(filepath.Join(folder, f.name+extension), content, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// benchFigures are, for each link, times to the first token, and how many times as fast as on one device all is.
func benchFigures(_ string, content []byte) ([]figure, error) {
	lines, err := decodeLines[benchLine](content)
	if err != nil {
		return nil, err
	}
	var links []string
	for _, l := range lines {
		if l.Link != "" && !slices.Contains(links, l.Link) {
			links = append(links, l.Link)
		}
	}
	var out []figure
	for _, link := range links {
		name := strings.NewReplacer("/", "-", "%", "").Replace(link)
		at := slices.DeleteFunc(slices.Clone(lines), func(l benchLine) bool { return l.Link != link && l.Nodes != 0 })
		out = append(out, drawable(figure{
			name: "ttft-" + name, title: "Time to the first token, " + link, x: "tokens of the prompt", y: "seconds", wholeX: true,
			series: byWho(at, func(l benchLine) (x, y float64) {
				if l.Depth > 0 || l.Generate > 0 {
					return 0, 0
				}
				return float64(l.Prompt), l.TTFT / 1000
			}),
		})...)
		one := []reference{{"one device", 1}}
		out = append(out, drawable(figure{
			name: "prompt-" + name, title: "Time to the first token against one device, " + link, x: "tokens of the prompt",
			y: "times as fast", wholeX: true, references: one, logY: true,
			series: byWho(at, func(l benchLine) (x, y float64) { return float64(l.Prompt), l.Speedup * float64(min(l.Nodes, 1)) }),
		})...)
		out = append(out, drawable(figure{
			name: "answer-" + name, title: "Tokens of an answer against one device, " + link, x: "tokens before the answer",
			y: "times as fast", wholeX: true, references: one,
			series: byWho(at, func(l benchLine) (x, y float64) {
				if l.Prompt > 0 {
					return 0, 0
				}
				return float64(l.Depth), l.Speedup * float64(min(l.Nodes, 1))
			}),
		})...)
	}
	return out, nil
}

// drawable is a figure that has points, or none.
func drawable(f figure) []figure {
	if len(f.series) == 0 {
		return nil
	}
	return []figure{f}
}

// byWho is a series for everybody who computed. Points at 0 are left out.
func byWho(lines []benchLine, at func(benchLine) (x, y float64)) (out []series) {
	for _, l := range lines {
		x, y := at(l)
		if x <= 0 || y <= 0 {
			continue
		}
		i := slices.IndexFunc(out, func(s series) bool { return s.name == l.who() })
		if i < 0 {
			i, out = len(out), append(out, series{name: l.who(), line: true})
		}
		out[i].points = append(out[i].points, point{x: x, y: y})
	}
	for _, s := range out {
		slices.SortStableFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	return out
}
