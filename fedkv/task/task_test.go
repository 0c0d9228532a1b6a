package task

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fedattn/fedkv"
)

func mustParse(t *testing.T, name string) Task {
	t.Helper()
	k, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNames(t *testing.T) {
	want := []string{"retrieval", "needle", "needle-2", "needle-3", "needle-4", "two-hop"}
	if got := Names(); !slices.Equal(got, want) {
		t.Errorf("tasks %v", got)
	}
	for _, name := range want {
		if got := mustParse(t, name).String(); got != name {
			t.Errorf("%s calls itself %s", name, got)
		}
	}
	_, err := Parse("needle-5")
	if err == nil || !strings.Contains(err.Error(), `"needle-5"`) || !strings.Contains(err.Error(), "two-hop") {
		t.Errorf("needle-5: %v", err)
	}
}

// drawProblem is any task's problem.
func drawProblem(t *rapid.T) (k Task, p Problem) {
	k = rapid.SampledFrom(tasks).Draw(t, "task")
	contributors := rapid.IntRange(k.least, min(k.most, 9)).Draw(t, "contributors")
	p, err := k.Problem(rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "number"), contributors)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Segments) != contributors {
		t.Fatalf("%d segments for %d contributors", len(p.Segments), contributors)
	}
	return k, p
}

// word finds a word, and no longer one that contains it.
func word(w string) *regexp.Regexp { return regexp.MustCompile(`\b` + regexp.QuoteMeta(w) + `\b`) }

// Nobody but the contributor that should has a fact, and nobody else has the word that answers it, unless a later step
// of the problem speaks of it. What the publisher is given before it has to answer says nothing of the answer.
func TestAnswersAreWhereTheyShouldBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, p := drawProblem(t)
		if len(p.Facts) != len(p.Parts) {
			t.Fatalf("%d facts for %d parts", len(p.Facts), len(p.Parts))
		}
		publisher := p.Header + p.Question
		for i, part := range p.Parts {
			answer, ok := strings.CutPrefix(part.Answer, " ")
			if !ok || answer != strings.Trim(answer, " .\n") || answer == "" {
				t.Fatalf("%v: the answer %q is no word after a space", k, part.Answer)
			}
			publisher += part.Lead
			if word(answer).MatchString(publisher) {
				t.Fatalf("%v: the publisher has %q: %q", k, answer, publisher)
			}
			publisher += part.Answer
			for c, segment := range p.Segments {
				want := 0
				for j, f := range p.Facts {
					if f.Contributor == c && (j == i || j > i && word(answer).MatchString(f.Text)) {
						want++
					}
				}
				if got := len(word(answer).FindAllString(segment, -1)); got != want {
					t.Fatalf("%v: contributor %d has %q %d times, want %d: %q", k, c, answer, got, want, segment)
				}
			}
			fact := p.Facts[i]
			if n := strings.Count(strings.Join(p.Segments, ""), fact.Text); n != 1 || !strings.Contains(p.Segments[fact.Contributor], fact.Text) {
				t.Fatalf("%v: %q is %d times in the texts", k, fact.Text, n)
			}
			// the answer's sentence is the fact, so that a model which continues texts can write it
			if sentence := strings.TrimLeft(part.Lead, ". ") + part.Answer + "."; sentence != fact.Text {
				t.Fatalf("%v: %q answers with %q", k, fact.Text, sentence)
			}
		}
	})
}

// Each fact's key is asked for by the publisher alone, in words that occur in no other sentence.
func TestKeysAreUnique(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, p := drawProblem(t)
		all := strings.Join(p.Segments, "")
		for _, part := range p.Parts {
			if n := strings.Count(all, strings.TrimLeft(part.Lead, ". ")); n != 1 {
				t.Fatalf("%v: %q is %d times in %q", k, part.Lead, n, all)
			}
		}
		for _, segment := range p.Segments {
			if strings.Contains(segment, "Question") {
				t.Fatalf("%v: a contributor has the question: %q", k, segment)
			}
		}
		if strings.Contains(p.Header, "?") || !strings.Contains(p.Question, "?") || !strings.HasSuffix(p.Question, "Answer:") {
			t.Fatalf("%v: header %q, question %q", k, p.Header, p.Question)
		}
	})
}

// Segments are whole sentences and end their line, so that texts of contributors do not run into each other.
func TestSegmentsAreWholeSentences(t *testing.T) {
	sentence := regexp.MustCompile(`^([A-Z][A-Za-z ]+( [0-9]{3})?\.[ \n])+$`)
	rapid.Check(t, func(t *rapid.T) {
		k, p := drawProblem(t)
		for _, segment := range p.Segments {
			if !sentence.MatchString(segment) || !strings.HasSuffix(segment, ".\n") {
				t.Fatalf("%v: %q", k, segment)
			}
		}
	})
}

// No number stands for two things.
func TestNumbersAreDifferent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, p := drawProblem(t)
		numbers := regexp.MustCompile(`[0-9]+`).FindAllString(strings.Join(p.Segments, ""), -1)
		slices.Sort(numbers)
		if n := len(numbers); len(slices.Compact(numbers)) != n || n == 0 {
			t.Fatalf("%v: numbers %v", k, numbers)
		}
	})
}

