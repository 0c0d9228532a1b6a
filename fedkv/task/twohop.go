package task

import (
	"fmt"

	"fedattn/fedkv"
)

// chains of two steps that the two-hop task tells of; one is asked for.
const chains = 3

// twoHop shares two steps out: the first contributor knows who stands in which relation to which thing, the second one
// everybody's code, and others know nothing of use. The answer names the person, then the code.
var twoHop = Task{
	name: "two-hop", least: 2, most: fedkv.MaxParticipants - 1, chance: 1. / float64(values*len(people)),
	make: func(d *draw, contributors int) Problem {
		keys, kinds, names, numbers := d.some(things, chains), d.some(roles, chains), d.some(people, chains), d.numbers(chains)
		role := func(i int) string { return fmt.Sprintf("%s of the %s", kinds[i], keys[i]) }
		var first, second []string
		for i := range chains {
			first = append(first, fmt.Sprintf("The %s is %s.", role(i), names[i]))
		}
		order := d.Perm(chains)
		for _, i := range order {
			second = append(second, fmt.Sprintf("The code of %s is %s.", names[i], numbers[i]))
		}
		asked := d.IntN(chains)
		name, number := names[asked], numbers[asked]
		p := Problem{
			Header:   header,
			Segments: []string{d.page(first...), d.page(second...)},
			Question: question("Who is the " + role(asked) + ", and what is the code of this person?"),
			Parts:    []Part{{" The " + role(asked) + " is", " " + name}, {". The code of " + name + " is", " " + number}},
			Facts: []Fact{
				{0, fmt.Sprintf("The %s is %s.", role(asked), name)},
				{1, fmt.Sprintf("The code of %s is %s.", name, number)},
			},
		}
		for range contributors - 2 {
			p.Segments = append(p.Segments, d.page())
		}
		return p
	},
}
