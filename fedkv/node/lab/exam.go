package lab

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
)

// Exam is the paper's way to ask for GSM8K: solved examples, then a problem, cut among the participants in one of four
// ways.
type Exam struct {
	Prefix    []fedkv.Token // public, before the examples
	Examples  []string      // the shots, each with the line feeds that follow it
	Problems  []Problem
	Segments  string // tok: tokens cut evenly; sem: whole examples
	Exclusive bool   // the publisher alone holds the problem
	Predict   int    // most tokens of an answer; 0: none is asked for
}

// ExamLine is a case's result in an exam: means over the problems, with standard errors (se). Likelihoods are of the
// true solution's tokens, negative logarithms in nats per token; base is one process that evaluates everything.
type ExamLine struct {
	Case
	Problems   int     `json:"problems"`
	Shots      int     `json:"shots"`
	Segments   string  `json:"segments"`
	Question   string  `json:"question"`
	Predict    int     `json:"predict"`
	Tokens     int     `json:"tokens"` // of a prompt, without solution
	EM         float64 `json:"em"`     // share of problems that are solved; 0 without answers
	EMSE       float64 `json:"em_se"`
	EMBase     float64 `json:"em_base"`
	GoldNLL    float64 `json:"gold_nll"`
	GoldNLLSE  float64 `json:"gold_nll_se"`
	GoldBase   float64 `json:"gold_nll_base"`
	GoldLoss   float64 `json:"gold_nll_loss"` // by how much gold_nll is above its base, problem by problem
	GoldLossSE float64 `json:"gold_nll_loss_se"`
	KLDMean    float64 `json:"kld_mean"` // at the true solution's tokens
	KLDMeanSE  float64 `json:"kld_mean_se"`
	SameTop    float64 `json:"same_top"`
	Traffic
	Seconds float64 `json:"seconds"` // of a session with an answer, if there is one
}

// Ways to hand out the problem.
const (
	ExclusiveQuestion = "exclusive"
	AgnosticQuestion  = "agnostic"
)

// examination is what was seen of one case: an entry for each problem.
type examination struct {
	solved, nll, base, loss []float64
	series                  []measure.Series
	runs                    []Result
	contributed             int // tokens
	seconds                 float64
}

