package bench

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fedattn/fedkv"
	"fedattn/transport/shaper"
)

// Program is who runs a test.
type Program string

const (
	Own      Program = "fedattn"
	LlamaCPP Program = "llama.cpp"
	LlamaRPC Program = "llama.cpp RPC"
)

// What of a prompt's rows was there before a question.
const (
	Cold = "cold" // nothing: prefix and documents are new to everybody
	Warm = "warm" // rows of the documents: they did not change since the question before
)

// Exchange is a schedule as a user names it, for one model.
type Exchange struct {
	Name      string
	Schedules fedkv.Schedules
	Wire      fedkv.Wire
	Positions fedkv.Positions
	Home      fedkv.Type // of queries, if rows stay where they are; 0: rows come
}

// keeps reports whether devices can use rows of an earlier question: in lockstep rows depend on others.
func (x Exchange) keeps() bool { return x.Schedules.Regime() == fedkv.Gather }

// Matrix is what to measure: every combination of what stands in the lists.
type Matrix struct {
	// on one device, as llama-bench has them
	Prompts, Generates, Depths []int    // tokens; 0 is no test
	Pairs                      [][2]int // a prompt and an answer together

	// over several devices
	FedPrompts   []int // tokens of everybody together
	FedGenerates []int // tokens of the answer
	Nodes        []int // devices, the asking one included
	Exchanges    []Exchange
	Kept         []string // Cold, Warm
	Links        []shaper.Link
}

// Test is one line of the table: what is measured.
type Test struct {
	Program                 Program
	Prompt, Generate, Depth int
	Nodes                   int    // devices; 0: one alone
	Schedule, Wire          string // federated only, as the next two
	Kept                    string
	Link                    string
}

// Name is llama-bench's, with an f before federated ones.
func (t Test) Name() string {
	var name string
	switch {
	case t.Generate == 0:
		name = fmt.Sprintf("pp%d", t.Prompt)
	case t.Prompt == 0:
		name = fmt.Sprintf("tg%d", t.Generate)
	default:
		name = fmt.Sprintf("pp%d+tg%d", t.Prompt, t.Generate)
	}
	if t.Nodes > 0 && t.Program == Own {
		name = "f" + name
	}
	if t.Depth > 0 {
		name += fmt.Sprintf(" @ d%d", t.Depth)
	}
	return name
}

// tokens is how many the test is about.
func (t Test) tokens() int { return t.Prompt + t.Generate }

// alone is the same work on one device.
func (t Test) alone(by Program) Test {
	return Test{Program: by, Prompt: t.Prompt, Generate: t.Generate, Depth: t.Depth}
}

// single are the tests on one device, in llama-bench's order.
func (m Matrix) single() (tests []Test) {
	for _, depth := range m.Depths {
		for _, n := range m.Prompts {
			if n > 0 {
				tests = append(tests, Test{Prompt: n, Depth: depth})
			}
		}
		for _, n := range m.Generates {
			if n > 0 {
				tests = append(tests, Test{Generate: n, Depth: depth})
			}
		}
		for _, pg := range m.Pairs {
			if pg[0]+pg[1] > 0 {
				tests = append(tests, Test{Prompt: pg[0], Generate: pg[1], Depth: depth})
			}
		}
	}
	return tests
}

// session is federated tests that are made together: one prompt, whose answer is decoded, and asked about once more if
// rows may be kept.
type session struct {
	prompt    int
	generates []int // ascending
	nodes     int
	exchange  Exchange
	cold      bool
	warm      bool
	link      shaper.Link
}

// sessions are the federated part.
func (m Matrix) sessions() (all []session) {
	for _, prompt := range m.FedPrompts {
		if prompt == 0 {
			continue
		}
		for _, nodes := range m.Nodes {
			for _, x := range m.Exchanges {
				for _, link := range m.linksOf(nodes) {
					s := session{prompt: prompt, nodes: nodes, exchange: x, link: link,
						cold: slices.Contains(m.Kept, Cold) || !x.keeps(), warm: slices.Contains(m.Kept, Warm) && x.keeps()}
					s.generates = answers(m.FedGenerates)
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// linksOf is where so many devices are; one alone has no link.
func (m Matrix) linksOf(nodes int) []shaper.Link {
	if nodes == 1 {
		return []shaper.Link{{}}
	}
	return m.Links
}

// answers are lengths of answers, ascending and without 0.
func answers(lengths []int) []int {
	sorted := slices.Compact(slices.Sorted(slices.Values(lengths)))
	return slices.DeleteFunc(sorted, func(n int) bool { return n == 0 })
}

// tests of a session, in the order in which its samples come.
func (s session) tests() (tests []Test) {
	base := Test{Program: Own, Nodes: s.nodes, Schedule: s.exchange.Name, Wire: s.exchange.Wire.String(), Link: s.link.String()}
	if s.exchange.Home != 0 {
		base.Wire = ""
	}
	if s.nodes == 1 {
		base.Link = ""
	}
	generates := s.generates
	for _, first := range []struct {
		counts bool
		kept   string
	}{{s.cold, Cold}, {s.warm, Warm}} {
		if !first.counts {
			continue
		}
		t := base
		t.Prompt, t.Kept = s.prompt, first.kept
		tests = append(tests, t)
		for _, n := range generates {
			t := base
			t.Generate, t.Depth = n, s.prompt
			tests = append(tests, t)
		}
		generates = nil
	}
	return tests
}

// maxList bounds a list of numbers.
const maxList = 1000

// one number, or first-last, first-last+step, first-last*factor
var listPart = regexp.MustCompile(`^(\d+)(?:-(\d+)(?:([+*])(\d+))?)?$`)

// ParseList reads a list of numbers as llama-bench does: 512, or 512,2048, or 512-8192*2 or 0-4+2.
func ParseList(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		m := listPart.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Errorf("%q: must be numbers such as 512 or 512,2048 or 512-8192*2", text)
		}
		var from, to, step int
		for i, n := range []*int{&from, &to, nil, &step} {
			if n == nil || m[i+1] == "" {
				continue
			}
			if *n, err = strconv.Atoi(m[i+1]); err != nil || *n > 1<<30 {
				return nil, fmt.Errorf("%q: %s is too large", text, m[i+1])
			}
		}
		if m[2] == "" {
			to = from
		}
		if m[4] == "" {
			step = 1
		}
		if from > to || m[4] != "" && (step == 0 || m[3] == "*" && (step < 2 || from == 0)) {
			return nil, fmt.Errorf("%q: a range goes up, as 512-2048+512 and 512-8192*2 do", text)
		}
		for n := from; n <= to; {
			if list = append(list, n); len(list) > maxList {
				return nil, fmt.Errorf("%q: at most %d values", text, maxList)
			}
			if m[3] == "*" {
				n *= step
			} else {
				n += step
			}
		}
	}
	return list, nil
}
