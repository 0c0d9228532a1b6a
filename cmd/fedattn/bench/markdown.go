package bench

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"fedattn/fedkv/measure"
)

// column of the table: llama-bench's come first, and those that nothing is known of are left out.
type column struct {
	title string
	width int // as llama-bench has it; negative: text, which begins at the left
	cell  func(*Row) string
}

var columns = []column{
	{"model", -30, func(r *Row) string { return r.Subject.modelName() }},
	{"size", 10, func(r *Row) string { return sizeText(r.Subject.ModelSize) }},
	{"params", 10, func(r *Row) string { return paramsText(r.Subject.Parameters) }},
	{"backend", -10, func(r *Row) string { return r.Backend }},
	{"threads", 7, func(r *Row) string { return fmt.Sprint(r.Subject.Threads) }},
	{"program", -13, func(r *Row) string {
		if r.Program == Own {
			return ""
		}
		return string(r.Program)
	}},
	{"test", 15, func(r *Row) string { return r.Name() }},
	{"nodes", 5, func(r *Row) string {
		if r.Nodes == 0 {
			return ""
		}
		return fmt.Sprint(r.Nodes)
	}},
	{"schedule", -8, func(r *Row) string { return r.Schedule }},
	{"rows", -4, func(r *Row) string { return r.Kept }},
	{"link", -11, func(r *Row) string { return r.Link }},
	{"t/s", 20, func(r *Row) string {
		rates := r.each(Sample.Rate)
		mean, _ := measure.MeanSE(rates)
		return fmt.Sprintf("%.2f ± %.2f", mean, measure.Stdev(rates))
	}},
	{"TTFT ms", 10, func(r *Row) string { return figure("%.0f", r.mean(func(s Sample) float64 { return s.TTFTMS })) }},
	{"predicted", 9, func(r *Row) string { return figure("%.0f", r.PredictedMS) }},
	{"wait ms", 8, func(r *Row) string { return figure("%.0f", r.mean(func(s Sample) float64 { return s.WaitMS })) }},
	{"sync ms", 8, func(r *Row) string { return figure("%.1f", r.mean(func(s Sample) float64 { return s.SyncMS })) }},
	{"received", 10, func(r *Row) string {
		bytes := r.mean(func(s Sample) float64 { return float64(s.Bytes) })
		if bytes == 0 {
			return ""
		}
		return sizeText(int64(bytes))
	}},
	{"J/token", 8, func(r *Row) string { return figure("%.3f", r.joulesPerToken()) }},
	{"x one device", 20, func(r *Row) string {
		if len(r.Speedups) == 0 {
			return ""
		}
		low, high := measure.Interval(r.Speedups)
		return fmt.Sprintf("%.3f (%.3f-%.3f)", measure.Median(r.Speedups), low, high)
	}},
}

// always are the columns that are there whatever is in them.
var always = []string{"model", "size", "params", "backend", "threads", "test", "t/s"}

func figure(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

func sizeText(bytes int64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%.2f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(bytes)/(1<<30))
}

func paramsText(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.2f M", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f B", float64(n)/1e9)
}

// markdown is the table for people, and under it what its last column is.
func markdown(out *sink, rows []*Row) {
	if len(rows) == 0 {
		return
	}
	shown := slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
		return !slices.Contains(always, c.title) && !slices.ContainsFunc(rows, func(r *Row) bool { return c.cell(r) != "" })
	})
	line := func(cell func(c column) string) {
		for _, c := range shown {
			text := cell(c)
			space := strings.Repeat(" ", max(0, c.size()-utf8.RuneCountInString(text)))
			if c.width < 0 {
				text += space
			} else {
				text = space + text
			}
			out.printf("| %s ", text)
		}
		out.printf("|\n")
	}
	line(func(c column) string { return c.title })
	line(func(c column) string {
		dashes := strings.Repeat("-", c.size()-1)
		if c.width < 0 {
			return dashes + "-"
		}
		return dashes + ":"
	})
	for _, r := range rows {
		line(func(c column) string { return c.cell(r) })
	}
	out.printf("\nbuild: %s (0)\n", rows[0].Subject.Build)
	if i := slices.IndexFunc(rows, func(r *Row) bool { return len(r.Speedups) > 0 }); i >= 0 {
		n := len(rows[i].Speedups)
		what := "least and largest"
		if n >= 5 {
			what = "95 % by bootstrap"
		}
		out.printf("x one device: median of %d ratios to the same tokens on one device in the same turn (%s)\n", n, what)
	}
	if shares := predictionErrors(rows); len(shares) > 0 {
		out.printf("predicted: median error %.1f %% of %d tests\n", 100*measure.Median(shares), len(shares))
	}
}

func (c column) size() int { return max(c.width, -c.width) }
