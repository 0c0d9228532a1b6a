package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/profile"
)

// Calibration is how a model is calibrated.
type Calibration struct {
	Windows []Window
	Start   fedkv.WireTypes // types with which nothing is saved yet
	Small   fedkv.WireTypes // types of a row that is to be small
	Rungs   []float64       // shares of the start's bytes at which the ladders are measured, falling

	// Contributors measures their layers too, on the first window: two sessions in lockstep for each layer, where the
	// others take the price of a publisher's segment each.
	Contributors bool
	// Note is told what is being measured; it may be nil.
	Note func(what string)
}

// calibrator measures settings on the windows.
type calibrator struct {
	Calibration
	engine Engine
	layers int
	gather []*Sweep

	startBytes float64 // that the publisher receives for each of the contributors' tokens before anything is saved
}

// Calibrate measures what each layer is worth and what each saving costs, and makes a profile of it.
func Calibrate(ctx context.Context, e Engine, c Calibration) (_ *profile.Profile, err error) {
	if len(c.Windows) == 0 {
		return nil, errors.New("calibration needs a window of text")
	}
	if c.Note == nil {
		c.Note = func(string) {}
	}
	k := &calibrator{Calibration: c, engine: e, layers: len(e.Shape().Layers)}
	p := &profile.Profile{Version: profile.Version, Model: profile.ModelOf(e.Fingerprint())}
	start := fedkv.Uniform(c.Start, k.layers)
	none, all, err := bothEnds(k.layers)
	if err != nil {
		return nil, err
	}
	c.Note("contributors alone")
	defer func() {
		for _, s := range k.gather {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, w := range c.Windows {
		s, err := NewSweep(ctx, e, w.Prompt, none, start)
		if err != nil {
			return nil, err
		}
		k.gather = append(k.gather, s)
	}
	if err := k.publisherLayers(ctx, p, none, all, start); err != nil {
		return nil, err
	}
	costs, err := k.savings(ctx, p, all, start)
	if err != nil {
		return nil, err
	}
	p.Gather = k.climb(costs, true)
	p.Gather.KLD = p.PublisherAll
	if err := k.measureRungs(ctx, p, fedkv.Gather, &p.Gather); err != nil {
		return nil, err
	}
	c.Note("lockstep")
	p.Lockstep = k.climb(costs, false)
	if p.Lockstep.KLD, err = k.session(ctx, all, all, start); err != nil {
		return nil, err
	}
	if err := k.measureRungs(ctx, p, fedkv.Lockstep, &p.Lockstep); err != nil {
		return nil, err
	}
	if c.Contributors {
		if p.ContributorsAll, err = k.lockstep(ctx, 1, all, all, start); err != nil {
			return nil, err
		}
		if err := k.contributorsLayers(ctx, p, all, start); err != nil {
			return nil, err
		}
	}
	return p, k.presets(ctx, p, none, all)
}

// safeWire is what bears lockstep at every layer almost without loss.
var safeWire = fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}

// presets are the settings that people name. V takes small rows with little loss; K does not.
func (k *calibrator) presets(ctx context.Context, p *profile.Profile, none, all fedkv.Schedule) error {
	frugal := fedkv.WireTypes{K: k.Start.K, V: k.Small.V}
	type named struct {
		name         string
		contributors fedkv.Schedule
		types        fedkv.WireTypes
	}
	list := []named{{"gather", none, frugal}, {"lockstep", all, safeWire}, {"lockstep-small", all, frugal}}
	if light, ok, err := k.light(p); err != nil {
		return err
	} else if ok {
		list = append(list, named{"light", light, frugal})
	}
	for _, n := range list {
		k.Note("preset " + n.name)
		wire := fedkv.Uniform(n.types, k.layers)
		kld, err := k.session(ctx, n.contributors, all, wire)
		if err != nil {
			return err
		}
		bytes := 0.0
		for l := range k.layers {
			bytes += k.layerBytes(l, n.types)
		}
		p.Presets = append(p.Presets, profile.Preset{
			Name: n.name, Contributors: n.contributors.String(), Publisher: all.String(), Wire: wire.String(),
			KLD: kld, BytesPerToken: bytes,
		})
	}
	return nil
}

// session measures a setting on all windows; contributors who are alone are evaluated already.
func (k *calibrator) session(ctx context.Context, contributors, publisher fedkv.Schedule, wire fedkv.Wire) (kld float64, err error) {
	if contributors.Count() > 0 {
		return k.lockstep(ctx, len(k.Windows), contributors, publisher, wire)
	}
	kld, _, err = k.try(ctx, k.gather, publisher, wire)
	return kld, err
}

// light is the two layers that are each the best for contributors to meet at: with the publisher's wait, three
// barriers.
func (k *calibrator) light(p *profile.Profile) (s fedkv.Schedule, ok bool, err error) {
	if len(p.ContributorsSingle) < 2 {
		return s, false, nil
	}
	order := make([]int, k.layers)
	for l := range order {
		order[l] = l
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.ContributorsSingle[a], p.ContributorsSingle[b]) })
	s, err = fedkv.NewSchedule(k.layers, order[:2]...)
	return s, err == nil, err
}

