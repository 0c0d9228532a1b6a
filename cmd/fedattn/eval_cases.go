package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
	"fedattn/fedkv/profile"
	"fedattn/llama"
)

// evalCase is a case with the mean KL that it should have.
type evalCase struct {
	lab.Case
	Reference *float64 `json:"kld_mean"`
}

func (c evalCase) String() string {
	name := ""
	if c.Name != "" {
		name = c.Name + ": "
	}
	return fmt.Sprintf("%s%d participants, contributors=%s, publisher=%s, %s/%s, rows %s, %s",
		name, c.Participants, c.Contributors, c.Publisher, c.WireK, c.WireV, rowsText(c.Case), c.Positions)
}

// participantsOf lists how many devices the cases have, each number once.
func participantsOf(cases []evalCase) []int {
	var counts []int
	for _, c := range cases {
		if !slices.Contains(counts, c.Participants) {
			counts = append(counts, c.Participants)
		}
	}
	return counts
}

// localOnly is the case without exchange for each number of devices.
func localOnly(cases []evalCase, seed uint64) []evalCase {
	var alone []evalCase
	for _, n := range participantsOf(cases) {
		if n > 1 {
			alone = append(alone, evalCase{Case: lab.LocalOnly(n, seed)})
		}
	}
	return alone
}

// modelCases lists what to measure of a loaded model.
func modelCases(c *cli.Context, engine *llama.Engine) ([]evalCase, error) {
	p, err := profileOf(c, engine.Fingerprint())
	if err != nil {
		return nil, err
	}
	return evalCases(c, engine.Layers(), p)
}

// evalCases lists what to measure of a model with this many layers; p is its profile, nil if there is none.
func evalCases(c *cli.Context, layers int, p *profile.Profile) ([]evalCase, error) {
	if path := c.String("cases"); path != "" {
		return readCases(path, uint64(c.Int("seed")))
	}
	positions, err := fedkv.ParsePositions(c.String("positions"))
	if err != nil {
		return nil, usagef("--positions: %v", err)
	}
	for _, rows := range c.StringSlice("rows") {
		if _, err := fedkv.ParseRowPolicy(rows); err != nil {
			return nil, usagef("--rows: %v", err)
		}
	}
	for _, rows := range c.StringSlice("local-rows") {
		if _, err := fedkv.ParseLocalRows(rows); err != nil {
			return nil, usagef("--local-rows: %v", err)
		}
	}
	var cases []evalCase
	for n := range strings.SplitSeq(c.String("participants"), ",") {
		participants, err := strconv.Atoi(strings.TrimSpace(n))
		if err != nil || participants < 1 || participants > fedkv.MaxParticipants {
			return nil, usagef("--participants %q: %q is not a number from 1 to %d", c.String("participants"), n, fedkv.MaxParticipants)
		}
		for _, s := range c.StringSlice("schedule") {
			for _, w := range wiresOf(c) {
				spec, home, err := cutHome(s)
				if err != nil {
					return nil, err
				}
				setting, err := resolve(spec, w, layers, p)
				if err == nil && s == autoPreset && c.String("budget") != "" {
					setting, err = withinBudget(c, p, c.Int("tokens")-c.Int("prefix-tokens")-c.Int("publisher-tokens"))
				}
				if err != nil {
					return nil, err
				}
				if home != 0 {
					setting.Wire = unsent(layers)
				}
				schedules := setting.Schedules
				k, v := lab.WireNames(setting.Wire)
				where := positions
				if schedules.Regime() == fedkv.Lockstep {
					where = fedkv.InPlace
				}
				name := ""
				if w == "" && isPreset(s, p) || home != 0 {
					name = s
				}
				queries := ""
				if home != 0 {
					queries = home.String()
				}
				for _, rows := range c.StringSlice("rows") {
					for _, local := range c.StringSlice("local-rows") {
						cases = append(cases, evalCase{Case: lab.Case{
							Name: name, Participants: participants, Contributors: schedules.Contributors.String(),
							Publisher: schedules.Publisher.String(), WireK: k, WireV: v, Home: queries,
							Rows: rows, LocalRows: local, Positions: where.String(), Seed: uint64(c.Int("seed")),
						}})
					}
				}
			}
		}
	}
	return cases, nil
}

// wiresOf lists the wire types that were asked for; without any, each schedule has its own.
func wiresOf(c *cli.Context) []string {
	if wires := c.StringSlice("wire"); len(wires) > 0 {
		return wires
	}
	return []string{""}
}

// readCases reads lines of --format jsonl. Those that are always measured are left out; what a line does not say is
// what the command does if its user does not say it.
func readCases(path string, seed uint64) ([]evalCase, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such file of cases: %s; give an existing one with --cases", path)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var cases []evalCase
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		ec := evalCase{Case: lab.Case{Rows: lab.AllRows, LocalRows: lab.AllRows, Seed: seed}}
		if err := json.Unmarshal(lines.Bytes(), &ec); err != nil {
			return nil, fmt.Errorf("%s:%d: %w; a case is a line of --format jsonl", path, n, err)
		}
		if ec.Name == lab.CentralisedName || ec.Name == lab.LocalOnlyName {
			continue
		}
		if ec.Participants < 1 || ec.Participants > fedkv.MaxParticipants {
			return nil, fmt.Errorf("%s:%d: %d participants: there must be 1 to %d", path, n, ec.Participants, fedkv.MaxParticipants)
		}
		cases = append(cases, ec)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("%s has no cases: a case is a line of --format jsonl", path)
	}
	return cases, nil
}
