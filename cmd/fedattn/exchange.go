package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/profile"
	"fedattn/llama"
)

// exchange is what --schedule and the flags beside it come to for one model.
type exchange struct {
	profile.Setting
	positions    fedkv.Positions
	context      int        // positions that this device has cells for
	home         fedkv.Type // of queries and outputs, if the peers' rows stay with them; 0: rows come
	maxPositions int        // those of rows that stay home included
	setupBy      time.Duration
	gatherBy     time.Duration
	maxStaging   int64 // bytes of rows that are held before they are placed
}

// exchangeFor resolves schedule, wire types and positions for the model; a budget is spent on so many tokens of the peers, 0
// for a full context.
func exchangeFor(c *cli.Context, p party, engine *llama.Engine, tokens int) (x exchange, err error) {
	if x.context, err = contextSize(c, engine); err != nil {
		return x, err
	}
	known, err := profileOf(c, engine.Fingerprint())
	if err != nil {
		return x, err
	}
	chosen := c.String("schedule")
	if chosen == autoPreset {
		if chosen, err = autoSchedule(c, p, engine, known, x.context); err != nil {
			return x, err
		}
	}
	spec, home, err := cutHome(chosen)
	if err != nil {
		return x, err
	}
	if x.Setting, err = resolve(spec, c.String("wire"), engine.Layers(), known); err != nil {
		return x, err
	}
	x.maxPositions = x.context
	if x.home = home; home != 0 {
		x.Wire = unsent(engine.Layers())
		x.maxPositions = max(x.context, engine.ContextTrain()) // what stays with others takes no memory here
	}
	if c.String("budget") != "" {
		if tokens == 0 {
			tokens = x.context
		}
		if x.Setting, err = withinBudget(c, known, tokens); err != nil {
			return x, err
		}
	}
	if least := c.Int("min-layer"); least > engine.Layers() {
		return x, usagef("--min-layer %d: the model has layers 0 to %d", least, engine.Layers()-1)
	}
	x.Schedules = x.Schedules.From(c.Int("min-layer"))
	if x.positions, err = positions(c, x.Schedules.Regime()); err != nil {
		return x, err
	}
	x.setupBy = c.Duration("setup-timeout")
	x.gatherBy = x.setupBy + c.Duration("timeout")
	// the endpoint counts memory, which comes in powers of two: half of it is sure to be enough for the rows
	x.maxStaging = memoryShare() / 2
	return x, nil
}

// positions reads --positions; without it they follow from the regime.
func positions(c *cli.Context, regime fedkv.Regime) (fedkv.Positions, error) {
	name := c.String("positions")
	switch {
	case name == "" && regime == fedkv.Lockstep:
		return fedkv.InPlace, nil
	case name == "":
		return fedkv.Canonical, nil
	}
	p, err := fedkv.ParsePositions(name)
	if err != nil {
		return 0, usagef("--positions: %v", err)
	}
	if p == fedkv.Canonical && regime == fedkv.Lockstep {
		return 0, usagef("--positions canonical: lockstep needs true positions, inplace")
	}
	return p, nil
}
