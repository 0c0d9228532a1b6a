package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"fedattn/fedkv"
	"fedattn/fedkv/planner"
)

// planReport is what fedattn plan prints.
type planReport struct {
	shape   fedkv.Shape
	devices []described
	options []planner.Option
	limits  planner.Limits
	best    int // -1: every option breaks a limit

	assigned *planner.Assignment // which quantisation each device loads, if that was asked
}

// tables prints the devices, then the options.
func (r planReport) tables(w io.Writer) {
	header := []string{"device", "tokens", "prefill t/s", "answer t/s", "speed", "rtt", "from it", "to it", "memory", "W"}
	if r.assigned != nil {
		header = append(header, "loads")
	}
	rows := newTable(w, header...)
	for i, d := range r.devices {
		prefill, answer := r.rates(d)
		row := table.Row{d.Name, d.Tokens, fmt.Sprintf("%.1f", prefill), fmt.Sprintf("%.1f", answer), d.Source, "", "", "", bytesText(d.Memory), ""}
		if i < len(r.devices)-1 {
			row[5], row[6], row[7] = planTime(d.Way.RTT), rateText(d.Way.Up), rateText(d.Way.Down)
			if d.Way.RTT < 10e6 {
				row[5] = fmt.Sprintf("%.1f ms", milliseconds(d.Way.RTT))
			}
		}
		if d.Memory == 0 {
			row[8] = "?"
		}
		if d.Speed.Watts > 0 {
			row[9] = fmt.Sprint(d.Speed.Watts)
		}
		if r.assigned != nil {
			row = append(row, r.assigned.Quants[i])
		}
		rows.AppendRow(row)
	}
	rows.Render()
	fmt.Fprintln(w)
	if r.assigned != nil && !r.assigned.Proved {
		fmt.Fprintln(w, "there were too many possibilities to try all: there may be a better one")
	}

	split, energy := false, false
	for _, o := range r.options {
		split = split || o.Split != planner.Documents
		energy = energy || o.Cost.Metered == len(r.devices)
	}
	header = []string{"", "schedule", "wire K/V"}
	if split {
		header = append(header, "text", "tokens")
	}
	header = append(header, "received", "waits", "MB by device", "first token", "answer t/s", "whole answer", "KL")
	if energy {
		header = append(header, "J")
	}
	rows = newTable(w, append(header, "waits for")...)
	for i, o := range r.options {
		mark := ""
		if i == r.best {
			mark = "→"
		}
		row := table.Row{mark, o.Schedule, wireText(o)}
		if split {
			row = append(row, string(o.Split), joined(o.Tokens))
		}
		row = append(row, bytesText(o.Cost.Received), o.Cost.Rounds, memoryText(o.Cost.Parts), planTime(o.Cost.TTFT),
			fmt.Sprintf("%.1f", o.Cost.TokensPerSecond), planTime(o.Cost.Total), kldText(o))
		if energy {
			row = append(row, fmt.Sprintf("%.0f", o.Cost.Joules))
		}
		last := r.devices[o.Cost.Slowest].Name
		if why := o.Broken(r.limits); why != "" {
			last = "no: " + why
		}
		rows.AppendRow(append(row, last))
	}
	rows.Render()
	if r.best >= 0 {
		fmt.Fprintf(w, "\n→ %s\n", asks(r.options[r.best]))
	}
}

// rates are tokens a second of a prompt of 512 and of an answer, both with nothing before them.
func (r planReport) rates(d described) (prefill, answer float64) {
	return 512 / d.Speed.Prefill(r.shape, 0, 512, 512), 1 / d.Speed.Decode(r.shape, 0)
}

func rateText(bytes float64) string {
	switch bits := 8 * bytes; {
	case bits == 0:
		return ""
	case bits >= 1e9:
		return fmt.Sprintf("%.1f Gbit/s", bits/1e9)
	default:
		return fmt.Sprintf("%.1f Mbit/s", bits/1e6)
	}
}

// wireText is short: a step of a profile's ladder has types of its own at many layers.
func wireText(o planner.Option) string {
	switch {
	case o.Home != 0:
		return "queries " + o.Home.String()
	case o.Rung > 0:
		return fmt.Sprintf("the profile's for %d B a token", o.Rung)
	}
	return o.Setting.Wire.String()
}

func joined(numbers []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", "+"), "[]")
}

