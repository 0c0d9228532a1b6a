package lab

import (
	"context"
	"fmt"

	"fedattn/fedkv/node"
	"fedattn/fedkv/task"
)

// answeredTokens are as many as an answer is looked at for its sources.
const answeredTokens = 8

// sourceFirst is the share of problems with one fact at which the contributor that has it is the report's first source.
func (b Bench) sourceFirst(ctx context.Context, s TaskSetting, c Case) (float64, error) {
	setting, err := c.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return 0, err
	}
	setting.Outputs, setting.Answer, setting.Sources = 1, answeredTokens, true
	right, counted := 0, 0
	for i := range s.Problems {
		p, err := s.Task.Problem(s.Seed, uint64(i), c.Participants-1)
		if err != nil {
			return 0, err
		}
		if len(p.Facts) != 1 {
			continue
		}
		p.Parts = []task.Part{{Lead: p.Parts[0].Lead}}
		q, err := newTaskQuestion(b.Engine, s.Begin, p)
		if err != nil {
			return 0, fmt.Errorf("problem %d of %v: %w", i, s.Task, err)
		}
		result, err := within(ctx, b.Engine, b.Network, b.Self, q.prompt, setting, func(session *node.Session) error {
			_, err := session.Generate(ctx, greedy{}, answeredTokens, func([]byte) error { return nil })
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("the sources of problem %d: %w", i, err)
		}
		counted++
		if found := result.Report.Sources; len(found) > 0 && found[0].Number == p.Facts[0].Contributor {
			right++
		}
	}
	if counted == 0 {
		return 0, fmt.Errorf("the task %v has no problem with a single fact, of which a source could be named", s.Task)
	}
	return float64(right) / float64(counted), nil
}
