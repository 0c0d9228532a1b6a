package main

import (
	"cmp"
	"fmt"
	"slices"

	"fedattn/fedkv"
)

// intervalFigures are the paper's two knobs: the sync interval H and the number of participants N.
func intervalFigures(_ string, content []byte) ([]figure, error) {
	lines, err := decodeLines[evalLine](content)
	if err != nil {
		return nil, err
	}
	byH := figure{
		name: "kl-interval", title: "Quality against the sync interval", logY: true, wholeX: true,
		x: "H: a sync layer after every H-1 local layers", y: "mean KL divergence", references: localOnlyReference(lines),
	}
	byN := figure{
		name: "kl-participants", title: "Quality against the number of participants", logY: true, wholeX: true,
		x: "N participants, the publisher included", y: "mean KL divergence", references: localOnlyReference(lines),
	}
	hs := map[int]bool{}
	for _, n := range counts(lines) {
		s := series{name: fmt.Sprintf("N=%d", n), line: true}
		for _, l := range lines {
			if h, ok := interval(l); ok && l.Participants == n {
				s.points = append(s.points, point{x: float64(h), y: l.KL})
				hs[h] = true
			}
			if isGather(l) && l.Participants == n {
				byH.references = append(byH.references, reference{fmt.Sprintf("gather, N=%d", n), l.KL})
			}
		}
		byH.series = append(byH.series, sorted(s))
	}
	for h := range fedkv.MaxLayers + 1 {
		if hs[h] {
			byN.series = append(byN.series, against(lines, fmt.Sprintf("H=%d", h), func(l evalLine) bool {
				got, ok := interval(l)
				return ok && got == h
			}))
		}
	}
	byN.series = append(byN.series, against(lines, "gather", isGather))
	return []figure{byH, byN}, nil
}

// against is the KL of some lines by number of participants.
func against(lines []evalLine, name string, belongs func(evalLine) bool) series {
	s := series{name: name, line: true}
	for _, l := range lines {
		if belongs(l) {
			s.points = append(s.points, point{x: float64(l.Participants), y: l.KL})
		}
	}
	return sorted(s)
}

func sorted(s series) series {
	slices.SortStableFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	return s
}

func isGather(l evalLine) bool { return l.Contributors == "none" && l.Publisher == "all" }

// interval is the H of a session in which all devices have the same schedule, and that is tail=H for some H.
func interval(l evalLine) (h int, ok bool) {
	if l.Contributors != l.Publisher || l.centralised() {
		return 0, false
	}
	s, err := fedkv.ParseSchedule(l.Publisher, fedkv.MaxLayers)
	if err != nil || s.Count() == 0 {
		return 0, false
	}
	layers := s.Layers()
	h = layers[0] + 1
	for i, layer := range layers {
		if layer != (i+1)*h-1 {
			return 0, false
		}
	}
	return h, true
}