func TestHolders(t *testing.T) {
	facts := map[string]int{"retrieval": 1, "needle": 1, "needle-2": 2, "needle-3": 3, "needle-4": 4, "two-hop": 2}
	for _, k := range tasks {
		seen := map[int]bool{}
		for number := range uint64(200) {
			p, err := k.Problem(5, number, 5)
			if err != nil {
				t.Fatal(err)
			}
			holders := map[int]bool{}
			for i, f := range p.Facts {
				holders[f.Contributor], seen[f.Contributor] = true, true
				if k.name == "two-hop" && f.Contributor != i {
					t.Fatalf("hop %d is with contributor %d", i+1, f.Contributor+1)
				}
			}
			if len(holders) != facts[k.name] {
				t.Fatalf("%v: facts %v", k, p.Facts)
			}
		}
		if want := 5; len(seen) != want && k.name != "two-hop" {
			t.Errorf("%v: only contributors %v ever have a fact", k, seen)
		}
	}
}

func TestProblemsAreFunctionsOfTheirSeed(t *testing.T) {
	for _, k := range tasks {
		get := func(seed, number uint64) Problem {
			p, err := k.Problem(seed, number, 4)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		if a, b := get(1, 2), get(1, 2); !reflect.DeepEqual(a, b) {
			t.Errorf("%v: %+v and %+v", k, a, b)
		}
		texts := map[string]bool{}
		for seed := range uint64(10) {
			for number := range uint64(10) {
				texts[strings.Join(get(seed, number).Segments, "")] = true
			}
		}
		if len(texts) != 100 {
			t.Errorf("%v: %d different problems of 100", k, len(texts))
		}
	}
}

// Published figures name a seed, so problems stay what they are.
func TestProblemsStayWhatTheyAre(t *testing.T) {
	want := map[string]string{
		"retrieval": "4a7a4bac8460d85c",
		"needle":    "a1c233cc66c4b4f9",
		"needle-2":  "af2313a8768171ed",
		"needle-3":  "0e85a7bd5a12beaf",
		"needle-4":  "317b4a83d4d5e2fc",
		"two-hop":   "7f193741349ee3fb",
	}
	for _, k := range tasks {
		hash := sha256.New()
		for number := range uint64(20) {
			p, err := k.Problem(1, number, k.least+1)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(hash, "%+v\n", p)
		}
		if got := hex.EncodeToString(hash.Sum(nil)[:8]); got != want[k.name] {
			t.Errorf("%v: %s, want %s", k, got, want[k.name])
		}
	}
}

func TestContributorsThatAreImpossible(t *testing.T) {
	for _, c := range []struct {
		task         string
		contributors int
		text         string
	}{
		{"retrieval", 0, "2 or more participants"},
		{"retrieval", 16, "at most 16 participants"},
		{"needle", 64, "at most 64 participants"},
		{"needle-4", 3, "5 or more participants"},
		{"two-hop", 1, "3 or more participants"},
		{"two-hop", -1, "3 or more participants"},
	} {
		_, err := mustParse(t, c.task).Problem(1, 0, c.contributors)
		if err == nil || !strings.Contains(err.Error(), c.task) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s with %d: %v", c.task, c.contributors, err)
		}
	}
	for _, k := range tasks {
		for _, n := range []int{k.least, k.most} {
			if p, err := k.Problem(1, 0, n); err != nil || len(p.Segments) != n {
				t.Errorf("%v with %d: %v", k, n, err)
			}
		}
		if k.most >= fedkv.MaxParticipants {
			t.Errorf("%v: %d contributors and a publisher are too many", k, k.most)
		}
	}
}

func TestChance(t *testing.T) {
	for _, k := range tasks {
		if k.Chance() <= 0 || k.Chance() > 0.002 {
			t.Errorf("%v: chance %g", k, k.Chance())
		}
	}
}

// A word of a fact is a word of nothing else.
func TestListsHaveNoWordInCommon(t *testing.T) {
	in := map[string]int{}
	for i, list := range [][]string{things, attributes, roles, people, actors, actions, objects, places} {
		for _, w := range list {
			for _, form := range []string{w, strings.TrimSuffix(w, "s"), w + "s"} {
				if j, ok := in[form]; ok && j != i {
					t.Errorf("%q is in lists %d and %d", w, i, j)
				}
			}
		}
		for _, w := range list {
			if n := len(slices.DeleteFunc(slices.Clone(list), func(o string) bool { return o != w })); n != 1 {
				t.Errorf("%q is %d times in list %d", w, n, i)
			}
			in[w] = i
		}
	}
}

// The package draws from its seed alone.
func TestPackageIsPure(t *testing.T) {
	allowed := []string{"fedattn/fedkv", "fmt", "math", "math/rand/v2", "slices", "strconv", "strings"}
	paths, err := filepath.Glob("*.go")
	if err != nil || len(paths) < 5 {
		t.Fatalf("%v: %v", paths, err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			if imported, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s", path, imported)
			}
		}
		// functions without a generator of their own draw from one that nobody seeded
		if m := regexp.MustCompile(`rand\.[A-Z]\w*`).FindAll(source, -1); slices.ContainsFunc(m, func(b []byte) bool {
			return !slices.Contains([]string{"rand.New", "rand.NewPCG", "rand.Rand"}, string(b))
		}) {
			t.Errorf("%s uses %s", path, m)
		}
	}
}
