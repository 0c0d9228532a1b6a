package lab

import (
	"context"
	"errors"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// Stop says that an answer is long enough, or that what comes next is no part of it. A nil Stop never does.
type Stop func(text string) bool

// Answer runs a case's session and decodes at most limit tokens after its prompt, always the most likely one.
func (b Bench) Answer(ctx context.Context, c Case, p Prompt, limit int, stop Stop) (string, Result, error) {
	setting, err := c.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return "", Result{}, err
	}
	return b.AnswerSetting(ctx, setting, p, limit, stop)
}

// AnswerSetting is Answer for a setting that no case has.
func (b Bench) AnswerSetting(ctx context.Context, s Setting, p Prompt, limit int, stop Stop) (string, Result, error) {
	s.Outputs, s.Answer = 1, limit
	a := answer{stop: stop}
	result, err := within(ctx, b.Engine, b.Network, b.Self, p, s, func(session *node.Session) error {
		_, err := session.Generate(ctx, greedy{}, limit, a.add)
		return a.ended(err)
	})
	return string(a.text), result, err
}

// AnswerCentralised is what one process answers that evaluates the whole prompt itself.
func (b Bench) AnswerCentralised(ctx context.Context, p Prompt, limit int, stop Stop) (string, error) {
	e := b.Engine
	tokens := p.stream()
	cache, err := e.OpenPlain(len(tokens)+limit, len(tokens), 1)
	if err != nil {
		return "", err
	}
	defer cache.Close()
	defer context.AfterFunc(ctx, cache.Interrupt)()
	a := answer{stop: stop}
	next := tokens
	for pos, decoded := 0, 0; decoded < limit; decoded++ {
		if err := cache.Eval(next, pos, 1, nil); err != nil {
			return "", errors.Join(ctx.Err(), err)
		}
		pos += len(next)
		token, err := greedy{}.Next(cache, -1)
		if err != nil {
			return "", err
		}
		if e.EndsGeneration(token) {
			break
		}
		if err := a.add(e.Piece(token)); err != nil {
			return string(a.text), a.ended(err)
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		next = []fedkv.Token{token}
	}
	return string(a.text), nil
}

// errStopped is how a Stop ends the decoding.
var errStopped = errors.New("the answer is long enough")

type answer struct {
	text []byte
	stop Stop
}

func (a *answer) add(piece []byte) error {
	a.text = append(a.text, piece...)
	if a.stop != nil && a.stop(string(a.text)) {
		return errStopped
	}
	return nil
}

func (a *answer) ended(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// greedy takes the most likely token, the first of equals.
type greedy struct{}

func (greedy) Next(c node.Cache, i int) (fedkv.Token, error) {
	logits, err := c.Logits(i)
	if err != nil {
		return 0, err
	}
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return fedkv.Token(best), nil
}
