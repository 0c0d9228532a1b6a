package main

import (
	"cmp"
	"fmt"
	"slices"
)

// auditLine is what the figure needs of a line of `fedattn audit --format jsonl`.
type auditLine struct {
	Attack string  `json:"attack"`
	Layer  int     `json:"layer"`
	WireK  string  `json:"wire_k"`
	WireV  string  `json:"wire_v"`
	Rows   string  `json:"rows"`
	Tokens int     `json:"tokens"`
	Share  float64 `json:"recovered_share"`
}

// inversionFigures are how much of a text comes back out of its rows, by the layer that they are of.
func inversionFigures(_ string, content []byte) ([]figure, error) {
	lines, err := decodeLines[auditLine](content)
	if err != nil {
		return nil, err
	}
	f := figure{
		name: "inversion", title: fmt.Sprintf("What a peer with the same model reads out of one layer's rows, %d tokens", lines[0].Tokens),
		x: "layer", y: "tokens recovered, %", wholeX: true,
	}
	for _, l := range lines {
		if l.Attack == "guess" {
			f.references = append(f.references, reference{"no rows: the model's guess", 100 * l.Share})
			continue
		}
		name := fmt.Sprintf("%s, %s/%s", l.Attack, l.WireK, l.WireV)
		if l.Rows != "all" {
			name += ", " + l.Rows
		}
		i := slices.IndexFunc(f.series, func(s series) bool { return s.name == name })
		if i < 0 {
			i = len(f.series)
			f.series = append(f.series, series{name: name, line: true})
		}
		f.series[i].points = append(f.series[i].points, point{x: float64(l.Layer), y: 100 * l.Share})
	}
	for _, s := range f.series {
		slices.SortFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	return []figure{f}, nil
}
