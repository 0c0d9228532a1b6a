package main

import (
	"fmt"
	"math"
	"strconv"

	"fedattn/cmd/fedattn/chat"
)

// setting is what /set can change in a conversation.
type setting struct {
	name string
	show func(*partner) string
	set  func(p *partner, value string) error
}

// number makes a setting of a number within [least, most].
func number[T float32 | int | uint32](name string, least, most float64, field func(*partner) *T) setting {
	half := 0.5
	whole := T(half) == 0
	return setting{
		name, func(p *partner) string { return fmt.Sprint(*field(p)) },
		func(p *partner, value string) error {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil || !(v >= least && v <= most) || whole && v != math.Trunc(v) {
				return fmt.Errorf("%s %q: must be a %snumber between %v and %v", name, value, map[bool]string{true: "whole "}[whole], least, most)
			}
			*field(p) = T(v)
			return nil
		},
	}
}

var chatSettings = []setting{
	number("temp", 0, maxFactor, func(p *partner) *float32 { return &p.sampling.Temperature }),
	number("top-k", 0, 1<<20, func(p *partner) *int { return &p.sampling.TopK }),
	number("top-p", 0, 1, func(p *partner) *float32 { return &p.sampling.TopP }),
	number("min-p", 0, 1, func(p *partner) *float32 { return &p.sampling.MinP }),
	number("repeat-penalty", 0, maxFactor, func(p *partner) *float32 { return &p.sampling.RepeatPenalty }),
	number("seed", 0, 1<<32-1, func(p *partner) *uint32 { return &p.sampling.Seed }),
	number("predict", 1, 1<<20, func(p *partner) *int { return &p.sampling.Limit }),
	{
		"system", func(p *partner) string { return fmt.Sprintf("%q", p.System()) },
		func(p *partner, value string) error { return p.Take(value, p.Turns()) },
	},
	{
		"think", func(p *partner) string { return string(p.view.Mode) },
		func(p *partner, value string) error {
			switch mode := chat.ThinkMode(value); mode {
			case chat.ThinkDim, chat.ThinkShow, chat.ThinkHide:
				p.view.Mode = mode
				return nil
			}
			return fmt.Errorf("think %q: must be dim, show or hide", value)
		},
	},
}

// Settings is chat.Partner's.
func (p *partner) Settings() (list [][2]string) {
	for _, s := range chatSettings {
		list = append(list, [2]string{s.name, s.show(p)})
	}
	return list
}

// Set is chat.Partner's.
func (p *partner) Set(name, value string) error {
	for _, s := range chatSettings {
		if s.name == name {
			return s.set(p, value)
		}
	}
	return fmt.Errorf("there is no setting %q; /show lists them", name)
}
