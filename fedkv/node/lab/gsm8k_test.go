package lab

import (
	"slices"
	"strings"
	"testing"
)

func TestSolvedIsTheLastNumber(t *testing.T) {
	p := Problem{Question: "How many?", Answer: "48/2 = <<48/2=24>>24 clips.\nSo 48+24 = <<48+24=72>>72.\n#### 1,072"}
	for text, want := range map[string]bool{
		"The answer is 1072":                  true,
		"so 5 and 6 make $1,072.00.":          true,
		"The answer is 1072.5":                false,
		"The answer is -1072":                 false,
		"It is 1072, not 9":                   false,
		"1072\n\nQuestion: and what about 7?": true, // what follows is the model's own question
		"Question: 1072":                      false,
		"none":                                false,
		"":                                    false,
		"1072,":                               true,
	} {
		if got := p.Solved(text); got != want {
			t.Errorf("%q is solved: %v", text, got)
		}
	}
	if want := "48/2 = 24 clips.\nSo 48+24 = 72.\nThe answer is 1,072"; p.Solution() != want {
		t.Errorf("solution %q, want %q", p.Solution(), want)
	}
	if !p.Solved(p.Solution()) {
		t.Error("the true solution is none")
	}
}

func TestReadProblems(t *testing.T) {
	problems, err := ReadProblems(strings.NewReader(`{"question": "a?", "answer": "#### 1"}` + "\n\n" + `{"question": "b?", "answer": "x\n#### 2"}`))
	if err != nil || len(problems) != 2 || problems[1].Question != "b?" {
		t.Errorf("%+v, %v", problems, err)
	}
	for text, want := range map[string]string{
		"":                                 "no problems",
		"{":                                "line 1 is no problem of GSM8K",
		`{"answer": "#### 1"}`:             "it has no question",
		`{"question": "a", "answer": "1"}`: "####",
	} {
		if _, err := ReadProblems(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSplitExamples(t *testing.T) {
	examples := []string{"Question: a?\nstep\n\n", "Question: b?\nThe Question: is no other\n", "Question: c?"}
	got, err := SplitExamples(strings.Join(examples, ""))
	if err != nil || !slices.Equal(got, examples) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := SplitExamples("\nQuestion: a?"); err != nil || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"", "nothing"} {
		if got, err := SplitExamples(text); err == nil {
			t.Errorf("%q has examples %q", text, got)
		}
	}
}
