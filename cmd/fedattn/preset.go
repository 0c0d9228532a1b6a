package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/profile"
	"fedattn/llama"
)

// Presets are settings by name: schedule and wire types together, as a profile of the model has them. gather and
// lockstep are schedules too, and need no profile.
var presets = []string{autoPreset, "gather", "lockstep", "lockstep-small", "light"}

const (
	autoPreset  = "auto"
	paperPrefix = "paper:" // and H: the paper's uniform schedule

	// defaultWire bears any model: K needs eight bits unless a profile knows better.
	defaultWire = "q8_0/q4_0"
)

// wireTypes are the types of rows that --wire takes for K and for V.
const wireTypes = "f16, q8_0, q5_1, q4_1, q4_0, nf3, each with +c (centred), +h (Hadamard) or both"

const presetHelp = "By name, with the wire types that suit the model if it has a profile: auto (the most for its bytes), gather, lockstep,\n" +
	"lockstep-small (nearly lockstep, with about half of its bytes), light (contributors meet at two layers or three),\n" +
	"paper:4 (the paper's schedule, H=4). home is gather in which rows never leave: queries go out and outputs come back at\n" +
	"every layer and for every token of the answer, in f16 or, as home:q8_0, in half of that. A profile comes with the program, or from fedattn calibrate with --profile."

func profileFlag(category string) cli.Flag {
	return &cli.StringFlag{Name: "profile", Usage: "`FILE` that fedattn calibrate wrote for this model", Category: category}
}

// readProfile reads --profile, which may be for another model than the one that is loaded; nil without the flag.
func readProfile(c *cli.Context) (*profile.Profile, error) {
	path := c.String("profile")
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such profile: %s; fedattn calibrate writes one", path)
	} else if err != nil {
		return nil, err
	}
	p, err := profile.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// profileOf is the profile of a model: the one given, if it is the model's, otherwise the one that comes with the
// program, nil if there is none.
func profileOf(c *cli.Context, f fedkv.Fingerprint) (*profile.Profile, error) {
	given, err := readProfile(c)
	if err != nil {
		return nil, err
	}
	if given != nil {
		if !given.Model.Suits(profile.ModelOf(f)) {
			return nil, fmt.Errorf("%s is the profile of another model; make one for this model with fedattn calibrate", c.String("profile"))
		}
		return given, nil
	}
	p, _, err := profile.Of(profile.ModelOf(f))
	return p, err
}

// resolve is the setting that a schedule or preset stands for. wire is what the user said of the wire types, empty if
// nothing. p may be nil.
func resolve(spec, wire string, layers int, p *profile.Profile) (s profile.Setting, err error) {
	if slices.Contains(presets, spec) && p != nil {
		preset, found := p.Preset(spec)
		if !found && spec == autoPreset {
			preset, found = p.Preset("gather")
		}
		if found {
			if s, err = preset.Setting(layers); err == nil && wire != "" {
				s.Wire, err = parseWire(wire, layers)
			}
			return s, err
		}
	}
	plain := spec
	if spec == autoPreset {
		plain = "gather"
	} else if h, ok := strings.CutPrefix(spec, paperPrefix); ok {
		plain = "H=" + h
	} else if slices.Contains(presets, spec) && spec != "gather" && spec != "lockstep" {
		return s, fmt.Errorf("--schedule %s needs a profile of this model: make one with fedattn calibrate and give it with --profile, or use gather or lockstep", spec)
	}
	if s.Schedules, err = fedkv.ParseSchedules(plain, layers); err != nil {
		return s, scheduleError(spec, err)
	}
	if wire == "" {
		wire = defaultWire
	}
	s.Wire, err = parseWire(wire, layers)
	return s, err
}

// homePrefix is a schedule of its own: gather in which rows stay where they are; after a colon, how queries travel.
const homePrefix = "home"

// cutHome takes home apart: the schedule that it is, and the type of queries, 0 for any other schedule.
func cutHome(spec string) (schedule string, home fedkv.Type, err error) {
	if spec == homePrefix {
		return "gather", fedkv.F16, nil
	}
	name, ok := strings.CutPrefix(spec, homePrefix+":")
	if !ok {
		return spec, 0, nil
	}
	if home, err = fedkv.ParseHome(name); err != nil {
		return "", 0, usagef("--schedule %q: %v", spec, err)
	}
	return "gather", home, nil
}

// unsent is the wire types where rows stay home: nothing is lost of those that are this device's own.
func unsent(layers int) fedkv.Wire {
	return fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, layers)
}

