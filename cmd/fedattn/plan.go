package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/devices"
	"fedattn/fedkv"
	"fedattn/fedkv/planner"
	"fedattn/fedkv/profile"
	"fedattn/llama"
	"fedattn/models"
	"fedattn/transport"
)

func planCommand() *cli.Command {
	const session, limits = "Session", "Limits"
	return &cli.Command{
		Name:      "plan",
		Usage:     "predict what each way to ask would take, before anything runs",
		UsageText: "fedattn plan [flags] --model FILE --peer NAME|--device SPEC",
		Description: "For each schedule, wire types and split of a text: bytes, waits for the network, memory of each device, time to the first\n" +
			"token, tokens a second, and the KL divergence that the model's profile expects. This device is measured for two seconds,\n" +
			"once for each model and number of threads; a peer's link by sending 16 MiB each way, which ask, chat and serve with\n" +
			"--schedule auto know from then on. Devices that are not there are described:\n" +
			"--device pi5,tokens=2000,prefill=35,decode=9,rtt=2ms,rate=90Mbit, with tokens a second of a prompt and of an answer;\n" +
			"further memory=4GB, watts=10, trust=home, kept (its rows were computed before). self is this device.\n" +
			"A limit chooses: the best that keeps to it, or with --max-kld the fastest.",
		Flags: append(append(modelFlags(), profileFlag(session)), append([]cli.Flag{
			&cli.StringSliceFlag{Name: "peer", Usage: "device to measure the link to: `NAME` of a paired one, all, or ID@HOST:PORT", Category: session},
			&cli.StringSliceFlag{Name: "device", Usage: "`SPEC` of a device, see above; with the name of a --peer, what is known of it", Category: session},
			&cli.StringFlag{Name: "devices", Usage: "`FILE` of devices, YAML: devices: [{name: pi5, tokens: 2000, …}]", Category: session},
			&cli.IntFlag{Name: "tokens", Value: 1024, Usage: "`N` tokens of each device's text where nothing else is said", Category: session},
			&cli.IntFlag{Name: "question", Value: 64, Usage: "`N` tokens of the question", Category: session},
			&cli.IntFlag{Name: "system-tokens", Value: 32, Usage: "`N` tokens that all evaluate: chat header and system prompt", Category: session},
			&cli.IntFlag{Name: "predict", Aliases: []string{"n"}, Value: 128, Usage: "`N` tokens of the answer", Category: session},
			&cli.IntFlag{Name: "text", Usage: "`N` tokens of a text that may be shared out, a public one or this device's own", Category: session},
			&cli.StringFlag{Name: "quants", Usage: "choose for each device one of these quantisations, the loaded model's first: `LIST` such as Q4_K_M,Q8_0", Category: session},
			&cli.StringSliceFlag{Name: "schedule", Usage: "only this `SCHEDULE`, several times for several", Category: session},
			&cli.BoolFlag{Name: "measure", Usage: "measure again what was measured before", DisableDefaultText: true, Category: session},
			&cli.DurationFlag{Name: "deadline", Usage: "the first token within `TIME`", Category: limits},
			&cli.StringFlag{Name: "budget", Usage: "receive at most `BYTES` before it", Category: limits},
			&cli.Float64Flag{Name: "max-kld", Usage: "a KL divergence of at most `X` nats a token", Category: limits},
			&cli.Float64Flag{Name: "max-joules", Usage: "at most `X` joules until the end of the answer, of all devices", Category: limits},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object", DisableDefaultText: true}, configFlag(),
		}, discoveryFlags(session)...)...),
		Action: runPlan,
	}
}

// planned is what the command line says, as far as it is known without model and network.
type planned struct {
	peers     []transport.PeerAddress
	devices   []devices.Device // all but self
	self      devices.Device
	schedules []string
	quants    []planner.Quant
	limits    planner.Limits
}

func readPlanned(c *cli.Context) (p planned, err error) {
	if err := first(noArguments(c), checkModel(c), atLeast(c, 1, "tokens", "question"), atLeast(c, 0, "system-tokens", "predict", "text"),
		between(c, 0, 1e6, "max-kld", "max-joules")); err != nil {
		return p, err
	}
	for _, name := range []string{"tokens", "question", "predict", "text"} {
		if c.Int(name) > fedkv.MaxTokens {
			return p, usagef("--%s %d: a session has at most %d tokens", name, c.Int(name), fedkv.MaxTokens)
		}
	}
	if n := c.Int("system-tokens"); n > fedkv.MaxPrefix {
		return p, usagef("--system-tokens %d: at most %d", n, fedkv.MaxPrefix)
	}
	if c.Duration("deadline") < 0 {
		return p, usagef("--deadline %v: must be more than 0s", c.Duration("deadline"))
	}
	p.limits = planner.Limits{Deadline: c.Duration("deadline"), KLD: c.Float64("max-kld"), Joules: c.Float64("max-joules")}
	if text := c.String("budget"); text != "" {
		n, err := parseBytes("budget", text)
		if err != nil {
			return p, err
		}
		p.limits.Bytes = int64(n)
	}
	if list := c.String("quants"); list != "" {
		if p.quants, err = planner.QuantsNamed(strings.Split(list, ",")); err != nil {
			return p, usagef("--quants: %v", err)
		}
	}
	for _, spec := range c.StringSlice("schedule") {
		if err := checkSetting(spec, ""); err != nil {
			return p, err
		}
		p.schedules = append(p.schedules, spec)
	}
	if _, err := readProfile(c); err != nil {
		return p, err
	}
	if err := p.readDevices(c); err != nil {
		return p, err
	}
	if p.peers, err = namedPeers(c); err != nil {
		return p, err
	}
	if n := len(p.peers) + len(p.devices); n > fedkv.MaxParticipants-1 {
		return p, usagef("%d devices are named: one question can be asked of %d", n, fedkv.MaxParticipants-1)
	}
	if len(p.peers)+len(p.devices) == 0 {
		return p, usagef("nobody to ask: name devices with --peer, or describe them with --device or --devices")
	}
	return p, nil
}

