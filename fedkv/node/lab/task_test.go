package lab

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
	"fedattn/fedkv/task"
)

func mustTask(t *testing.T, name string) task.Task {
	t.Helper()
	k, err := task.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// worded is an engine with a token for each word, so that texts are short.
type worded struct{ *nodetest.Engine }

func (e worded) Tokenize(text string) (tokens []fedkv.Token, err error) {
	for word := range strings.FieldsSeq(text) {
		hash := fnv.New32()
		hash.Write([]byte(word))
		tokens = append(tokens, 1+fedkv.Token(hash.Sum32()%uint32(e.Vocabulary()-1)))
	}
	return tokens, nil
}

func taskBench() Bench {
	b := newBench()
	b.Engine = worded{b.Engine.(*nodetest.Engine)}
	return b
}

// lockstepExact is the session that equals one process.
func lockstepExact(participants int) Case {
	return Case{
		Name: "exact", Participants: participants, Contributors: "all", Publisher: "all", WireK: "f16", WireV: "f16",
		Rows: AllRows, Positions: "inplace",
	}
}

func measureTask(t *testing.T, b Bench, s TaskSetting, cases ...Case) []TaskLine {
	t.Helper()
	var lines []TaskLine
	if err := b.MeasureTask(t.Context(), s, cases, func(l TaskLine) { lines = append(lines, l) }); err != nil {
		t.Fatal(err)
	}
	if n := b.Engine.(interface{ OpenCaches() int }).OpenCaches(); n != 0 {
		t.Errorf("%d caches are left behind", n)
	}
	return lines
}

// Figures of a random model mean nothing, but their relations do: with every layer a sync layer and rows as they are, a
// session says what one process says; with the publisher's layers local, what the publisher says alone.
func TestTaskKeepsTheOracle(t *testing.T) {
	alone := LocalOnly(2, 0)
	alone.Name = ""
	s := TaskSetting{Task: mustTask(t, "retrieval"), Problems: 2, Seed: 3, Begin: []fedkv.Token{1}}
	lines := measureTask(t, taskBench(), s, lockstepExact(2), alone, Default(2))
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	exact, nobody, gather := lines[0], lines[1], lines[2]
	if exact.AnswerNLL != exact.AnswerNLLCentral || exact.EM != exact.EMCentral {
		t.Errorf("every layer a sync layer: %+v", exact)
	}
	if nobody.AnswerNLL != nobody.AnswerNLLLocal || nobody.EM != nobody.EMLocal || nobody.KVBytes != 0 {
		t.Errorf("nobody's help: %+v", nobody)
	}
	if gather.AnswerNLL == gather.AnswerNLLCentral || gather.AnswerNLL == gather.AnswerNLLLocal || gather.KVBytes == 0 || gather.Barriers != 1 {
		t.Errorf("gather: %+v", gather)
	}
	for _, l := range lines {
		l.Case, l.AnswerNLL, l.AnswerNLLSE, l.EM, l.EMSE, l.Traffic, l.Seconds = Case{}, 0, 0, 0, 0, Traffic{}, 0
		want := TaskLine{
			Task: "retrieval", Problems: 2, AnswerNLLCentral: exact.AnswerNLLCentral, AnswerNLLLocal: exact.AnswerNLLLocal,
			Chance: s.Task.Chance(), Note: l.Note, Tokens: exact.Tokens,
		}
		if l != want || !strings.Contains(l.Note, "not valid") {
			t.Errorf("got %+v, want %+v", l, want)
		}
	}
	if exact.Seed != 3 {
		t.Errorf("seed %d", exact.Seed)
	}
}

// The likelihoods are those of the session's logits, at the right places.
func TestTaskReadsLogitsAtTheAnswer(t *testing.T) {
	b := taskBench()
	s := TaskSetting{Task: mustTask(t, "needle-2"), Problems: 2, Seed: 4}
	line := measureTask(t, b, s, Default(3))[0]
	want := 0.0
	for i := range 2 {
		p, err := s.Task.Problem(4, uint64(i), 2)
		if err != nil {
			t.Fatal(err)
		}
		text := func(s string) []fedkv.Token { tokens, _ := b.Engine.Tokenize(s); return tokens }
		prompt := Prompt{Prefix: text(p.Header), Segments: [][]fedkv.Token{text(p.Segments[0]), text(p.Segments[1]), nil}}
		var own []fedkv.Token
		var answers []int
		for n, part := range p.Parts {
			if n == 0 {
				own = text(p.Question)
			}
			own = append(own, text(part.Lead)...)
			answers = append(answers, len(own))
			own = append(own, text(part.Answer)...)
		}
		prompt.Segments[2] = own
		c := Default(3)
		c.Seed = 4
		result, err := b.Run(t.Context(), c, prompt)
		if err != nil {
			t.Fatal(err)
		}
		vocabulary := b.Engine.Vocabulary()
		for _, at := range answers {
			row, sum := result.Logits[(at-1)*vocabulary:at*vocabulary], 0.0
			for _, v := range row {
				sum += math.Exp(float64(v))
			}
			want += (math.Log(sum) - float64(row[own[at]])) / 2
		}
	}
	if math.Abs(line.AnswerNLL-want) > 1e-9 {
		t.Errorf("%v, want %v", line.AnswerNLL, want)
	}
}

func TestTaskTellsTheSameTwice(t *testing.T) {
	s := TaskSetting{Task: mustTask(t, "retrieval"), Problems: 2, Seed: 3}
	say := func() []byte {
		lines := measureTask(t, taskBench(), s, Default(2))
		lines[0].Seconds = 0
		text, err := json.Marshal(lines)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	a, b := say(), say()
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s\n%s", a, b)
	}
	for _, key := range strings.Fields("task problems em em_se em_central em_local answer_nll answer_nll_central answer_nll_local valid note seed kv_bytes seconds") {
		if !strings.Contains(string(a), `"`+key+`":`) {
			t.Errorf("no %s in %s", key, a)
		}
	}
}

// knowing is an engine that is told when it may look up the next token; otherwise every token is as likely as any other.
type knowing struct {
	worded
	knows func(plain, remote bool, problem int) bool
	plain int // runs of one process so far
}

type knowingCache struct {
	node.Cache
	engine *knowing
	knows  bool
	kept   []fedkv.Token
}

func (k *knowing) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	c, err := k.worded.Open(spec)
	return &knowingCache{c, k, k.knows(false, spec.Sync.Count() > 0 && spec.SyncCells > spec.LocalCells, 0), nil}, err
}

