// Package task makes problems that the publisher of a session cannot solve alone, for measuring what federated attention
// keeps of a model's ability. Every fact that an answer needs is held by a contributor, the question by the publisher
// alone (segmentation "sem", question-exclusive), and the answers are drawn at random, so that nobody can know them:
//
//	retrieval             every contributor has a few facts, key and value; the publisher asks for one value
//	needle, needle-2 … 4  one contributor, or 2 to 4 of them, have a fact hidden among other sentences; all are asked for
//	two-hop               the first contributor knows who is, say, the maker of the kite, the second one everybody's code
//
// The texts are plain English sentences put together from the package's own words. A model does not have to follow
// instructions: each problem ends with the beginning of its answer, and the model has only to write the words that are
// missing (Part). So a model of a hundred million parameters can be measured too. Whether a given model is good enough
// for a task is for the measurement to find out: evaluated in one place it should solve most problems, and the publisher
// alone none.
//
// A problem is a function of task, seed, number and contributors, the same everywhere; the first problems of a longer
// series are those of a shorter one. The package is pure: no clock, no files, no network. Start reading at Problem, then
// Task.Problem.
package task

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Problem is a prompt shared out among participants. Header ‖ Segments ‖ Question ‖ the first part's lead is the text
// that the model continues; every piece is tokenised by itself.
type Problem struct {
	Header   string   // public: every participant has it
	Segments []string // the contributors' texts: whole sentences, each text ends its line
	Question string   // the publisher's text
	Parts    []Part   // the answer
	Facts    []Fact   // what is needed to answer
}

// Part is a stretch of the answer: words that are given, and those that the model has to write after them. Leads may
// repeat what an earlier part's answer was, because the answer of a model that got that wrong is wrong anyway.
type Part struct {
	Lead   string
	Answer string // begins with a space, has no stop
}

// Fact is a sentence that one contributor has.
type Fact struct {
	Contributor int
	Text        string
}

// Task is a kind of problem.
type Task struct {
	name   string
	least  int // contributors
	most   int // contributors
	chance float64
	make   func(d *draw, contributors int) Problem
}

// tasks by name, in the order in which they are told.
var tasks = []Task{
	retrieval,
	needle("needle", 1), needle("needle-2", 2), needle("needle-3", 3), needle("needle-4", 4),
	twoHop,
}

// Names of all tasks.
func Names() []string {
	names := make([]string, len(tasks))
	for i, t := range tasks {
		names[i] = t.name
	}
	return names
}

// Parse finds a task by its name.
func Parse(name string) (Task, error) {
	i := slices.IndexFunc(tasks, func(t Task) bool { return t.name == name })
	if i < 0 {
		return Task{}, fmt.Errorf("unknown task %q; known are %s", name, strings.Join(Names(), ", "))
	}
	return tasks[i], nil
}

// String is the task's name.
func (t Task) String() string { return t.name }

// Chance is the share of problems that somebody solves who knows which words an answer may consist of, and nothing else.
func (t Task) Chance() float64 { return t.chance }

// Check tells whether the task can be shared out among that many contributors.
func (t Task) Check(contributors int) error {
	switch {
	case contributors < t.least:
		return fmt.Errorf("the task %s needs %d or more contributors and there are %d; ask for %d or more participants, the publisher included",
			t.name, t.least, contributors, t.least+1)
	case contributors > t.most:
		return fmt.Errorf("the task %s has words for %d contributors and there are %d; ask for at most %d participants, the publisher included",
			t.name, t.most, contributors, t.most+1)
	}
	return nil
}

// Problem makes a problem for that many contributors. Problems of other numbers or seeds are independent of it.
func (t Task) Problem(seed, number uint64, contributors int) (Problem, error) {
	if err := t.Check(contributors); err != nil {
		return Problem{}, err
	}
	return t.make(&draw{rand.New(rand.NewPCG(seed, number))}, contributors), nil
}