// readDevices reads --devices and then --device, which may say more of one of the file.
func (p *planned) readDevices(c *cli.Context) error {
	var all []devices.Device
	if path := c.String("devices"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return usagef("--devices: %v", err)
		}
		if all, err = devices.ParseFile(text); err != nil {
			return usagef("--devices %s: %v", path, err)
		}
	}
	for _, text := range c.StringSlice("device") {
		d, err := devices.Parse(text)
		if err != nil {
			return usagef("--device: %v", err)
		}
		if slices.ContainsFunc(all, func(o devices.Device) bool { return o.Name == d.Name }) {
			return usagef("--device: %s is described twice", d.Name)
		}
		all = append(all, d)
	}
	for _, d := range all {
		if d.Name == devices.Self {
			p.self = d
			continue
		}
		p.devices = append(p.devices, d)
	}
	if (p.self.Prefill > 0) != (p.self.Decode > 0) {
		return usagef("--device self: prefill and decode belong together")
	}
	return nil
}

// described is a device as the plan sees it, and where its figures come from.
type described struct {
	Name   string
	Tokens int
	Speed  fedkv.Speed
	Way    fedkv.Way
	Memory int64
	Home   bool
	Kept   bool
	Source string // of the speed: measured, given, or as this device
}

func runPlan(c *cli.Context) error {
	p, err := readPlanned(c)
	if err != nil {
		return err
	}
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	known, err := profileOf(c, engine.Fingerprint())
	if err != nil {
		return err
	}
	all, err := p.describe(c, engine)
	if err != nil {
		return err
	}
	candidates, err := planCandidates(engine, known, p.schedules)
	if err != nil {
		return err
	}
	q := question(all, engine.Shape(), modelSize(engine))
	q.Case.Prefix, q.Case.Answer, q.Text = c.Int("system-tokens"), c.Int("predict"), c.Int("text")
	report := planReport{shape: engine.Shape(), devices: all, limits: p.limits}
	if len(p.quants) > 0 {
		assigned, found, err := q.Assign(candidates, p.quants, p.limits)
		if err != nil {
			return err
		}
		if report.best = -1; found {
			report.assigned, report.options, report.best = &assigned, []planner.Option{assigned.Option}, 0
		}
	} else {
		if report.options, err = q.Compare(candidates); err != nil {
			return err
		}
		report.best = planner.Pick(report.options, p.limits)
	}
	if c.Bool("json") {
		err = report.object(c.App.Writer)
	} else {
		report.tables(c.App.Writer)
	}
	if err == nil && report.best < 0 {
		if len(p.quants) > 0 {
			return fmt.Errorf("no way keeps to the limits with any of these quantisations: relax a limit, or name more with --quants")
		}
		return fmt.Errorf("no way keeps to the limits: the last column says what each one breaks")
	}
	return err
}

