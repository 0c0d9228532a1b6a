package planner

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Quant is a quantisation of a model's weights. Only ratios of the speeds count: what a device does with one of them tells
// what it would do with another.
type Quant struct {
	Name            string  `json:"name"`
	Bits            float64 `json:"bits"` // of a weight
	Prefill, Decode float64 // tokens a second, all on one and the same device
	KLD             float64 `json:"kld"` // nats a token, from a model of 16 bits
}

// The table is llama.cpp's own: bits and speeds of Llama-3.1-8B from tools/quantize/README.md, KL divergences of Llama 3 8B
// without importance matrix from tools/perplexity/README.md, both of the version in third_party. Smaller models lose more.
//
//go:embed quants.json
var quantTable []byte

// Quants is the table of quantisations, the best first.
func Quants() (list []Quant, err error) {
	err = json.Unmarshal(quantTable, &list)
	return list, err
}

// QuantsNamed are some of them, in the order of their names.
func QuantsNamed(names []string) (list []Quant, err error) {
	all, err := Quants()
	if err != nil {
		return nil, err
	}
	var known []string
	for _, q := range all {
		known = append(known, q.Name)
	}
	for _, name := range names {
		i := slices.IndexFunc(all, func(q Quant) bool { return strings.EqualFold(q.Name, strings.TrimSpace(name)) })
		if i < 0 {
			return nil, fmt.Errorf("no quantisation is called %q; known are %s", name, strings.Join(known, ", "))
		}
		if !slices.Contains(list, all[i]) {
			list = append(list, all[i])
		}
	}
	return list, nil
}

// Assignment is which quantisation each participant loads, and the option that they make.
type Assignment struct {
	Quants []string // by participant
	Option
	Proved bool // no other is better; otherwise the search ended early
}

// maxTried bounds the sessions that Assign works out.
const maxTried = 200_000

// Assign chooses for every participant a quantisation of the model, together with one of the candidates and a split, so that
// the limits are kept: the least KL divergence, or with a limit for it the soonest first token. The question's participants
// have speeds and weights of quants[0]. The divergences of weights and of the session are added, those of contributors'
// weights by their share of the tokens, which is a rule and no measurement. False if nothing keeps to the limits.
//
// It is a branch and bound search: a participant's choices are tried from the best on, and whatever cannot be better than
// what was found, or keep to the limits even if everybody else had the fastest, smallest and best of all quantisations at
// once, is left.
func (q Question) Assign(candidates []Candidate, quants []Quant, l Limits) (best Assignment, found bool, err error) {
	if len(quants) == 0 {
		return best, false, fmt.Errorf("no quantisation to choose from")
	}
	s := search{Question: q, quants: quants, limits: l, left: maxTried}
	s.ideal = quants[0]
	for _, k := range quants[1:] {
		s.ideal.Bits, s.ideal.KLD = math.Min(s.ideal.Bits, k.Bits), math.Min(s.ideal.KLD, k.KLD)
		s.ideal.Prefill, s.ideal.Decode = math.Max(s.ideal.Prefill, k.Prefill), math.Max(s.ideal.Decode, k.Decode)
	}
	splits := []Split{Documents}
	if q.Text > 0 {
		splits = []Split{Alone, Even, BySpeed}
	}
	for _, c := range candidates {
		for _, split := range splits {
			if err := s.branch(c, split, nil); err != nil {
				return best, false, err
			}
		}
	}
	s.best.Proved = s.left > 0
	return s.best, s.found, nil
}

type search struct {
	Question
	quants []Quant
	ideal  Quant // none that there is, and no worse than any
	limits Limits
	best   Assignment
	found  bool
	left   int
}

// branch goes on from what the first participants have chosen.
func (s *search) branch(c Candidate, split Split, chosen []Quant) error {
	if s.left--; s.left <= 0 {
		return nil
	}
	n := len(s.Case.Participants)
	o, err := s.with(c, split, chosen)
	if err != nil {
		return err
	}
	// shares by speed move when others become slower, so that this is a bound only where they do not
	if bounded := split != BySpeed || len(chosen) == n; bounded && (s.limits.broken(o) != "" || s.found && !better(o, s.best.Option, s.limits.KLD > 0)) {
		return nil
	}
	if len(chosen) == n {
		s.found = true
		s.best.Option, s.best.Quants = o, nil
		for _, k := range chosen {
			s.best.Quants = append(s.best.Quants, k.Name)
		}
		return nil
	}
	byKLD := slices.Clone(s.quants)
	slices.SortStableFunc(byKLD, func(a, b Quant) int {
		switch {
		case a.KLD < b.KLD:
			return -1
		case a.KLD > b.KLD:
			return 1
		}
		return 0
	})
	for _, k := range byKLD {
		if err := s.branch(c, split, append(slices.Clone(chosen), k)); err != nil {
			return err
		}
	}
	return nil
}

// with is the option if the first participants have chosen, and all others had the ideal.
func (s *search) with(c Candidate, split Split, chosen []Quant) (Option, error) {
	q := s.Question
	q.Case.Participants = slices.Clone(q.Case.Participants)
	last := len(q.Case.Participants) - 1
	klds := make([]float64, last+1)
	for i := range q.Case.Participants {
		k := s.ideal
		if i < len(chosen) {
			k = chosen[i]
		}
		p, base := &q.Case.Participants[i], s.quants[0]
		p.Speed = p.Speed.Scaled(k.Prefill/base.Prefill, k.Decode/base.Decode)
		p.Model.Weights = int64(float64(p.Model.Weights) * k.Bits / base.Bits)
		klds[i] = k.KLD
	}
	o, err := q.option(c, split)
	if err != nil {
		return o, err
	}
	o.KLD += klds[last]
	others := 0
	for _, n := range o.Tokens[:last] {
		others += n
	}
	for i, n := range o.Tokens[:last] {
		if others > 0 {
			o.KLD += klds[i] * float64(n) / float64(others)
		}
	}
	return o, nil
}