func (k *knowing) OpenPlain(cells, microBatch, outputs int) (node.Cache, error) {
	c, err := k.worded.OpenPlain(cells, microBatch, outputs)
	k.plain++
	return &knowingCache{c, k, k.knows(true, false, k.plain-1), nil}, err
}

func (c *knowingCache) Eval(tokens []fedkv.Token, pos, outputs int, hook *node.Hook) error {
	c.kept = append(slices.Clone(tokens[len(tokens)-outputs:]), 0)
	return c.Cache.Eval(tokens, pos, outputs, hook)
}

func (c *knowingCache) Logits(i int) ([]float32, error) {
	logits := make([]float32, c.engine.Vocabulary())
	if c.knows {
		logits[c.kept[i+1]] = 10
	}
	return logits, nil
}

func TestTaskValidity(t *testing.T) {
	const problems = 5
	for _, c := range []struct {
		name               string
		knows              func(plain, remote bool, problem int) bool
		em, central, local float64
		note               string // part of it; empty: valid
	}{
		{"valid", func(plain, remote bool, _ int) bool { return plain || remote }, 1, 1, 0, ""},
		{"federation loses all", func(plain, _ bool, _ int) bool { return plain }, 0, 1, 0, ""},
		{"just good enough", func(plain, remote bool, i int) bool { return remote || plain && i < 3 }, 1, 0.6, 0, ""},
		{"too hard", func(plain, remote bool, i int) bool { return remote || plain && i < 2 }, 1, 0.4, 0, "it solves 40 % of the problems"},
		{"no need of others", func(bool, bool, int) bool { return true }, 1, 1, 1, "the publisher alone solves 100 %"},
	} {
		b := newBench()
		b.Engine = &knowing{worded: worded{nodetest.NewEngine()}, knows: c.knows}
		l := measureTask(t, b, TaskSetting{Task: mustTask(t, "retrieval"), Problems: problems, Seed: 1}, Default(2))[0]
		if l.EM != c.em || math.Abs(l.EMCentral-c.central) > 1e-9 || l.EMLocal != c.local {
			t.Errorf("%s: %+v", c.name, l)
		}
		if l.Valid != (c.note == "") || !strings.Contains(l.Note, c.note) || l.Valid != (l.Note == "") {
			t.Errorf("%s: valid %v, note %q", c.name, l.Valid, l.Note)
		}
		// an answer is one token of this engine
		vocabulary := float64(b.Engine.Vocabulary())
		for _, x := range []struct{ share, nll float64 }{{c.em, l.AnswerNLL}, {c.central, l.AnswerNLLCentral}, {c.local, l.AnswerNLLLocal}} {
			known, unknown := math.Log1p((vocabulary-1)*math.Exp(-10)), math.Log(vocabulary)
			if want := x.share*known + (1-x.share)*unknown; math.Abs(x.nll-want) > 1e-9 {
				t.Errorf("%s: negative log-likelihood %v, want %v", c.name, x.nll, want)
			}
		}
	}
}

