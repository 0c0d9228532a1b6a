package documents

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const demo = "../../demo/docs"

// questions are those of the demonstration, with who knows the answer, in which document and in which words.
func questions(t *testing.T) (list [][4]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(demo, "questions.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		list = append(list, [4]string(strings.Split(strings.TrimSpace(line), "\t")))
	}
	return list
}

// The day in the life that `make demo-docs` plays, as far as finding goes: with a third of a small context for each of three
// devices, the right passage is in the segment in seven of eight questions at least. It is judged at the segment, not at
// what a model makes of it.
func TestQuestionsOfTheDemonstrationFindTheirPassages(t *testing.T) {
	libraries, held := map[string]*Library{}, 0
	for _, device := range []string{"garden-pi", "workshop", "kitchen"} {
		l, err := Open(t.Context(), Config{
			Device: device, Folders: []string{filepath.Join(demo, device)}, Tokenize: words, Converter: self(t, "pdf"),
			Rules: Rules{Rules: []Rule{{Match: "diary/", Policy: Refuse}, {Match: "handbook*", Tokens: 150}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if len(l.Skipped()) > 0 {
			t.Error(l.Skipped())
		}
		libraries[device] = l
		held += len(l.Documents())
	}
	if held < 30 {
		t.Errorf("%d documents", held)
	}
	all := questions(t)
	if len(all) != 8 {
		t.Fatalf("%d questions", len(all))
	}
	found := 0
	for _, q := range all {
		p := plan(1000)
		p.Question, p.Budget = q[0], 170
		for device, l := range libraries {
			text, err := l.View(nil, 0).Segment(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if len(text.Tokens) > p.Budget {
				t.Errorf("%d tokens", len(text.Tokens))
			}
			for _, s := range text.Sources {
				if strings.HasPrefix(s.Name, "diary") {
					t.Errorf("%s: the diary is in the segment of %q", device, q[0])
				}
			}
			if device != q[1] {
				continue
			}
			right := contains(text.Tokens, q[3])
			if right {
				found++
			}
			t.Logf("%v %s: %v of %d tokens", right, q[0], names(text), len(text.Tokens))
		}
	}
	t.Logf("the right passage is found in %d of %d", found, len(all))
	if found < 7 {
		t.Errorf("the right passage is found in %d of %d questions", found, len(all))
	}
}

// contains reports whether the words of a text stand in tokens one after another.
func contains(tokens []int32, text string) bool {
	// punctuation is a part of words: what is looked for may end at one
	whole := strings.Fields(text)
	for i := range tokens {
		n := 0
		for n < len(whole) && i+n < len(tokens) && same(tokens[i+n], whole[n]) {
			n++
		}
		if n == len(whole) {
			return true
		}
	}
	return false
}

func same(token int32, word string) bool {
	for _, end := range []string{"", ".", ",", ":", ";"} {
		t, _ := words(word + end)
		if t[0] == token {
			return true
		}
	}
	return false
}
