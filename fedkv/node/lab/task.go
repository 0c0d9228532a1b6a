package lab

import (
	"context"
	"fmt"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/task"
)

// TaskSetting says which problems are given to a model.
type TaskSetting struct {
	Task     task.Task
	Problems int           // how many, 2 or more
	Seed     uint64        // of the problems, and of everything random in the sessions
	Begin    []fedkv.Token // what the model wants at the beginning of a text; every participant evaluates it

	// References has one process and the publisher without anybody told as lines of their own, before the first case of
	// a number of participants: their problems depend on it.
	References bool
	// Sources has every case's sessions answer too, and counts where the report's first source is the right one.
	Sources bool
}

// When a task is valid for a model, so that what federated attention loses can be told from what the model cannot do
// and from what the publisher can do alone.
const (
	leastCentralEM = 0.6 // one process that has everything must solve this share of the problems
	mostAboveLocal = 0.1 // a publisher without anybody may solve this share more than chance
)

// TaskLine is a Case with what it makes of a task: means over the problems. EM is the share of problems at which
// greedy decoding writes exactly the words that are missing. NLL is the negative log-likelihood, in nats, of these words
// after everything before them. Both are also told of one process that has the whole text (central) and of the publisher
// without anybody (local).
type TaskLine struct {
	Case
	Task             string  `json:"task"`
	Problems         int     `json:"problems"`
	EM               float64 `json:"em"`
	EMSE             float64 `json:"em_se"` // standard error
	EMCentral        float64 `json:"em_central"`
	EMLocal          float64 `json:"em_local"`
	AnswerNLL        float64 `json:"answer_nll"`
	AnswerNLLSE      float64 `json:"answer_nll_se"`
	AnswerNLLCentral float64 `json:"answer_nll_central"`
	AnswerNLLLocal   float64 `json:"answer_nll_local"`
	Chance           float64 `json:"chance"` // see task.Task
	Valid            bool    `json:"valid"`  // for this model; if not, em says little about the case
	Note             string  `json:"note"`   // why it is not valid
	// SourceFirst is the share of problems at which the report's first source is the contributor that has the fact, if
	// TaskSetting asks for it: of problems with one fact.
	SourceFirst *float64 `json:"source_first,omitempty"`
	Tokens      float64  `json:"tokens"` // of a problem, its answer included
	Traffic
	Seconds float64 `json:"seconds"` // of a session
}

// MeasureTask gives the same problems to one process, to a publisher whom nobody helps, and to real sessions of every
// case, and tells each case's result to report. The two references are measured once for each number of participants.
func (b Bench) MeasureTask(ctx context.Context, s TaskSetting, cases []Case, report func(TaskLine)) error {
	if s.Problems < 2 {
		return fmt.Errorf("%d problems: a standard error needs 2 or more", s.Problems)
	}
	layers := len(b.Engine.Shape().Layers)
	for _, c := range cases { // what cannot be measured is said before anything is
		if _, err := c.Setting(layers, b.Log); err != nil {
			return err
		}
		if err := s.Task.Check(c.Participants - 1); err != nil {
			return err
		}
	}
	references := map[int]*taskReference{}
	for _, c := range cases {
		c.Seed = s.Seed
		ref := references[c.Participants]
		if ref == nil {
			var err error
			if ref, err = b.taskReference(ctx, s, c.Participants); err != nil {
				return err
			}
			references[c.Participants] = ref
			if s.References {
				central := centralisedCase(s.Seed)
				central.Participants = c.Participants
				report(ref.line(central, s.Task, ref.central))
				report(ref.line(LocalOnly(c.Participants, s.Seed), s.Task, ref.local))
			}
		}
		scores, err := b.takeTask(ctx, c, ref.questions)
		if err != nil {
			return err
		}
		line := ref.line(c, s.Task, scores)
		if s.Sources {
			share, err := b.sourceFirst(ctx, s, c)
			if err != nil {
				return err
			}
			line.SourceFirst = &share
		}
		schedules, err := c.schedules(layers)
		if err != nil {
			return err
		}
		line.Barriers = schedules.Barriers(c.Participants)
		report(line)
	}
	return nil
}

