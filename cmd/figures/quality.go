package main

import (
	"cmp"
	"fmt"
	"slices"
)

// What quantising the weights of Llama-3-8B costs, as llama.cpp publishes it: mean KL divergence from f16.
var weightQuantisation = []reference{{"q4_K_M weights of Llama-3-8B", 0.031}, {"q3_K_M weights of Llama-3-8B", 0.10}}

// qualityFigures are what a session costs in quality against what it costs in bytes and in waiting.
func qualityFigures(_ string, content []byte) ([]figure, error) {
	lines, err := decodeLines[evalLine](content)
	if err != nil {
		return nil, err
	}
	references := append(slices.Clone(weightQuantisation), localOnlyReference(lines)...)
	bytes := figure{
		name: "quality-bytes", title: "Quality against bytes", logY: true, references: references,
		x: "KiB that the publisher receives for each of the contributors' tokens", y: "mean KL divergence",
	}
	barriers := figure{
		name: "quality-barriers", title: "Quality against barriers", logY: true, wholeX: true, references: references,
		x: "waits for the network, one after another", y: "mean KL divergence",
	}
	for _, n := range counts(lines) {
		bytes.series = append(bytes.series, cloud(lines, n, func(l evalLine) float64 { return l.BytesPerToken / 1024 })...)
		barriers.series = append(barriers.series, cloud(lines, n, func(l evalLine) float64 { return float64(l.Barriers) })...)
	}
	return []figure{bytes, barriers}, nil
}

// counts are the numbers of participants that sessions were measured with, ascending.
func counts(lines []evalLine) []int {
	var out []int
	for _, l := range lines {
		if !l.centralised() && !l.localOnly() {
			out = append(out, l.Participants)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// cloud is the sessions of n participants, and their Pareto front.
func cloud(lines []evalLine, n int, cost func(evalLine) float64) []series {
	regimes := []series{{name: fmt.Sprintf("gather, N=%d", n)}, {name: fmt.Sprintf("lockstep, N=%d", n)}}
	var all []point
	for _, l := range lines {
		if l.Participants != n || l.centralised() || l.localOnly() {
			continue
		}
		p := point{x: cost(l), y: l.KL, label: l.Name}
		regime := 1
		if l.Contributors == "none" {
			regime = 0
		}
		regimes[regime].points = append(regimes[regime].points, p)
		p.label = ""
		all = append(all, p)
	}
	regimes = slices.DeleteFunc(regimes, func(s series) bool { return len(s.points) == 0 })
	return append(regimes, series{name: fmt.Sprintf("Pareto front, N=%d", n), points: front(all), steps: true, bare: true})
}

// front is the points that no other one beats: better for the same cost, or as good for less. By ascending cost.
func front(points []point) []point {
	sorted := slices.Clone(points)
	slices.SortStableFunc(sorted, func(a, b point) int { return cmp.Or(cmp.Compare(a.x, b.x), cmp.Compare(a.y, b.y)) })
	var out []point
	for _, p := range sorted {
		if len(out) == 0 || p.y < out[len(out)-1].y {
			out = append(out, p)
		}
	}
	return out
}
