package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strings"
)

// Problem is one of GSM8K's: a question in words, and a solution that ends with a number.
type Problem struct {
	Question string `json:"question"`
	Answer   string `json:"answer"` // steps with calculator annotations, then "#### " and the number
}

// ReadProblems reads GSM8K's JSONL.
func ReadProblems(r io.Reader) ([]Problem, error) {
	var problems []Problem
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var p Problem
		err := json.Unmarshal(lines.Bytes(), &p)
		if err == nil && p.Question == "" {
			err = errors.New("it has no question")
		}
		if _, _, ok := strings.Cut(p.Answer, answerMark); err == nil && !ok {
			err = fmt.Errorf("its answer has no line that begins with %q", answerMark)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d is no problem of GSM8K: %w", n, err)
		}
		problems = append(problems, p)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(problems) == 0 {
		return nil, errors.New("there are no problems in it")
	}
	return problems, nil
}

const (
	answerMark   = "#### "
	questionMark = "Question: " // each example, and each problem, begins with it
	thinkStep    = "\nLet's think step by step\n"
	conclusion   = "The answer is "
)

// annotation is a calculator's note in a solution, such as <<48/2=24>>.
var annotation = regexp.MustCompile(`<<[^>]*>>`)

// Asked is the question as the usual examples put it.
func (p Problem) Asked() string { return questionMark + p.Question + thinkStep }

// Solution is the true solution as the usual examples write theirs.
func (p Problem) Solution() string {
	steps, number, _ := strings.Cut(p.Answer, answerMark)
	return annotation.ReplaceAllString(steps, "") + conclusion + strings.TrimSpace(number)
}

// Solved says whether a text comes to the problem's number: whether its last number has the same value.
func (p Problem) Solved(text string) bool {
	_, number, _ := strings.Cut(p.Answer, answerMark)
	want, ok := lastNumber(number)
	got, found := lastNumber(own(text))
	return ok && found && want.Cmp(got) == 0
}

// own is the part of an answer before the model begins a question of its own.
func own(text string) string {
	text, _, _ = strings.Cut(text, strings.TrimSpace(questionMark))
	return text
}

// anotherQuestion stops an answer where the model goes on with the next question.
func anotherQuestion(text string) bool {
	return strings.Contains(text, strings.TrimSpace(questionMark))
}

// numeral has optional thousands separators and decimals.
var numeral = regexp.MustCompile(`-?\d[\d,]*(\.\d+)?`)

func lastNumber(text string) (*big.Rat, bool) {
	all := numeral.FindAllString(text, -1)
	if len(all) == 0 {
		return nil, false
	}
	return new(big.Rat).SetString(strings.ReplaceAll(all[len(all)-1], ",", ""))
}

// SplitExamples cuts a text of solved examples, each of which begins with "Question: ", into these. What stands before
// the first belongs to it.
func SplitExamples(text string) ([]string, error) {
	var examples []string
	for {
		next := strings.Index(text[min(1, len(text)):], "\n"+questionMark)
		if next < 0 {
			break
		}
		next += 2 // the byte that the search left out, and the line feed
		examples, text = append(examples, text[:next]), text[next:]
	}
	if examples = append(examples, text); !strings.Contains(examples[0], questionMark) {
		return nil, fmt.Errorf("no example in it begins with %q", questionMark)
	}
	return examples, nil
}