// graded is what one problem scores whose publisher's segment is own, with answers at ranges, if the most likely tokens
// are top.
func graded(t *testing.T, own, top []fedkv.Token, answers ...[2]int) (exact bool) {
	t.Helper()
	e := nodetest.NewEngine()
	logits := make([]float32, len(own)*e.Vocabulary())
	for i, token := range top {
		logits[i*e.Vocabulary()+int(token)] = 1
	}
	var s taskScores
	if err := s.add(e, taskQuestion{Prompt{Segments: [][]fedkv.Token{own}}, answers}, logits); err != nil {
		t.Fatal(err)
	}
	return s.exact[0] == 1
}

func TestExactMatch(t *testing.T) {
	const dot, digit = '.' - '!', '7' - '!' // tokens whose pieces these are
	own := []fedkv.Token{20, 21, 22, 23, 24, 25}
	for _, c := range []struct {
		name    string
		top     []fedkv.Token
		answers [][2]int
		want    bool
	}{
		{"all right", []fedkv.Token{9, 22, 23, dot, 9, 9}, [][2]int{{2, 4}}, true},
		{"first wrong", []fedkv.Token{9, 9, 23, dot, 9, 9}, [][2]int{{2, 4}}, false},
		{"last wrong", []fedkv.Token{9, 22, 9, dot, 9, 9}, [][2]int{{2, 4}}, false},
		{"what is given does not count", []fedkv.Token{0, 22, 23, dot, 0, 0}, [][2]int{{2, 4}}, true},
		{"a longer number", []fedkv.Token{9, 22, 23, digit, 9, 9}, [][2]int{{2, 4}}, false},
		{"two parts", []fedkv.Token{21, dot, 9, 24, 25, dot}, [][2]int{{1, 2}, {4, 6}}, true},
		{"second part wrong", []fedkv.Token{21, dot, 9, 24, 9, dot}, [][2]int{{1, 2}, {4, 6}}, false},
		{"first part wrong", []fedkv.Token{9, dot, 9, 24, 25, dot}, [][2]int{{1, 2}, {4, 6}}, false},
		{"a longer number at the end", []fedkv.Token{21, dot, 9, 24, 25, digit}, [][2]int{{1, 2}, {4, 6}}, false},
	} {
		if got := graded(t, own, c.top, c.answers...); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for piece, want := range map[string]bool{"": false, " 7": false, ".": false, "\n": false, "7": true, "th": true, "T": true, "é": true, ",": false} {
		if continuesWord([]byte(piece)) != want {
			t.Errorf("%q continues a word: %v", piece, !want)
		}
	}
}

// What greedy decoding writes in a session is what the same session finds exact, and nothing else is.
func TestGradingIsGreedyDecoding(t *testing.T) {
	const written = 10
	for _, c := range []Case{Default(3), lockstepExact(3), LocalOnly(3, 0)} {
		b, p := newBench(), prompt(t, 3)
		text, _, err := b.Answer(t.Context(), c, p, written, nil)
		if err != nil || len(text) != written {
			t.Fatalf("%q: %v", text, err)
		}
		answer := make([]fedkv.Token, written)
		for i := range answer {
			answer[i] = fedkv.Token(text[i] - '!')
		}
		asked := p.Own()
		p.Segments = slices.Clone(p.Segments)
		grade := func(answer []fedkv.Token) bool {
			p.Segments[2] = slices.Concat(asked, answer)
			result, err := b.Run(t.Context(), c, p)
			if err != nil {
				t.Fatal(err)
			}
			var s taskScores
			if err := s.add(b.Engine, taskQuestion{p, [][2]int{{len(asked), len(p.Own())}}}, result.Logits); err != nil {
				t.Fatal(err)
			}
			return s.exact[0] == 1
		}
		for n := 1; n < written; n += 4 {
			if want := !continuesWord([]byte(text[n:])); grade(answer[:n]) != want {
				t.Errorf("%s: %q of %q is exact: %v", c.Name, text[:n], text, !want)
			}
			other := slices.Clone(answer[:n])
			other[n/2] ^= 1
			if grade(other) {
				t.Errorf("%s: %v is exact where %v is written", c.Name, other, answer)
			}
		}
	}
}

func TestSurprise(t *testing.T) {
	nll, top := surprise([]float32{1000, 1000, -1000}, 1)
	if math.Abs(nll-math.Ln2) > 1e-12 || top != 0 {
		t.Errorf("%v, %d", nll, top)
	}
	var s taskScores
	e := nodetest.NewEngine()
	logits := make([]float32, 2*e.Vocabulary())
	logits[5] = float32(math.NaN())
	err := s.add(e, taskQuestion{Prompt{Segments: [][]fedkv.Token{{1, 2}}}, [][2]int{{1, 2}}}, logits)
	if err == nil || !strings.Contains(err.Error(), "not a number") {
		t.Errorf("a NaN is graded: %v", err)
	}
}

// tokeniser is an engine with a tokeniser of its own.
type tokeniser struct {
	*nodetest.Engine
	tokenize func(string) []fedkv.Token
}

func (e tokeniser) Tokenize(text string) ([]fedkv.Token, error) {
	if text == "" {
		return nil, errors.New("there is no text")
	}
	return e.tokenize(text), nil
}

func bytesOf(text string) (out []fedkv.Token) {
	for _, b := range []byte(text) {
		out = append(out, fedkv.Token(b))
	}
	return out
}

func TestAnswersInTokens(t *testing.T) {
	const begin = 1000
	p := task.Problem{
		Header: "h", Segments: []string{"ab", "c"}, Question: "q?", Parts: []task.Part{{Lead: " is", Answer: " 12"}, {Lead: ". so", Answer: " x"}},
	}
	for _, c := range []struct {
		name     string
		tokenize func(string) []fedkv.Token
		own      []fedkv.Token
		answers  [][2]int
	}{
		{"bytes", bytesOf, bytesOf("q? is 12. so x"), [][2]int{{5, 8}, {12, 14}}},
		{ // texts begin with a mark, which an answer after its lead does not
			"marks", func(s string) []fedkv.Token { return slices.Concat([]fedkv.Token{begin}, bytesOf(s)) },
			slices.Concat([]fedkv.Token{begin}, bytesOf("q?"), []fedkv.Token{begin}, bytesOf(" is 12"), []fedkv.Token{begin}, bytesOf(". so x")),
			[][2]int{{7, 10}, {15, 17}},
		},
		{ // the end of a lead and the beginning of an answer would become one token: they stay apart
			"merges", func(s string) []fedkv.Token {
				return bytesOf(strings.NewReplacer("s ", "@", "o ", "#").Replace(s))
			},
			bytesOf("q? is 12. so x"), [][2]int{{5, 8}, {12, 14}},
		},
	} {
		q, err := newTaskQuestion(tokeniser{nodetest.NewEngine(), c.tokenize}, []fedkv.Token{7}, p)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(q.prompt.Own(), c.own) || !reflect.DeepEqual(q.answers, c.answers) {
			t.Errorf("%s: %v, answers at %v", c.name, q.prompt.Own(), q.answers)
		}
		want := [][]fedkv.Token{slices.Concat([]fedkv.Token{7}, c.tokenize("h")), c.tokenize("ab"), c.tokenize("c")}
		if got := append([][]fedkv.Token{q.prompt.Prefix}, q.prompt.Segments[:2]...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: others have %v, want %v", c.name, got, want)
		}
	}
	if _, err := newTaskQuestion(tokeniser{nodetest.NewEngine(), bytesOf}, nil, task.Problem{Question: "q"}); err == nil {
		t.Error("a tokeniser's error is lost")
	}
}

func TestTasksThatCannotBeMeasured(t *testing.T) {
	ok := TaskSetting{Task: mustTask(t, "needle-2"), Problems: 2}
	few := ok
	few.Problems = 1
	wrong := Default(3)
	wrong.Publisher = "9-12"
	for _, c := range []struct {
		setting TaskSetting
		c       Case
		text    string
	}{
		{few, Default(3), "2 or more"},
		{ok, Default(2), "3 or more participants"},
		{ok, wrong, "9"},
	} {
		b := taskBench()
		b.Engine.(worded).Layer = func(int, int, int) error { return errors.New("evaluated") }
		err := b.MeasureTask(t.Context(), c.setting, []Case{c.c}, func(TaskLine) { t.Error("a line") })
		if err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "evaluated") {
			t.Errorf("%q: %v", c.text, err)
		}
	}
	b := taskBench()
	b.Engine.(worded).Layer = func(int, int, int) error { return errors.New("out of paper") }
	err := b.MeasureTask(t.Context(), ok, []Case{Default(3)}, func(TaskLine) { t.Error("a line") })
	if err == nil || !strings.Contains(err.Error(), "out of paper") {
		t.Errorf("a failing engine: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := taskBench().MeasureTask(ctx, ok, []Case{Default(3)}, func(TaskLine) { t.Error("a line") }); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}