// taskReference is what a number of participants is measured against.
type taskReference struct {
	questions      []taskQuestion
	central, local taskScores
}

func (b Bench) taskReference(ctx context.Context, s TaskSetting, participants int) (*taskReference, error) {
	ref := &taskReference{}
	for i := range s.Problems {
		p, err := s.Task.Problem(s.Seed, uint64(i), participants-1)
		if err != nil {
			return nil, err
		}
		q, err := newTaskQuestion(b.Engine, s.Begin, p)
		if err != nil {
			return nil, fmt.Errorf("problem %d of %v: %w", i, s.Task, err)
		}
		ref.questions = append(ref.questions, q)
		started := time.Now()
		logits, err := Centralised(ctx, b.Engine, q.prompt, false)
		if err != nil {
			return nil, fmt.Errorf("problem %d of %v in one process: %w", i, s.Task, err)
		}
		ref.central.runs = append(ref.central.runs, Result{Seconds: time.Since(started).Seconds()})
		if err := ref.central.add(b.Engine, q, logits); err != nil {
			return nil, fmt.Errorf("problem %d of %v in one process: %w", i, s.Task, err)
		}
	}
	var err error
	ref.local, err = b.takeTask(ctx, LocalOnly(participants, s.Seed), ref.questions)
	return ref, err
}

// takeTask runs a session for every question.
func (b Bench) takeTask(ctx context.Context, c Case, questions []taskQuestion) (taskScores, error) {
	var scores taskScores
	for i, q := range questions {
		result, err := b.Run(ctx, c, q.prompt)
		if err == nil {
			err = scores.add(b.Engine, q, result.Logits)
		}
		if err != nil {
			return scores, fmt.Errorf("problem %d with contributors=%s, publisher=%s: %w", i, c.Contributors, c.Publisher, err)
		}
		result.Logits = nil
		scores.runs, scores.contributed = append(scores.runs, result), scores.contributed+q.prompt.Contributed()
	}
	return scores, nil
}

func (r *taskReference) line(c Case, t task.Task, scores taskScores) TaskLine {
	l := TaskLine{Case: c, Task: t.String(), Problems: len(r.questions), Chance: t.Chance()}
	l.EM, l.EMSE = measure.MeanSE(scores.exact)
	l.AnswerNLL, l.AnswerNLLSE = measure.MeanSE(scores.nll)
	l.EMCentral, _ = measure.MeanSE(r.central.exact)
	l.EMLocal, _ = measure.MeanSE(r.local.exact)
	l.AnswerNLLCentral, _ = measure.MeanSE(r.central.nll)
	l.AnswerNLLLocal, _ = measure.MeanSE(r.local.nll)
	l.Traffic, l.Seconds = traffic(scores.runs, scores.contributed)
	tokens := 0
	for _, q := range r.questions {
		tokens += q.prompt.Tokens()
	}
	l.Tokens = float64(tokens) / float64(len(r.questions))
	l.Note = notValid(t, l.EMCentral, l.EMLocal)
	l.Valid = l.Note == ""
	return l
}

// notValid says why a task measures nothing with a model, and nothing if it does.
func notValid(t task.Task, central, local float64) string {
	switch {
	case local > t.Chance()+mostAboveLocal:
		return fmt.Sprintf("the task %v is not valid for this model: the publisher alone solves %.0f %% of the problems and may solve %.0f %%; use another task",
			t, 100*local, 100*(t.Chance()+mostAboveLocal))
	case central < leastCentralEM:
		return fmt.Sprintf("the task %v is not valid for this model: it solves %.0f %% of the problems when one process has everything and should solve %.0f %%; use an easier task, a larger model, or answer_nll",
			t, 100*central, 100*leastCentralEM)
	}
	return ""
}