func bothEnds(layers int) (none, all fedkv.Schedule, err error) {
	if none, err = fedkv.ParseSchedule("none", layers); err == nil {
		all, err = fedkv.ParseSchedule("all", layers)
	}
	return none, all, err
}

// without is the schedule of all layers but one.
func without(layers, layer int) (fedkv.Schedule, error) {
	var keep []int
	for l := range layers {
		if l != layer {
			keep = append(keep, l)
		}
	}
	return fedkv.NewSchedule(layers, keep...)
}

// try is the mean KL divergence over the windows of a publisher on given sweeps, and the bytes it receives for each of
// the contributors' tokens.
func (k *calibrator) try(ctx context.Context, sweeps []*Sweep, sync fedkv.Schedule, wire fedkv.Wire) (kld, bytes float64, err error) {
	tokens, received := 0, int64(0)
	for i, s := range sweeps {
		w := k.Windows[i]
		run, n, err := s.Publish(ctx, sync, wire)
		if err != nil {
			return 0, 0, err
		}
		r, err := measure.Compare(w.Base, run, k.engine.Vocabulary(), w.Prompt.Own())
		if err != nil {
			return 0, 0, err
		}
		kld += r.KLMean / float64(len(sweeps))
		received += n
		tokens += w.Prompt.Contributed()
	}
	return kld, float64(received) / float64(max(tokens, 1)), nil
}

func (k *calibrator) publisherLayers(ctx context.Context, p *profile.Profile, none, all fedkv.Schedule, wire fedkv.Wire) (err error) {
	if p.PublisherAll, k.startBytes, err = k.try(ctx, k.gather, all, wire); err != nil {
		return err
	}
	if p.PublisherNone, _, err = k.try(ctx, k.gather, none, wire); err != nil {
		return err
	}
	p.PublisherLeaveOneOut, p.PublisherSingle, err = k.eachLayer("publisher", func(s fedkv.Schedule) (float64, error) {
		kld, _, err := k.try(ctx, k.gather, s, wire)
		return kld, err
	})
	return err
}

// eachLayer measures the schedules of all layers but one, and of one only, by layer.
func (k *calibrator) eachLayer(whose string, try func(fedkv.Schedule) (float64, error)) (leaveOneOut, single []float64, err error) {
	for l := range k.layers {
		k.Note(fmt.Sprintf("%s without and with layer %d of %d only", whose, l, k.layers))
		but, err := without(k.layers, l)
		if err != nil {
			return nil, nil, err
		}
		only, err := fedkv.NewSchedule(k.layers, l)
		if err != nil {
			return nil, nil, err
		}
		kld, err := try(but)
		if err != nil {
			return nil, nil, err
		}
		leaveOneOut = append(leaveOneOut, kld)
		if kld, err = try(only); err != nil {
			return nil, nil, err
		}
		single = append(single, kld)
	}
	return leaveOneOut, single, nil
}

// saving is one thing that can be saved at one layer.
type saving struct {
	layer int
	what  savingKind
	kld   float64 // what it costs, on its own
	bytes float64 // what it saves, for each of the contributors' tokens
}

type savingKind int

const (
	smallK savingKind = iota
	smallV
	leaveOut
)

// savings measures each on its own.
func (k *calibrator) savings(ctx context.Context, p *profile.Profile, all fedkv.Schedule, start fedkv.Wire) ([]saving, error) {
	var list []saving
	for l := range k.layers {
		k.Note(fmt.Sprintf("small rows at layer %d of %d", l, k.layers))
		for what, types := range []fedkv.WireTypes{{K: k.Small.K, V: k.Start.V}, {K: k.Start.K, V: k.Small.V}} {
			kld, left, err := k.try(ctx, k.gather, all, start.With(l, types))
			if err != nil {
				return nil, err
			}
			list = append(list, saving{l, savingKind(what), kld - p.PublisherAll, k.startBytes - left})
		}
		list = append(list, saving{l, leaveOut, p.PublisherLeaveOneOut[l] - p.PublisherAll, k.layerBytes(l, k.Start)})
	}
	return list, nil
}

