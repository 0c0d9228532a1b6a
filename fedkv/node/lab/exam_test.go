package lab

import (
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node/nodetest"
)

func exam() Exam {
	return Exam{
		Prefix: stream(3), Examples: []string{"Question: a\n1\n", "Question: bb\n2\n", "Question: c\n3\n"},
		Problems: []Problem{{"d", "#### 4"}, {"ee", "so\n#### 5"}}, Segments: "sem", Exclusive: true, Predict: 6,
	}
}

// A lossless exchange is one process, and the publisher alone is not.
func TestExam(t *testing.T) {
	for _, way := range []struct {
		segments  string
		exclusive bool
	}{{"sem", true}, {"tok", false}} {
		b, e := newBench(), exam()
		segments := way.segments
		e.Exclusive, e.Segments = way.exclusive, segments
		lossless := Case{Name: "lossless", Participants: 3, Contributors: "all", Publisher: "all", WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "inplace"}
		var done []int
		lines, err := b.Examine(t.Context(), e, []Case{LocalOnly(3, 1), lossless, Default(3)}, func(n int) { done = append(done, n) })
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) != 4 || !slices.Equal(done, []int{1, 2}) {
			t.Fatalf("%d lines after %v", len(lines), done)
		}
		one, alone, equal, lossy := lines[0], lines[1], lines[2], lines[3]
		if one.Name != CentralisedName || one.GoldNLL <= 0 || one.GoldNLL != one.GoldBase || one.GoldLoss != 0 || one.KLDMean != 0 || one.KVBytes != 0 {
			t.Errorf("one process: %+v", one)
		}
		if equal.GoldNLL != one.GoldNLL || equal.KLDMean != 0 || equal.EM != one.EM || equal.KVBytes <= equal.KVBytesPublisher {
			t.Errorf("lossless: %+v", equal)
		}
		if alone.GoldNLL == one.GoldNLL || alone.KLDMean <= 0 || alone.KVBytes != 0 || alone.Barriers != 0 {
			t.Errorf("alone: %+v", alone)
		}
		if lossy.KLDMean <= 0 || lossy.KLDMean >= alone.KLDMean || lossy.Barriers != 1 || lossy.KVBytes != lossy.KVBytesPublisher || lossy.KVBytes == 0 {
			t.Errorf("lossy: %+v", lossy)
		}
		if lossy.Problems != 2 || lossy.Shots != 3 || lossy.Segments != segments || lossy.Predict != 6 || lossy.Tokens == 0 {
			t.Errorf("%+v", lossy)
		}
		if n := b.Engine.(*nodetest.Engine).OpenCaches(); n != 0 {
			t.Errorf("%d caches are left behind", n)
		}
	}
}

// What a lossless session answers is what one process answers, and Stop ends both.
func TestAnswerIsOneProcesss(t *testing.T) {
	b, p := newBench(), prompt(t, 3)
	c := Case{Participants: 3, Contributors: "all", Publisher: "all", WireK: "f16", WireV: "f16", Rows: AllRows, Positions: "inplace"}
	for _, stop := range []Stop{nil, func(text string) bool { return len(text) == 3 }} {
		want, err := b.AnswerCentralised(t.Context(), p, 7, stop)
		if err != nil {
			t.Fatal(err)
		}
		got, result, err := b.Answer(t.Context(), c, p, 7, stop)
		if err != nil {
			t.Fatal(err)
		}
		if length := map[bool]int{true: 7, false: 3}[stop == nil]; got != want || len(got) != length {
			t.Errorf("%q, one process answers %q", got, want)
		}
		if result.Report.Present() != 2 || result.Sent == 0 {
			t.Errorf("%+v", result)
		}
	}
	e := b.Engine.(*nodetest.Engine)
	whole, err := b.AnswerCentralised(t.Context(), p, 7, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.End = firstToken(t, b, p)
	defer func() { e.End = 0 }()
	if text, err := b.AnswerCentralised(t.Context(), p, 7, nil); err != nil || text != "" {
		t.Errorf("after its end the answer goes on: %q of %q, %v", text, whole, err)
	}
}

func firstToken(t *testing.T, b Bench, p Prompt) fedkv.Token {
	t.Helper()
	logits, err := Centralised(t.Context(), b.Engine, p, false)
	if err != nil {
		t.Fatal(err)
	}
	return nodetest.Top(logits[len(logits)-b.Engine.Vocabulary():])
}
