package main

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// simulated is a line of cmd/simulate.
type simulated struct {
	Sweep, Network, Devices, Schedule, Distribution string
	Participants                                    int
	TTFT, Joules                                    float64
	Received, Sent                                  int64
	Failed                                          string
}

// simulationFigures are times and bytes against the number of participants.
func simulationFigures(_ string, content []byte) ([]figure, error) {
	var lines []simulated
	in := json.NewDecoder(bytes.NewReader(content))
	for in.More() {
		var l simulated
		if err := in.Decode(&l); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
		}
		lines = append(lines, l)
	}
	draw := func(f figure, sweep string, name func(simulated) string, y func(simulated) float64) figure {
		at := map[string]int{}
		for _, l := range lines {
			if l.Sweep != sweep || l.Failed != "" || y(l) <= 0 {
				continue
			}
			i, known := at[name(l)]
			if !known {
				i = len(f.series)
				at[name(l)] = i
				f.series = append(f.series, series{name: name(l), line: true})
			}
			f.series[i].points = append(f.series[i].points, point{x: float64(l.Participants), y: y(l)})
		}
		f.x = "participants"
		f.logX, f.logY = true, true
		return f
	}
	network := func(l simulated) string { return l.Network }
	distribution := func(l simulated) string { return l.Distribution }
	schedule := func(l simulated) string { return l.Schedule }
	ttft := func(l simulated) float64 { return l.TTFT }
	all := []figure{
		draw(figure{name: "simulation-ttft", title: "Gather: time to the first token, mixed devices, 512 tokens each", y: "seconds"}, "networks", network, ttft),
		draw(figure{name: "simulation-bytes", title: "Gather: bytes of rows that the publisher receives", y: "MB"}, "networks", network,
			func(l simulated) float64 { return float64(l.Received) / 1e6 }),
		draw(figure{name: "simulation-distribution-ttft", title: "Lockstep on Wi-Fi: time to the first token by distribution", y: "seconds"}, "distributions", distribution, ttft),
		draw(figure{name: "simulation-distribution-bytes", title: "Lockstep on Wi-Fi: bytes on all links by distribution", y: "MB"}, "distributions", distribution,
			func(l simulated) float64 { return float64(l.Sent) / 1e6 }),
		draw(figure{name: "simulation-energy", title: "Energy of an answer over 4,096 tokens, Raspberry Pi 5", y: "J"}, "energy", schedule,
			func(l simulated) float64 { return l.Joules }),
	}
	var out []figure
	for _, f := range all {
		if len(f.series) > 0 {
			out = append(out, f)
		}
	}
	return out, nil
}
