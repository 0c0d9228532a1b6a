package task

import (
	"fmt"
	"math"
	"slices"

	"fedattn/fedkv"
)

// needle hides facts with different contributors, one each, and asks for all of them in the order of the text. The
// answer has a sentence for each.
func needle(name string, facts int) Task {
	return Task{
		name: name, least: facts, most: fedkv.MaxParticipants - 1, chance: math.Pow(1./values, float64(facts)),
		make: func(d *draw, contributors int) Problem {
			keys, numbers, holders := d.some(things, facts), d.numbers(facts), d.indices(facts, contributors)
			p := Problem{Header: header, Question: question("What is the code of the " + enumerate(keys) + "?")}
			before := ""
			for i, key := range keys {
				lead := fmt.Sprintf("The code of the %s is", key)
				p.Facts = append(p.Facts, Fact{holders[i], lead + " " + numbers[i] + "."})
				p.Parts = append(p.Parts, Part{before + " " + lead, " " + numbers[i]})
				before = "."
			}
			for c := range contributors {
				if i := slices.Index(holders, c); i >= 0 {
					p.Segments = append(p.Segments, d.page(p.Facts[i].Text))
				} else {
					p.Segments = append(p.Segments, d.page())
				}
			}
			return p
		},
	}
}
