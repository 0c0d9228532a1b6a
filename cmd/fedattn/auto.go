package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/planner"
	"fedattn/fedkv/profile"
	"fedattn/llama"
	"fedattn/models"
	"fedattn/transport"
)

// expectedAnswer is how many tokens an answer is expected to have, if so many are allowed.
const expectedAnswer = 128

// autoSchedule is the schedule that --schedule auto stands for, where this device, the links to all peers and their texts were
// measured, by fedattn plan and by sessions since; otherwise auto itself, which is gather. With --verbose it says why.
func autoSchedule(c *cli.Context, p party, engine *llama.Engine, known *profile.Profile, room int) (string, error) {
	if c.String("wire") != "" || c.String("budget") != "" || c.String("positions") != "" || c.Int("min-layer") > 0 || len(p.addresses) == 0 {
		return autoPreset, nil
	}
	q, measured, err := measuredQuestion(c, p, engine)
	if err != nil || !measured {
		return autoPreset, err
	}
	q.Room = room - q.Case.Prefix - q.Case.Participants[len(q.Case.Participants)-1].Tokens - c.Int("predict")
	candidates, err := planner.Candidates(engine.Shape(), known)
	if err != nil {
		return autoPreset, err
	}
	chosen, why, err := q.Auto(candidates)
	if err != nil { // the session will say what is wrong
		return autoPreset, nil
	}
	if c.Bool("verbose") {
		fmt.Fprintf(c.App.ErrWriter, "schedule: %s\n", why)
	}
	return chosen.Schedule, nil
}

// questionTokens is about what a question has, which is little beside the texts.
const questionTokens = 32

// measuredQuestion is what is about to be asked, as far as it was measured; false if anything of it was not.
func measuredQuestion(c *cli.Context, p party, engine *llama.Engine) (q planner.Question, measured bool, err error) {
	speed, known := knownSpeed(engine)
	if !known {
		return q, false, nil
	}
	size, weights := modelSize(engine), engine.Fingerprint().Weights.String()
	var all []described
	for _, a := range p.addresses {
		m, known := knownPath(a.ID)
		if !known || m.Weights != weights || m.Tokens == 0 || m.PrefillMS <= 0 {
			return q, false, nil
		}
		d := described{Name: a.Name, Tokens: m.Tokens, Way: m.way(), Home: m.Home, Speed: m.speed(engine, speed)}
		if d.Name == "" {
			d.Name = a.ID.Short()
		}
		all = append(all, d)
	}
	memory, err := memoryLimit(c)
	if err != nil {
		return q, false, err
	}
	if memory == 0 {
		if free := models.Available(); free > 0 {
			memory = free + size.Weights // which are there already
		}
	}
	self := described{Name: "this device", Tokens: questionTokens, Speed: speed, Memory: memory}
	q = question(append(all, self), engine.Shape(), size)
	if len(p.docs) > 0 {
		own := fedkv.Planned{Name: "own documents", Local: true, Speed: speed, Model: size}
		for _, d := range p.docs {
			tokens, err := engine.Tokenize(d.Text)
			if err != nil {
				return q, false, err
			}
			own.Tokens += len(tokens)
		}
		if last := len(q.Case.Participants) - 1; own.Tokens > 0 {
			q.Case.Participants = append(q.Case.Participants[:last:last], own, q.Case.Participants[last])
			q.Memory = append(q.Memory[:last:last], 0, q.Memory[last])
		}
	}
	frame, err := engine.Frame(c.String("system"))
	if err != nil {
		return q, false, nil // which is said where the frame is used
	}
	q.Case.Prefix, q.Case.Answer = min(len(frame.Prefix), fedkv.MaxPrefix), min(max(c.Int("predict"), 1), expectedAnswer)
	return q, true, nil
}

// speed is a peer's, as its last session told, if it is to this device at prompts as it is at single tokens.
func (m measuredPath) speed(engine *llama.Engine, like fedkv.Speed) fedkv.Speed {
	like.Watts = 0
	if whole := like.Prefill(engine.Shape(), 0, m.Tokens, 512); whole > 0 && m.PrefillMS > 0 {
		factor := whole / (m.PrefillMS / 1000)
		return like.Scaled(factor, factor)
	}
	return like
}

// remember notes what a session told of the peers whose links were measured: how long their texts are, how long they took
// to evaluate them, and whether their rows may leave them.
func remember(engine *llama.Engine, addresses []transport.PeerAddress, r node.Report) {
	if r.Regime != fedkv.Gather { // in lockstep they wait for each other, too
		return
	}
	for _, p := range r.Peers {
		if p.Origin >= len(addresses) {
			continue
		}
		id := addresses[p.Origin].ID
		m, known := knownPath(id)
		switch {
		case !known:
			continue
		case p.Missing != nil && p.Missing.Code == fedkv.CodeHome:
			m.Home = true
		case p.Missing != nil || p.Tokens == 0 || p.PrefillMS <= 0:
			continue
		default:
			m.Tokens, m.PrefillMS, m.Weights = p.Tokens, p.PrefillMS, engine.Fingerprint().Weights.String()
			m.Home = m.Home && p.Bytes == 0
		}
		_ = writeMeasured(pathFile(id), m) // it can be measured again
	}
}