func memoryText(parts []fedkv.Part) string {
	var list []string
	for _, p := range parts {
		list = append(list, fmt.Sprint((p.Memory.Total()+5e5)/1e6))
	}
	return strings.Join(list, " ")
}

func kldText(o planner.Option) string {
	if !o.Measured {
		return "?"
	}
	return fmt.Sprintf("%.4f", o.KLD)
}

// planJSON is what plan --json prints. Times are in milliseconds.
type planJSON struct {
	Devices []plannedDevice `json:"devices"` // the last one asks
	Options []plannedOption `json:"options"`
	Chosen  int             `json:"chosen"`           // an option's index, -1 if all break a limit
	Proved  *bool           `json:"proved,omitempty"` // with --quants: whether nothing else is better
}

type plannedDevice struct {
	Name    string  `json:"name"`
	Tokens  int     `json:"tokens"`
	Prefill float64 `json:"prefill_tokens_per_second"` // of 512, with nothing before them
	Decode  float64 `json:"decode_tokens_per_second"`  // with nothing before them
	Source  string  `json:"source"`
	RTTMS   float64 `json:"rtt_ms"`
	From    float64 `json:"bits_per_second_from"`
	To      float64 `json:"bits_per_second_to"`
	Memory  int64   `json:"memory"`
	Watts   float64 `json:"watts,omitempty"`
	Trust   string  `json:"trust"`
	Loads   string  `json:"loads,omitempty"` // a quantisation, with --quants
}

type plannedOption struct {
	Schedule        string   `json:"schedule"`
	Wire            string   `json:"wire"`
	Home            string   `json:"home,omitempty"`
	Flags           string   `json:"flags"`
	Split           string   `json:"split"`
	Tokens          []int    `json:"tokens"`
	Received        int64    `json:"received_bytes"`
	Sent            int64    `json:"sent_bytes"`
	PerToken        int64    `json:"answer_bytes_per_token"`
	Rounds          int      `json:"waits"`
	Memory          []int64  `json:"memory"`
	ReadyMS         float64  `json:"ready_ms"`
	RowsMS          float64  `json:"rows_ms"`
	TTFTMS          float64  `json:"ttft_ms"`
	TotalMS         float64  `json:"total_ms"`
	TokensPerSecond float64  `json:"tokens_per_second"`
	KLD             *float64 `json:"kld"`
	Joules          *float64 `json:"joules,omitempty"`
	WaitsFor        string   `json:"waits_for"`
	Breaks          string   `json:"breaks,omitempty"`
}

func (r planReport) object(w io.Writer) error {
	out := planJSON{Chosen: r.best}
	if r.assigned != nil {
		out.Proved = &r.assigned.Proved
	}
	for i, d := range r.devices {
		loads := ""
		if r.assigned != nil {
			loads = r.assigned.Quants[i]
		}
		prefill, answer := r.rates(d)
		trust := "rows"
		if d.Home {
			trust = "home"
		}
		out.Devices = append(out.Devices, plannedDevice{
			Name: d.Name, Tokens: d.Tokens, Prefill: prefill, Decode: answer, Source: d.Source, RTTMS: milliseconds(d.Way.RTT),
			From: 8 * d.Way.Up, To: 8 * d.Way.Down, Memory: d.Memory, Watts: d.Speed.Watts, Trust: trust, Loads: loads,
		})
	}
	for _, o := range r.options {
		j := plannedOption{
			Schedule: o.Schedule, Wire: o.Setting.Wire.String(), Flags: asks(o), Split: string(o.Split), Tokens: o.Tokens,
			Received: o.Cost.Received, Sent: o.Cost.Sent, PerToken: o.Cost.Answer, Rounds: o.Cost.Rounds,
			ReadyMS: milliseconds(o.Cost.Ready), RowsMS: milliseconds(o.Cost.Rows), TTFTMS: milliseconds(o.Cost.TTFT),
			TotalMS: milliseconds(o.Cost.Total), TokensPerSecond: o.Cost.TokensPerSecond,
			WaitsFor: r.devices[o.Cost.Slowest].Name, Breaks: o.Broken(r.limits),
		}
		if o.Home != 0 {
			j.Home = o.Home.String()
		}
		if o.Measured {
			j.KLD = &o.KLD
		}
		if o.Cost.Metered == len(r.devices) {
			j.Joules = &o.Cost.Joules
		}
		for _, p := range o.Cost.Parts {
			j.Memory = append(j.Memory, p.Memory.Total())
		}
		out.Options = append(out.Options, j)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(out)
}
