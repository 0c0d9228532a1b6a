package task

import (
	"fmt"
	"strings"
)

// header begins every prompt.
const header = "Notes:\n"

// question is how the publisher's text asks, up to where the answer begins.
func question(text string) string { return "Question: " + text + "\nAnswer:" }

// sentences of a contributor's text in the tasks that hide facts among others.
const sentences = 8

// page is a contributor's sentences, with facts at random places among those that say nothing of use. Facts keep their
// order.
func (d *draw) page(facts ...string) string {
	page := make([]string, sentences)
	for i := range page {
		page[i] = fmt.Sprintf("The %s %s the %s in the %s.", d.one(actors), d.one(actions), d.one(objects), d.one(places))
	}
	for i, at := range d.indices(len(facts), sentences) {
		page[at] = facts[i]
	}
	return strings.Join(page, " ") + "\n"
}

// enumerate is a list as it is spoken: "the code of A, of B and of C".
func enumerate(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", of the ") + " and of the " + words[last]
}
