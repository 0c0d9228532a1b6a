// Command simulate runs sessions of up to 1,024 participants in virtual time and prints a JSON line for each: the machines
// are those of real devices, their speeds are published ones, and links are of usual kinds. make simulate writes
// docs/figures/data/simulation.jsonl with it, which make figures draws.
//
//	simulate [-most N] [-seed N]
//
// Start reading at sweeps.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/simulate"
)

// line is a session. Times are in seconds.
type line struct {
	Sweep        string  `json:"sweep"`
	Network      string  `json:"network"`
	Devices      string  `json:"devices"`
	Schedule     string  `json:"schedule"`
	Distribution string  `json:"distribution,omitempty"`
	Participants int     `json:"participants"`
	Tokens       int     `json:"tokens"` // of all contributors
	Sessions     int     `json:"sessions,omitempty"`
	Missing      int     `json:"missing"`
	TTFT         float64 `json:"ttft"`
	Rows         float64 `json:"rows"`
	Total        float64 `json:"total"`
	Received     int64   `json:"received"`
	Sent         int64   `json:"sent"`
	Control      int64   `json:"control"`
	Joules       float64 `json:"joules,omitempty"` // of all devices; not there if the power of one is not known
	Failed       string  `json:"failed,omitempty"`
}

func main() {
	most := flag.Int("most", 1024, "participants at most")
	seed := flag.Uint64("seed", 1, "of devices, texts and trouble")
	flag.Parse()
	if flag.NArg() > 0 || *most < 2 {
		fmt.Fprintln(os.Stderr, "simulate: it takes -most N, at least 2, and -seed N")
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, l := range sweeps(*most, *seed) {
		if err := out.Encode(l()); err != nil {
			fmt.Fprintln(os.Stderr, "simulate:", err)
			os.Exit(1)
		}
	}
}

// sweeps are the sessions, in the order of their figures.
func sweeps(most int, seed uint64) (list []func() line) {
	pi5, boards := simulate.Devices[1:2], simulate.Devices[:4]
	add := func(l line, c simulate.Config) {
		if l.Participants <= most {
			list = append(list, func() line { return run(l, c) })
		}
	}
	counts := func(last int) (n []int) {
		for i := 2; i <= last; i *= 2 {
			n = append(n, i)
		}
		return n
	}
	for _, network := range simulate.Networks {
		for _, n := range counts(1024) {
			c := simulate.Draw(network, boards, n, 512, seed)
			add(line{Sweep: "networks", Network: network.Name, Devices: "mixed", Schedule: "gather", Participants: n}, c)
		}
	}
	for _, distribution := range []simulate.Distribution{simulate.Mesh, simulate.Relay, simulate.Tree} {
		for _, n := range append(counts(32), 48, 64) {
			c := simulate.Draw(simulate.Networks[1], pi5, n, 128, seed)
			c.Distribution = distribution
			add(line{Sweep: "distributions", Network: "Wi-Fi", Devices: "Raspberry Pi 5", Schedule: "lockstep", Distribution: string(distribution), Participants: n}, c)
		}
	}
	for _, schedule := range []string{"gather", "contributors=1,7;publisher=all", "lockstep"} {
		for _, n := range counts(64) { // one text, cut into ever smaller parts
			c := simulate.Draw(simulate.Networks[0], pi5, n, max(4096/max(n-1, 1), 1), seed)
			add(line{Sweep: "energy", Network: "LAN", Devices: "Raspberry Pi 5", Schedule: schedule, Participants: n}, c)
		}
	}
	for _, schedule := range []string{"gather", "lockstep"} {
		for _, gone := range []float64{0, 0.05, 0.1, 0.2, 0.4} {
			c := simulate.Draw(simulate.Networks[1], pi5, 32, 256, seed)
			c.GatherBy = c.SetupBy + 2*time.Minute
			c.Trouble(seed, gone, 15*time.Second, 0.1, 4)
			add(line{Sweep: "churn", Network: "Wi-Fi", Devices: fmt.Sprintf("%.0f %% disappear", 100*gone), Schedule: schedule, Participants: 32}, c)
		}
	}
	return list
}

func run(l line, c simulate.Config) line {
	var err error
	if c.Schedules, err = fedkv.ParseSchedules(l.Schedule, len(c.Shape.Layers)); err != nil {
		l.Failed = err.Error()
		return l
	}
	for _, d := range c.Contributors {
		l.Tokens += d.Tokens
	}
	r, err := simulate.Run(c)
	if err != nil {
		l.Failed = err.Error()
	}
	l.Sessions, l.Missing = r.Sessions, r.Missing
	l.TTFT, l.Rows, l.Total = r.TTFT.Seconds(), r.Rows.Seconds(), r.Total.Seconds()
	l.Received, l.Sent, l.Control = r.Received, r.Sent, r.Control
	if r.Metered == l.Participants {
		l.Joules = r.Joules
	}
	return l
}