// isPreset reports whether a name stands for more than a schedule.
func isPreset(name string, p *profile.Profile) bool {
	if p != nil {
		if _, found := p.Preset(name); found {
			return true
		}
	}
	return name == autoPreset || strings.HasPrefix(name, paperPrefix)
}

func parseWire(spec string, layers int) (fedkv.Wire, error) {
	w, err := fedkv.ParseWire(spec, layers)
	if err != nil {
		return w, usagef("--wire: %v", err)
	}
	return w, nil
}

// anyProfile stands for the profile of a model that is not loaded yet: it has every preset.
func anyProfile() *profile.Profile {
	p := new(profile.Profile)
	for _, name := range presets {
		p.Presets = append(p.Presets, profile.Preset{Name: name, Contributors: "none", Publisher: "all", Wire: defaultWire})
	}
	return p
}

// checkSetting finds what is wrong with a schedule or wire types in any model, before one is loaded.
func checkSetting(spec, wire string) error {
	spec, home, err := cutHome(spec)
	if err != nil {
		return err
	}
	if home != 0 && wire != "" {
		return usagef("--wire %s: with --schedule home no rows are sent; leave it out", wire)
	}
	_, err = resolve(spec, wire, fedkv.MaxLayers, anyProfile())
	return err
}

// byteUnits are what --budget may be given in; the longest suffixes come first.
var byteUnits = []struct {
	suffix string
	bytes  float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// parseBytes reads a number of bytes such as 8MB or 500KiB.
func parseBytes(flag, text string) (float64, error) {
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n > 0) || math.IsInf(n, 0) {
			break
		}
		return n * u.bytes, nil
	}
	return 0, usagef("--%s %q: must be a number of bytes such as 8MB, 500KiB or 6000000", flag, text)
}

// spending is --budget where the peers' tokens are known before anything is sent.
type spending struct {
	profile  *profile.Profile
	budget   string
	bytes    float64
	shape    fedkv.Shape
	minLayer int
	peers    int // the first contributors: this device's own documents cross no network

	// what the plan came to, once the question is asked
	tokens  int // of the peers
	planned int64
	wire    fedkv.Wire
}

// newSpending reads --budget, nil without one.
func newSpending(c *cli.Context, engine *llama.Engine, peers int) (*spending, error) {
	text := c.String("budget")
	if text == "" {
		return nil, nil
	}
	known, err := profileOf(c, engine.Fingerprint())
	if err != nil {
		return nil, err
	}
	bytes, err := parseBytes("budget", text)
	return &spending{profile: known, budget: text, bytes: bytes, shape: engine.Shape(), minLayer: c.Int("min-layer"), peers: peers}, err
}

// narrow is the first setting of the profile's ladder that the budget pays for; see node.Question.
func (s *spending) narrow(tokens []int) (t fedkv.Terms, err error) {
	s.tokens = 0
	for _, n := range tokens[:s.peers] {
		s.tokens += n
	}
	setting, err := s.profile.Within(fedkv.Gather, s.bytes/float64(max(s.tokens, 1)))
	if err != nil {
		return t, fmt.Errorf("--budget %s for %d tokens: %w", s.budget, s.tokens, err)
	}
	t = fedkv.Terms{Publisher: setting.Schedules.From(s.minLayer).Publisher, Wire: setting.Wire}
	s.planned, s.wire = 0, t.Wire
	for _, l := range t.Publisher.Layers() {
		for _, n := range tokens[:s.peers] {
			k, v, err := s.shape.Layers[l].BlockSize(t.Wire.At(l), n)
			if err != nil {
				return t, err
			}
			s.planned += int64(k + v)
		}
	}
	return t, nil
}

// String says what becomes of the budget.
func (s *spending) String() string {
	return fmt.Sprintf("the plan spends %s of %s on %d tokens of the peers", bytesText(s.planned), bytesText(int64(s.bytes)), s.tokens)
}

// withinBudget is the setting in gather that --budget pays for, if the contributors have so many tokens. p is nil if the
// model has no profile, and anyProfile before one is loaded.
func withinBudget(c *cli.Context, p *profile.Profile, tokens int) (s profile.Setting, err error) {
	bytes, err := parseBytes("budget", c.String("budget"))
	switch {
	case err != nil:
		return s, err
	case p == nil:
		return s, errors.New("--budget needs a profile of this model: make one with fedattn calibrate and give it with --profile")
	case p.Model.Layers == 0:
		return s, nil
	}
	if s, err = p.Within(fedkv.Gather, bytes/float64(max(tokens, 1))); err != nil {
		return s, fmt.Errorf("--budget %s for %d tokens: %w", c.String("budget"), tokens, err)
	}
	return s, nil
}
