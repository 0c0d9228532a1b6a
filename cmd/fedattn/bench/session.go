package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/rowcache"
)

// rowMemory is how many bytes of the asker's own rows are kept for a warm question.
const rowMemory = 256 << 20

// frame is what everybody sees before the documents, and what follows them.
type frame struct{ prefix, own []fedkv.Token }

func (b *Bench) frame(number, question int) (f frame, err error) {
	e := b.cfg.Engine
	words, err := e.Frame(system(number))
	if err != nil {
		return f, fmt.Errorf("%w; federated tests need an instruction-tuned model: give one with --model, or leave them out with -fp 0", err)
	}
	text, err := e.Tokenize(questions[question])
	return frame{words.Prefix, append(text, words.Suffix...)}, err
}

// startBeside makes the asker's own document one more contributor, as fedattn ask --doc does.
func (f *fleet) startBeside(b *Bench, d node.Document) error {
	source, err := node.NewDocuments(b.cfg.Engine, d.Name, []node.Document{d})
	if err != nil {
		return err
	}
	self := b.cfg.Self
	self.Role, self.Name = fedkv.RoleContributor, d.Name
	rows := rowcache.Open(rowcache.Config{Memory: rowMemory})
	contact, stop := node.Beside(context.Background(), d.Name, node.ContributorConfig{
		Engine: b.cfg.Engine, Self: self, ID: b.cfg.ID, Device: b.cfg.Device, Source: source,
		MaxContext: b.cfg.Context, MicroBatch: b.cfg.MicroBatch, Rows: rows, Log: b.cfg.Log,
	})
	f.beside = &contact
	f.closers = append(f.closers, func() { stop(); rows.Close() })
	return nil
}

// steady chooses words without looking at them, as llama-bench does, so that an answer has the length that is measured.
type steady struct {
	tokens []fedkv.Token
	next   int
}

func (s *steady) Next(node.Cache, int) (fedkv.Token, error) {
	s.next++
	return s.tokens[s.next%len(s.tokens)], nil
}

// ordinary tokens end no answer.
func ordinary(e node.Engine, tokens []fedkv.Token) (list []fedkv.Token) {
	for _, t := range tokens {
		if !e.EndsGeneration(t) {
			list = append(list, t)
		}
	}
	return list
}

// ask is one question: its time to the first token, and the times of answers of these lengths.
func (b *Bench) ask(ctx context.Context, f *fleet, s session, number, question int, generates []int) (first Sample, answers []Sample, err error) {
	words, err := b.frame(number, question)
	if err != nil {
		return first, nil, err
	}
	addresses, err := f.at(s.link)
	if err != nil {
		return first, nil, err
	}
	longest := 1 // the first token comes with the prompt
	if n := len(generates); n > 0 {
		longest += generates[n-1]
	}
	x := s.exchange
	self := b.cfg.Self
	self.Role = fedkv.RolePublisher
	q := node.Question{
		Engine: b.cfg.Engine, Self: self, ID: b.cfg.ID, Prefix: words.prefix, Own: words.own, Answer: longest,
		Schedules: x.Schedules, Wire: x.Wire, Positions: x.Positions, HomeType: x.Home,
		MaxContext: b.cfg.Context, SetupBy: b.cfg.Timeout, GatherBy: b.cfg.Timeout, RequireAll: true,
		MaxStaging: b.cfg.MaxStaging, Log: b.cfg.Log,
	}
	for i, address := range addresses {
		q.Contacts = append(q.Contacts, node.Contact{Name: deviceName(len(addresses)+1, i), Home: x.Home != 0,
			Dial: func(ctx context.Context) (node.Link, error) { return b.cfg.Dial(ctx, address) }})
	}
	if f.beside != nil {
		q.Contacts = append(q.Contacts, *f.beside)
	}
	before := b.power.joules()
	session, err := node.Ask(ctx, q)
	if err != nil {
		return first, nil, f.gone(err)
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	evaluated := session.Report()
	if n := evaluated.Present(); n < len(q.Contacts) {
		return first, nil, f.gone(fmt.Errorf("of %d devices %d took part", len(q.Contacts)+1, n+1))
	}
	var times []time.Time // of the answer's tokens
	var drawn []float64   // energy until then
	_, err = session.Generate(ctx, &steady{tokens: b.ordinary}, longest, func([]byte) error {
		times, drawn = append(times, time.Now()), append(drawn, b.power.joules())
		return nil
	})
	if err != nil {
		return first, nil, f.gone(err)
	}
	if len(times) < longest {
		return first, nil, fmt.Errorf("the answer ended after %d tokens of %d", len(times), longest)
	}
	r := session.Report()
	first = Sample{Tokens: r.Layout.Total(), TTFTMS: r.TTFTMS, WaitMS: r.WaitMS, SyncMS: r.SyncMS,
		Took: time.Duration(r.TTFTMS * float64(time.Millisecond))}
	for _, p := range r.Peers {
		if p.Origin < len(addresses) {
			first.Bytes += p.Bytes
		}
	}
	first.Joules = drawn[0] - before
	first.Bytes += evaluated.Home.Sent + evaluated.Home.Received // rounds of the answer are not the prompt's
	for _, n := range generates {
		answers = append(answers, Sample{Tokens: n, Took: times[n].Sub(times[0]), Joules: drawn[n] - drawn[0]})
	}
	return first, answers, nil
}

// runSession makes the tests of a session: a question that nobody has rows for, and another one about the same documents.
// Answers are decoded after the first of the two that counts.
func (b *Bench) runSession(ctx context.Context, f *fleet, s session) (samples []Sample, err error) {
	b.number++
	generates := s.generates
	for question, counts := range []bool{s.cold, s.warm} {
		if question == 1 && !s.warm {
			break
		}
		var lengths []int
		if counts {
			lengths, generates = generates, nil
		}
		first, answers, err := b.ask(ctx, f, s, b.number, question, lengths)
		if err != nil {
			return nil, err
		}
		if counts {
			samples = append(append(samples, first), answers...)
		}
	}
	return samples, nil
}