// layerBytes is what the rows of one layer take for each of the contributors' tokens.
func (k *calibrator) layerBytes(layer int, types fedkv.WireTypes) float64 {
	var bytes, tokens float64
	for _, s := range k.gather {
		last := len(s.layout.Segments) - 1
		for _, e := range s.layout.Segments[:last] {
			_, n := s.needed(layer, e, s.layout.Segments[last].Offset)
			if kb, vb, err := k.engine.Shape().Layers[layer].BlockSize(types, n); err == nil {
				bytes += float64(kb + vb)
			}
			tokens += float64(e.Tokens)
		}
	}
	return bytes / max(tokens, 1)
}

// leastCost stands for what is too small to be told from nothing, so that the order of such savings is that of their
// bytes.
const leastCost = 1e-5

// climb orders savings, the most bytes for the least divergence first. What they cost together is taken to be the sum,
// which the rungs that are measured then put right.
func (k *calibrator) climb(savings []saving, leaveOuts bool) profile.Ladder {
	types := make([]fedkv.WireTypes, k.layers)
	paid := make([]float64, k.layers)
	gone := make([]bool, k.layers)
	start := 0.0
	for l := range types {
		types[l] = k.Start
		start += k.layerBytes(l, k.Start)
	}
	ladder := profile.Ladder{Wire: k.Start.String(), BytesPerToken: start}
	bytes := start
	left := slices.Clone(savings)
	layers := k.layers
	for {
		best, bestRate, bestCost, bestBytes := -1, math.Inf(1), 0.0, 0.0
		for i, s := range left {
			if gone[s.layer] || s.what == leaveOut && (!leaveOuts || layers == 1) {
				continue // without any layer nothing would be exchanged
			}
			cost, saved := max(s.kld, leastCost), s.bytes
			if s.what == leaveOut {
				cost = max(s.kld-paid[s.layer], leastCost)
				saved = k.layerBytes(s.layer, types[s.layer])
			}
			if rate := cost / saved; saved > 0 && rate < bestRate {
				best, bestRate, bestCost, bestBytes = i, rate, cost, saved
			}
		}
		if best < 0 {
			return ladder
		}
		s := left[best]
		left = slices.Delete(left, best, best+1)
		paid[s.layer] += bestCost
		bytes -= bestBytes
		step := profile.Step{Layer: s.layer, BytesPerToken: bytes}
		switch s.what {
		case smallK:
			types[s.layer].K = k.Small.K
		case smallV:
			types[s.layer].V = k.Small.V
		case leaveOut:
			gone[s.layer] = true
			layers--
		}
		if s.what != leaveOut {
			step.Types = types[s.layer].String()
		}
		ladder.Steps = append(ladder.Steps, step)
	}
}

// rungs are the steps after which a ladder is measured: the first below each share of the start's bytes, and the last.
func (k *calibrator) rungs(l profile.Ladder) []int {
	var at []int
	for _, share := range k.Rungs {
		for n, s := range l.Steps {
			if s.BytesPerToken <= share*l.BytesPerToken {
				at = append(at, n)
				break
			}
		}
	}
	return slices.Compact(at)
}

// measureRungs measures a ladder of p at its rungs.
func (k *calibrator) measureRungs(ctx context.Context, p *profile.Profile, regime fedkv.Regime, ladder *profile.Ladder) error {
	for _, n := range k.rungs(*ladder) {
		k.Note(fmt.Sprintf("%v with %.0f bytes a token", regime, ladder.Steps[n].BytesPerToken))
		s, err := p.Rung(regime, n+1)
		if err != nil {
			return err
		}
		kld, err := k.session(ctx, s.Schedules.Contributors, s.Schedules.Publisher, s.Wire)
		if err != nil {
			return err
		}
		ladder.Steps[n].KLD = &kld
	}
	return nil
}

// lockstep is try, on the first windows, for contributors that exchange rows among themselves.
func (k *calibrator) lockstep(ctx context.Context, windows int, contributors, publisher fedkv.Schedule, wire fedkv.Wire) (kld float64, err error) {
	var sweeps []*Sweep
	defer func() {
		for _, s := range sweeps {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, w := range k.Windows[:windows] {
		s, err := NewSweep(ctx, k.engine, w.Prompt, contributors, wire)
		if err != nil {
			return 0, err
		}
		sweeps = append(sweeps, s)
	}
	kld, _, err = k.try(ctx, sweeps, publisher, wire)
	return kld, err
}

func (k *calibrator) contributorsLayers(ctx context.Context, p *profile.Profile, all fedkv.Schedule, wire fedkv.Wire) (err error) {
	p.ContributorsLeaveOneOut, p.ContributorsSingle, err = k.eachLayer("contributors", func(s fedkv.Schedule) (float64, error) {
		return k.lockstep(ctx, 1, s, all, wire)
	})
	return err
}
