package main

import (
	"fmt"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
	"fedattn/fedkv/task"
)

// task has the cases solve problems that the publisher cannot solve alone.
func (r evalRun) task() error {
	kind, err := task.Parse(r.String("task"))
	if err != nil {
		return usagef("--task: %v", err)
	}
	if err := atLeast(r.Context, 2, "problems"); err != nil {
		return err
	}
	cases, err := evalCases(r.Context, fedkv.MaxLayers, anyProfile())
	if err != nil {
		return err
	}
	for _, n := range participantsOf(cases) {
		if err := kind.Check(n - 1); err != nil {
			return usagef("--participants %d: %v", n, err)
		}
	}
	bench, engine, err := openBench(r.Context, r.network)
	if err != nil {
		return err
	}
	defer engine.Close()
	if cases, err = modelCases(r.Context, engine); err != nil {
		return err
	}
	setting := lab.TaskSetting{Task: kind, Problems: r.Int("problems"), Seed: uint64(r.Int("seed")), References: true,
		Sources: r.Bool("sources")}
	if setting.Begin, err = engine.TokenizeDocument(""); err != nil {
		return err
	}
	var all []lab.Case
	for _, ec := range cases {
		all = append(all, ec.Case)
	}
	var failed error
	notes := map[string]bool{}
	err = bench.MeasureTask(r.Context.Context, setting, all, func(l lab.TaskLine) {
		if failed == nil {
			failed = r.out.record(taskRecord(l))
		}
		if l.SourceFirst != nil {
			fmt.Fprintf(r.App.ErrWriter, "%d participants: the right device is the first source of %s of the answers\n", l.Participants, percent(*l.SourceFirst))
		}
		if l.Note != "" && !notes[l.Note] {
			notes[l.Note] = true
			fmt.Fprintf(r.App.ErrWriter, "%d participants: %s\n", l.Participants, l.Note)
		}
	})
	return first(err, failed)
}

var taskHeader = []string{"", "N", "contributors", "publisher", "K/V", "rows", "positions", "solved", "answer NLL", "KiB", "B/token", "barriers", "s"}

func taskRecord(l lab.TaskLine) record {
	return record{
		object: l, header: taskHeader,
		cells: append(caseCells(l.Case), fmt.Sprintf("%.1f ± %.1f %%", 100*l.EM, 100*l.EMSE), plusMinus(l.AnswerNLL, l.AnswerNLLSE, 4),
			l.KVBytes>>10, fmt.Sprintf("%.0f", l.KVBytesPerToken), l.Barriers, fmt.Sprintf("%.1f", l.Seconds)),
	}
}
