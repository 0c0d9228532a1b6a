package main

import (
	"cmp"
	"fmt"
	"slices"

	"fedattn/fedkv/node/lab"
)

// typical is the number of participants at which schedules are compared, if it was measured.
const typical = 4

// errorFigures are the deviation of the hidden states after every layer. A disc is a sync layer, a ring a local one.
func errorFigures(_ string, content []byte) ([]figure, error) {
	analyses, err := decodeLines[lab.Analysis](content)
	if err != nil {
		return nil, err
	}
	chosen := analyses[0].Participants
	if slices.ContainsFunc(analyses, func(a lab.Analysis) bool { return a.Participants == typical }) {
		chosen = typical
	}
	const y = "‖session − one process‖ / ‖one process‖"
	publisher := figure{
		name: "error-publisher", title: fmt.Sprintf("Error by layer, the publisher's tokens, N=%d (disc: sync layer, ring: local)", chosen),
		x: "layer", y: y, wholeX: true,
	}
	contributors := figure{
		name: "error-contributors", title: fmt.Sprintf("Error by layer, the contributors' tokens, N=%d (disc: sync layer, ring: local)", chosen),
		x: "layer", y: y, wholeX: true,
	}
	participants := figure{
		name: "error-participants", title: "Error by layer and number of participants, the publisher's tokens",
		x: "layer", y: y, wholeX: true,
	}
	for _, a := range analyses {
		if a.Participants == chosen {
			publisher.series = append(publisher.series, ofPublisher(a, a.Name))
			contributors.series = append(contributors.series, ofContributors(a, a.Name))
		}
	}
	slices.SortStableFunc(analyses, func(a, b lab.Analysis) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Participants, b.Participants))
	})
	for i, a := range analyses {
		alone := (i == 0 || analyses[i-1].Name != a.Name) && (i == len(analyses)-1 || analyses[i+1].Name != a.Name)
		if !alone { // measured with one number of participants only, it says nothing here
			participants.series = append(participants.series, ofPublisher(a, fmt.Sprintf("%s, N=%d", a.Name, a.Participants)))
		}
	}
	out := []figure{publisher, contributors}
	if len(participants.series) > 0 {
		out = append(out, participants)
	}
	return out, nil
}

func ofPublisher(a lab.Analysis, name string) series {
	s := series{name: name, line: true}
	for _, l := range a.Layers {
		s.points = append(s.points, point{x: float64(l.Layer), y: l.DeviationPublisher, open: l.Kind == lab.LocalLayer})
	}
	return s
}

func ofContributors(a lab.Analysis, name string) series {
	s := series{name: name, line: true}
	for _, l := range a.Layers {
		if l.DeviationContributors != nil {
			s.points = append(s.points, point{x: float64(l.Layer), y: *l.DeviationContributors, open: l.KindContributors == lab.LocalLayer})
		}
	}
	return s
}