// describe measures what nobody said. This device is the last one.
func (p planned) describe(c *cli.Context, engine *llama.Engine) (list []described, err error) {
	size := modelSize(engine)
	self := described{Name: devices.Self, Tokens: c.Int("question"), Memory: p.self.Memory, Source: "given"}
	if self.Memory == 0 {
		self.Memory = models.Total()
	}
	if p.self.Prefill > 0 {
		self.Speed = fedkv.Rates(p.self.Prefill, p.self.Decode, engine.Shape(), size)
	} else {
		self.Source = "measured"
		if self.Speed, err = ownSpeed(c, engine, c.Bool("measure")); err != nil {
			return nil, err
		}
	}
	self.Speed.Watts = p.self.Watts
	paths, err := p.measurePaths(c)
	if err != nil {
		return nil, err
	}
	saidOf := map[string]devices.Device{}
	for _, d := range p.devices {
		saidOf[d.Name] = d
	}
	for i, to := range p.peers {
		name := to.Name
		if name == "" {
			name = to.ID.Short()
		}
		said := saidOf[name]
		delete(saidOf, name)
		d, err := p.one(c, engine, name, said, paths[i], self.Speed)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	for _, said := range p.devices {
		if _, left := saidOf[said.Name]; !left {
			continue
		}
		if said.Rate == 0 || !said.HasRTT {
			return nil, usagef("--device %s: say rtt and rate, or name it with --peer so that they are measured", said.Name)
		}
		d, err := p.one(c, engine, said.Name, said, measuredPath{}, self.Speed)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return append(list, self), nil
}

// one puts together what was said and what was measured of a device.
func (p planned) one(c *cli.Context, engine *llama.Engine, name string, said devices.Device, way measuredPath, like fedkv.Speed) (d described, err error) {
	d = described{Name: name, Tokens: said.Tokens, Way: way.way(), Memory: said.Memory, Home: said.Home || way.Home, Kept: said.Kept, Source: "as this device"}
	if said.HasRTT {
		d.Way.RTT = said.RTT
	}
	if said.Rate > 0 {
		d.Way.Up, d.Way.Down = said.Rate/8, said.Rate/8
	}
	if said.RateTo > 0 {
		d.Way.Down = said.RateTo / 8
	}
	weights := engine.Fingerprint().Weights.String()
	if d.Tokens == 0 && way.Weights == weights {
		d.Tokens = way.Tokens
	}
	if d.Tokens == 0 && said.Tokens == 0 {
		d.Tokens = c.Int("tokens")
	}
	d.Speed = like
	d.Speed.Watts = 0
	switch {
	case said.Prefill > 0 && said.Decode > 0:
		d.Speed, d.Source = fedkv.Rates(said.Prefill, said.Decode, engine.Shape(), modelSize(engine)), "given"
	case said.Prefill > 0:
		d.Speed, d.Source = fedkv.Rates(said.Prefill, 1/like.Decode(engine.Shape(), 1), engine.Shape(), modelSize(engine)), "given"
	case way.Weights == weights && way.PrefillMS > 0 && way.Tokens > 0:
		d.Speed, d.Source = way.speed(engine, like), "its last session"
	}
	d.Speed.Watts = said.Watts
	return d, nil
}

// measurePaths is the way to each peer, measured unless it was before.
func (p planned) measurePaths(c *cli.Context) (list []measuredPath, err error) {
	if len(p.peers) == 0 {
		return nil, nil
	}
	l, err := newLookout(c)
	if err != nil {
		return nil, err
	}
	defer l.endpoint.Close()
	for _, to := range p.peers { // one after the other: they may share a link
		m, known := knownPath(to.ID)
		if !known || c.Bool("measure") {
			if m, err = measurePath(c.Context, l, to); err != nil {
				return nil, err
			}
		}
		list = append(list, m)
	}
	return list, nil
}

// planCandidates are the ways to ask of this model, or those that were named.
func planCandidates(engine *llama.Engine, known *profile.Profile, schedules []string) ([]planner.Candidate, error) {
	all, err := planner.Candidates(engine.Shape(), known)
	if err != nil || len(schedules) == 0 {
		return all, err
	}
	var list []planner.Candidate
	for _, spec := range schedules {
		found := false
		for _, a := range all {
			if a.Schedule == spec {
				list, found = append(list, a), true
			}
		}
		if found {
			continue
		}
		plain, home, err := cutHome(spec)
		if err != nil {
			return nil, err
		}
		one := planner.Candidate{Schedule: spec, Home: home, Profile: true}
		if one.Setting, err = resolve(plain, "", engine.Layers(), known); err != nil {
			return nil, err
		}
		if home != 0 {
			one.Setting.Wire = unsent(engine.Layers())
		}
		if known != nil {
			one.KLD, one.Measured = known.Expect(one.Setting)
		}
		list = append(list, one)
	}
	return list, nil
}

// question is the case that these devices make, the last of which asks.
func question(all []described, shape fedkv.Shape, size fedkv.ModelSize) planner.Question {
	q := planner.Question{HomeOnly: map[int]bool{}}
	q.Case.Shape = shape
	for i, d := range all {
		q.Case.Participants = append(q.Case.Participants, fedkv.Planned{
			Name: d.Name, Tokens: d.Tokens, Speed: d.Speed, Way: d.Way, Model: size, Kept: d.Kept,
		})
		q.Memory = append(q.Memory, d.Memory)
		if d.Home {
			q.HomeOnly[i] = true
		}
	}
	return q
}

// asks is the command that an option is.
func asks(o planner.Option) string {
	var b strings.Builder
	switch {
	case o.Rung > 0:
		fmt.Fprintf(&b, "--schedule auto --budget %d", o.Cost.Received)
	case o.Profile:
		fmt.Fprintf(&b, "--schedule %s", o.Schedule)
	default:
		fmt.Fprintf(&b, "--schedule %s --wire %s", o.Schedule, o.Setting.Wire)
	}
	return b.String()
}

func planTime(d time.Duration) string {
	switch {
	case d >= 100*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
