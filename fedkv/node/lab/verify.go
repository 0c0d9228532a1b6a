package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Check is a Line with what it must fulfil.
type Check struct {
	Line
	Exact bool `json:"exact"` // every logit must be equal
}

// Passed says whether the check holds.
func (c Check) Passed() bool { return !c.Exact || c.MaxAbsLogitDiff == 0 }

// Default is the session that a user gets who says nothing: gather, q8_0 K rows and q4_0 V rows, canonical positions.
func Default(participants int) Case {
	return Case{
		Name: "default", Participants: participants, Contributors: "none", Publisher: "all",
		WireK: "q8_0", WireV: "q4_0", Rows: AllRows, Positions: "canonical",
	}
}

// Verify runs the oracles of a prompt over network, and tells each result to report:
//
//   - lockstep-h1-f16: every layer a sync layer and rows as they are. Equal to one process, bit for bit.
//   - gather-h1-f16: contributors do not see each other; the publisher sees all. What that costs.
//   - default-over-network: the default session equals the same one in memory, bit for bit.
//   - default: what the default session costs.
func (b Bench) Verify(ctx context.Context, p Prompt, report func(Check)) error {
	n := len(p.Segments)
	base, err := Centralised(ctx, b.Engine, p, true)
	if err != nil {
		return err
	}
	f16 := Case{Participants: n, WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "inplace", Publisher: "all"}
	lockstep, gather := f16, f16
	lockstep.Name, lockstep.Contributors = "lockstep-h1-f16", "all"
	gather.Name, gather.Contributors = "gather-h1-f16", "none"
	var failed []string
	tell := func(c Check) {
		if report(c); !c.Passed() {
			failed = append(failed, c.Name)
		}
	}
	for _, c := range []Case{lockstep, gather} {
		line, err := b.Measure(ctx, c, p, base)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		tell(Check{Line: line, Exact: c.Name == lockstep.Name || n == 1})
	}
	standard := Default(n)
	line, err := b.Measure(ctx, standard, p, base)
	if err != nil {
		return fmt.Errorf("%s: %w", standard.Name, err)
	}
	setting, err := standard.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return err
	}
	over, err := Run(ctx, b.Engine, b.Network, b.Self, p, setting)
	if err != nil {
		return err
	}
	memory, err := Run(ctx, b.Engine, Memory, b.Self, p, setting)
	if err != nil {
		return err
	}
	twin := standard
	twin.Name = "default-over-network"
	same, err := b.compare(twin, p, memory.Logits, over.Logits)
	if err != nil {
		return err
	}
	same.Traffic, same.Seconds = traffic([]Result{over}, p.Contributed())
	same.Barriers = line.Barriers
	if !slices.Equal(memory.Logits, over.Logits) && same.MaxAbsLogitDiff == 0 {
		return errors.New("logits differ in their bits but not in value")
	}
	tell(Check{Line: same, Exact: true})
	tell(Check{Line: line})
	if len(failed) > 0 {
		return fmt.Errorf("%v: logits are not equal to one process's", failed)
	}
	return nil
}