// Examine takes one process through the exam, and every case. The lines come in this order. Progress may be nil; it is
// told how many problems are done.
func (b Bench) Examine(ctx context.Context, exam Exam, cases []Case, progress func(done int)) ([]ExamLine, error) {
	tokenised := make([][]fedkv.Token, len(exam.Examples))
	for i, text := range exam.Examples {
		var err error
		if tokenised[i], err = b.Engine.Tokenize(text); err != nil {
			return nil, err
		}
	}
	one := centralisedCase(0)
	if len(cases) > 0 {
		one.Seed = cases[0].Seed
	}
	seen := make([]examination, 1+len(cases))
	total := 0
	for n, problem := range exam.Problems {
		question, err := b.Engine.Tokenize(problem.Asked())
		if err != nil {
			return nil, err
		}
		gold, err := b.Engine.Tokenize(problem.Solution())
		if err != nil {
			return nil, err
		}
		all := Prompt{Prefix: exam.Prefix, Segments: [][]fedkv.Token{slices.Concat(append(slices.Clone(tokenised), question)...)}}
		total += all.Tokens()
		base, err := b.centralisedExam(ctx, exam, problem, all, gold, &seen[0])
		if err != nil {
			return nil, err
		}
		for i, c := range cases {
			p, err := CutExamples(exam.Prefix, tokenised, question, c.Participants, exam.Segments == "sem", exam.Exclusive)
			if err != nil {
				return nil, err
			}
			if err := b.examine(ctx, c, exam, problem, p, gold, base, &seen[1+i]); err != nil {
				return nil, fmt.Errorf("problem %d: %w", n+1, err)
			}
		}
		if progress != nil {
			progress(n + 1)
		}
	}
	var lines []ExamLine
	for i, c := range append([]Case{one}, cases...) {
		l := seen[i].line(c)
		l.Problems, l.Shots, l.Segments, l.Predict = len(exam.Problems), len(exam.Examples), exam.Segments, exam.Predict
		l.Question = AgnosticQuestion
		if exam.Exclusive {
			l.Question = ExclusiveQuestion
		}
		l.Tokens = total / max(1, len(exam.Problems))
		l.EMBase, _ = measure.MeanSE(seen[0].solved)
		if i > 0 {
			schedules, err := c.schedules(len(b.Engine.Shape().Layers))
			if err != nil {
				return nil, err
			}
			l.Barriers = schedules.Barriers(c.Participants)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// withGold is the prompt with the true solution behind the publisher's part.
func withGold(p Prompt, gold []fedkv.Token) Prompt {
	p.Segments = slices.Clone(p.Segments)
	last := len(p.Segments) - 1
	p.Segments[last] = slices.Concat(p.Segments[last], gold)
	return p
}

// centralisedExam returns the logits of one process from the prompt's last token on, [1 + solution][vocabulary].
func (b Bench) centralisedExam(ctx context.Context, exam Exam, problem Problem, p Prompt, gold []fedkv.Token, to *examination) ([]float32, error) {
	base, err := centralised(ctx, b.Engine, withGold(p, gold), false, 1+len(gold))
	if err != nil {
		return nil, err
	}
	series, err := measure.Each(base, base, b.Engine.Vocabulary(), tail(p, gold))
	if err != nil {
		return nil, err
	}
	to.add(series)
	if exam.Predict > 0 {
		started := time.Now()
		text, err := b.AnswerCentralised(ctx, p, exam.Predict, anotherQuestion)
		if err != nil {
			return nil, err
		}
		to.seconds += time.Since(started).Seconds()
		to.answered(problem, text)
	}
	return base, nil
}

// tail is the prompt's last token and the solution.
func tail(p Prompt, gold []fedkv.Token) []fedkv.Token {
	own := p.Own()
	return slices.Concat(own[len(own)-1:], gold)
}

func (b Bench) examine(ctx context.Context, c Case, exam Exam, problem Problem, p Prompt, gold []fedkv.Token, base []float32, to *examination) error {
	setting, err := c.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return err
	}
	setting.Outputs = 1 + len(gold)
	result, err := Run(ctx, b.Engine, b.Network, b.Self, withGold(p, gold), setting)
	if err != nil {
		return err
	}
	series, err := measure.Each(base, result.Logits, b.Engine.Vocabulary(), tail(p, gold))
	if err != nil {
		return err
	}
	to.add(series)
	if exam.Predict > 0 {
		var text string
		if text, result, err = b.Answer(ctx, c, p, exam.Predict, anotherQuestion); err != nil {
			return err
		}
		to.answered(problem, text)
	}
	result.Logits = nil
	to.runs, to.contributed = append(to.runs, result), to.contributed+p.Contributed()
	return nil
}

func (e *examination) add(s measure.Series) {
	e.series = append(e.series, s)
	nll, _ := measure.MeanSE(s.NLL)
	base, _ := measure.MeanSE(s.NLLBase)
	e.nll, e.base, e.loss = append(e.nll, nll), append(e.base, base), append(e.loss, nll-base)
}

func (e *examination) answered(p Problem, text string) {
	solved := 0.0
	if p.Solved(text) {
		solved = 1
	}
	e.solved = append(e.solved, solved)
}

func (e *examination) line(c Case) ExamLine {
	l := ExamLine{Case: c}
	l.EM, l.EMSE = measure.MeanSE(e.solved)
	l.GoldNLL, l.GoldNLLSE = measure.MeanSE(e.nll)
	l.GoldBase, _ = measure.MeanSE(e.base)
	l.GoldLoss, l.GoldLossSE = measure.MeanSE(e.loss)
	r := measure.Pool(e.series...)
	l.KLDMean, l.KLDMeanSE, l.SameTop = r.KLMean, r.KLMeanSE, r.SameTop
	if len(e.runs) > 0 {
		l.Traffic, l.Seconds = traffic(e.runs, e.contributed)
	} else if len(e.solved) > 0 {
		l.Seconds = e.seconds / float64(len(e.solved))
	}
	return l
}
