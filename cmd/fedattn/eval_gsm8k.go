package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node/lab"
	"fedattn/fedkv/task"
)

const problemCategory = "Problems"

func problemFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "gsm8k", Usage: "JSONL `FILE` of GSM8K's problems, with question and answer", Category: problemCategory},
		&cli.StringFlag{Name: "shots", Usage: "text `FILE` of solved examples, which each begin with Question:", Category: problemCategory},
		&cli.StringFlag{Name: "question", Value: lab.ExclusiveQuestion,
			Usage: "`WHO` holds GSM8K's problem: exclusive, the publisher alone; agnostic, it is cut like the examples", Category: problemCategory},
		&cli.IntFlag{Name: "predict", Value: 256, Usage: "answer with at most `N` tokens; 0: measure the true solution's likelihood only", Category: problemCategory},
		&cli.StringFlag{Name: "task", Usage: "`NAME` of a task that is generated: " + strings.Join(task.Names(), ", "), Category: problemCategory},
		&cli.BoolFlag{Name: "sources", Usage: "with --task: count how often the device that has the fact is the answer's first source",
			DisableDefaultText: true, Category: problemCategory},
		&cli.IntFlag{Name: "problems", Value: 100, Usage: "take the first `N` problems", Category: problemCategory},
	}
}

// gsm8kPrefix is what everybody may know of the prompt.
const gsm8kPrefix = "Problems and their solutions, step by step.\n\n"

// gsm8k examines the cases.
func (r evalRun) gsm8k() error {
	if err := first(atLeast(r.Context, 1, "problems"), atLeast(r.Context, 0, "predict")); err != nil {
		return err
	}
	exclusive, err := chosen(r.Context, "question", map[string]bool{lab.ExclusiveQuestion: true, lab.AgnosticQuestion: false})
	if err != nil {
		return err
	}
	exam := lab.Exam{Segments: r.String("segments"), Exclusive: exclusive, Predict: r.Int("predict")}
	if exam.Problems, err = readProblems(r.String("gsm8k")); err != nil {
		return err
	}
	exam.Problems = exam.Problems[:min(len(exam.Problems), r.Int("problems"))]
	if path := r.String("shots"); path != "" {
		text, err := readText("shots", path)
		if err != nil {
			return err
		}
		if exam.Examples, err = lab.SplitExamples(text); err != nil {
			return fmt.Errorf("%s: %w; give another file with --shots", path, err)
		}
	}
	cases, err := evalCases(r.Context, fedkv.MaxLayers, anyProfile())
	if err != nil {
		return err
	}
	for _, n := range participantsOf(cases) {
		if err := checkShare(exam, n); err != nil {
			return err
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
	if exam.Prefix, err = engine.TokenizeDocument(gsm8kPrefix); err != nil {
		return err
	}
	var all []lab.Case
	for _, ec := range slices.Concat(localOnly(cases, uint64(r.Int("seed"))), cases) {
		all = append(all, ec.Case)
	}
	lines, err := bench.Examine(r.Context.Context, exam, all, func(done int) {
		if r.Bool("verbose") {
			fmt.Fprintf(r.App.ErrWriter, "%d of %d problems\n", done, len(exam.Problems))
		}
	})
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := r.out.record(gsm8kRecord(l)); err != nil {
			return err
		}
	}
	return nil
}

// checkShare refuses more participants than there are whole examples for.
func checkShare(exam lab.Exam, participants int) error {
	holders, units := participants-1, len(exam.Examples)
	if !exam.Exclusive {
		holders, units = participants, units+1
	}
	switch {
	case exam.Exclusive && participants == 1 && units > 0:
		return usagef("--participants 1 with --question exclusive: nobody is left to hold the examples; give --question agnostic, or no --shots")
	case holders > 0 && units == 0:
		return usagef("--participants %d: there are no examples to share out; give some with --shots FILE, or --question agnostic", participants)
	case exam.Segments == "sem" && units < holders:
		return usagef("--participants %d: %d whole examples leave none for some of them; give fewer --participants, more --shots or --segments tok",
			participants, len(exam.Examples))
	}
	return nil
}

func readProblems(path string) ([]lab.Problem, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such file of problems: %s; give an existing one with --gsm8k", path)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	problems, err := lab.ReadProblems(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; give another file with --gsm8k", path, err)
	}
	return problems, nil
}

var gsm8kHeader = []string{"", "N", "contributors", "publisher", "K/V", "rows", "positions", "solved", "gold NLL", "above one process", "mean KL", "KiB", "B/token", "barriers", "s"}

func gsm8kRecord(l lab.ExamLine) record {
	solved := ""
	if l.Predict > 0 {
		solved = fmt.Sprintf("%.1f ± %.1f %%", 100*l.EM, 100*l.EMSE)
	}
	return record{
		object: l, header: gsm8kHeader,
		cells: append(caseCells(l.Case), solved, plusMinus(l.GoldNLL, l.GoldNLLSE, 4), plusMinus(l.GoldLoss, l.GoldLossSE, 4),
			plusMinus(l.KLDMean, l.KLDMeanSE, 4), l.KVBytes>>10, fmt.Sprintf("%.0f", l.KVBytesPerToken), l.Barriers, fmt.Sprintf("%.1f", l.Seconds)),
	}
}
