package task

import (
	"fmt"
	"strings"

	"fedattn/fedkv"
)

// lines are the facts that each contributor has in the task retrieval.
const lines = 4

// retrieval gives every contributor facts of one form, one to a line, and asks for one of them all. A key is a thing,
// named once, and one of its attributes, which others may share.
var retrieval = Task{
	name: "retrieval", least: 1, most: min(len(things)/lines, fedkv.MaxParticipants-1), chance: 1. / values,
	make: func(d *draw, contributors int) Problem {
		n := contributors * lines
		keys, numbers, kinds := d.some(things, n), d.numbers(n), d.some(attributes, len(attributes))
		key := func(i int) string { return fmt.Sprintf("%s of the %s", kinds[i%len(kinds)], keys[i]) }
		fact := func(i int) string { return fmt.Sprintf("The %s is %s.", key(i), numbers[i]) }
		asked := d.IntN(n)
		p := Problem{
			Header:   header,
			Question: question("What is the " + key(asked) + "?"),
			Parts:    []Part{{" The " + key(asked) + " is", " " + numbers[asked]}},
			Facts:    []Fact{{asked / lines, fact(asked)}},
		}
		for c := range contributors {
			var text strings.Builder
			for i := c * lines; i < (c+1)*lines; i++ {
				text.WriteString(fact(i) + "\n")
			}
			p.Segments = append(p.Segments, text.String())
		}
		return p
	},
}
