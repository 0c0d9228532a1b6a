package planner

import (
	"fmt"
	"time"

	"fedattn/fedkv"
)

// Split is how a text that is nobody's in particular is shared out.
type Split string

// The splits.
const (
	Documents Split = "documents" // there is no such text: everybody has what is theirs
	Even      Split = "even"      // each contributor gets the same
	BySpeed   Split = "by speed"  // so that all are done at the same time
	Alone     Split = "alone"     // the publisher keeps it
)

// Question is what is to be asked, and of whom.
type Question struct {
	Case fedkv.Case // schedules, wire types and Home are a candidate's
	// HomeOnly names contributors, by number, whose rows may not leave them; Memory is bytes that each participant has,
	// 0 where nobody knows.
	HomeOnly map[int]bool
	Memory   []int64
	Room     int // tokens of others' rows that the publisher has cells for; 0: no limit
	Text     int // tokens of a text that may be cut and shared out among contributors; the publisher, as one more, may have a part
}

// Option is one candidate with one split.
type Option struct {
	Candidate
	Split  Split
	Tokens []int // of each participant
	Cost   fedkv.Cost
	// Impossible says why it cannot be; empty if it can.
	Impossible string
}

// Compare works out every candidate with every split.
func (q Question) Compare(candidates []Candidate) (options []Option, err error) {
	splits := []Split{Documents}
	if q.Text > 0 {
		splits = []Split{Alone, Even, BySpeed}
	}
	for _, c := range candidates {
		for _, split := range splits {
			o, err := q.option(c, split)
			if err != nil {
				return nil, err
			}
			options = append(options, o)
		}
	}
	return options, nil
}

func (q Question) option(c Candidate, split Split) (o Option, err error) {
	o = Option{Candidate: c, Split: split}
	at := q.Case
	at.Schedules, at.Wire, at.Home = c.Setting.Schedules, c.Setting.Wire, c.Home
	last := len(at.Participants) - 1
	whole := at.Participants // contributors, and with a text this device's own part of it
	if split != Documents {
		own := at.Participants[last]
		own.Tokens, own.Local, own.Name = 0, true, ""
		whole = append(append([]fedkv.Planned(nil), at.Participants[:last]...), own, at.Participants[last])
	}
	shares := make([]int, len(whole)-1)
	switch split {
	case Alone:
		shares[last] = q.Text
	case Even:
		for i := range shares {
			shares[i] = q.Text*(i+1)/len(shares) - q.Text*i/len(shares)
		}
	case BySpeed:
		sharing := at
		sharing.Participants = whole
		if sharing.Schedules.Regime() != fedkv.Gather { // then by what they would do alone
			if sharing.Schedules, err = fedkv.ParseSchedules("gather", len(at.Shape.Layers)); err != nil {
				return o, err
			}
		}
		if shares, err = sharing.Shares(q.Text); err != nil {
			return o, err
		}
	}
	at.Participants = nil
	from := []int{} // whom of the question each participant is
	for i, p := range whole {
		if i < len(shares) {
			p.Tokens += shares[i]
			p.Kept = p.Kept && shares[i] == 0
		}
		if p.Tokens > 0 {
			at.Participants, from = append(at.Participants, p), append(from, min(i, last))
		}
		o.Tokens = append(o.Tokens, p.Tokens)
	}
	if split != Documents { // this device's part of the text and its question are one line
		own := o.Tokens[last]
		o.Tokens = append(o.Tokens[:last], own+o.Tokens[last+1])
	}
	for _, i := range from[:len(from)-1] {
		if q.HomeOnly[i] && c.Home == 0 {
			o.Impossible = fmt.Sprintf("rows of %s stay home", nameOf(q.Case.Participants[i], i))
		}
	}
	others := 0
	for _, p := range at.Participants[:len(at.Participants)-1] {
		if c.Home == 0 || p.Local {
			others += p.Tokens
		}
	}
	if q.Room > 0 && others > q.Room {
		o.Impossible = fmt.Sprintf("the context has room for %d of others' %d tokens", q.Room, others)
	}
	if n := len(at.Participants); n > fedkv.MaxParticipants {
		o.Impossible = fmt.Sprintf("%d participants, at most %d are in a session", n, fedkv.MaxParticipants)
	}
	if o.Cost, err = at.Cost(); err != nil {
		return o, err
	}
	o.Cost.Slowest = from[o.Cost.Slowest]
	parts := make([]fedkv.Part, last+1)
	for k, part := range o.Cost.Parts {
		i := from[k]
		if before := parts[i]; before.Memory.Total() > 0 { // the publisher's own part of a text, in the same process
			part.Memory.Cells += before.Memory.Cells
			part.Memory.Scratch += before.Memory.Scratch
			part.Memory.Rows += before.Memory.Rows
			part.Compute += before.Compute
			part.Sent += before.Sent
		}
		parts[i] = part
	}
	o.Cost.Parts = parts
	for i, have := range q.Memory {
		if i < len(parts) && have > 0 && parts[i].Memory.Total() > have && o.Impossible == "" {
			o.Impossible = fmt.Sprintf("%s has %d MB of memory and needs %d MB", nameOf(q.Case.Participants[i], i), have/1e6, parts[i].Memory.Total()/1e6)
		}
	}
	return o, nil
}

func nameOf(p fedkv.Planned, i int) string {
	if p.Name != "" {
		return p.Name
	}
	return fmt.Sprintf("participant %d", i)
}

// Limits are what a session may take; what is 0 does not limit.
type Limits struct {
	Deadline time.Duration // of the first token
	Bytes    int64         // that the publisher receives before it
	KLD      float64
	Joules   float64 // until the end of the answer
}

// broken says which limit an option breaks; empty if none.
func (l Limits) broken(o Option) string {
	switch {
	case o.Impossible != "":
		return o.Impossible
	case l.Deadline > 0 && o.Cost.TTFT > l.Deadline:
		return "too late"
	case l.Bytes > 0 && o.Cost.Received > l.Bytes:
		return "too many bytes"
	case l.KLD > 0 && !o.Measured:
		return "quality not measured"
	case l.KLD > 0 && o.KLD > l.KLD:
		return "too lossy"
	case l.Joules > 0 && o.Cost.Metered < len(o.Cost.Parts):
		return "energy not known"
	case l.Joules > 0 && o.Cost.Joules > l.Joules:
		return "too much energy"
	}
	return ""
}

// Broken is why an option is out under the limits; empty if it is not.
func (o Option) Broken(l Limits) string { return l.broken(o) }

// Pick is the option to take under limits, or -1 if all break one: the best that is measured, and of equals the fastest; if the
// limits say how good it has to be, the fastest.
func Pick(options []Option, l Limits) int {
	best := -1
	for i, o := range options {
		if l.broken(o) != "" {
			continue
		}
		if best < 0 || better(o, options[best], l.KLD > 0) {
			best = i
		}
	}
	return best
}

func better(a, b Option, fast bool) bool {
	if !fast {
		switch {
		case a.Measured != b.Measured:
			return a.Measured
		case a.Measured && a.KLD != b.KLD:
			return a.KLD < b.KLD
		}
	}
	if a.Cost.TTFT != b.Cost.TTFT {
		return a.Cost.TTFT < b.Cost.TTFT
	}
	return a.Cost.Received < b.Cost.Received
}
