package documents

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fedattn/fedkv"
)

// spoken turns tokens back into the words that made them.
func spoken(texts ...string) func([]fedkv.Token) string {
	known := map[fedkv.Token]string{}
	for _, text := range texts {
		for _, w := range strings.Fields(strings.ReplaceAll(text, "\n", " \\n ")) {
			t, _ := words(w)
			known[t[0]] = w
		}
	}
	return func(tokens []fedkv.Token) string {
		var out []string
		for _, t := range tokens {
			out = append(out, known[t])
		}
		return strings.Join(out, " ")
	}
}

// names are the documents of a segment in order.
func names(text fedkv.Text) (list []string) {
	for _, s := range text.Sources {
		if s.Name != "" {
			list = append(list, s.Name)
		}
	}
	return list
}

func plan(most int) fedkv.Plan { return fedkv.Plan{MaxTokens: most} }

// filler is a text of so many words about nothing that anybody asks for.
func filler(n int, about string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s%d ", about, i)
		if i%20 == 19 {
			b.WriteString(".\n\n")
		}
	}
	return b.String()
}

func TestEverythingIfItFits(t *testing.T) {
	dir := tree{"b.txt": "bbb", "a.txt": "aaa\n\nAAA", "c.md": "ccc"}.in(t, t.TempDir())
	l := open(t, Config{Folders: []string{dir}})
	text, err := l.View(nil, 0).Segment(t.Context(), plan(100))
	if err != nil {
		t.Fatal(err)
	}
	say := spoken("Notes of shed:\n[shed: a] [shed: b] [shed: c] aaa AAA bbb ccc")
	want := `Notes of shed: \n [shed: a] \n aaa \n \n AAA \n [shed: b] \n bbb \n [shed: c] \n ccc \n`
	if got := say(text.Tokens); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if want := []fedkv.Source{{Name: "", Tokens: 4}, {Name: "a", Tokens: 8}, {Name: "b", Tokens: 5}, {Name: "c", Tokens: 5}}; !slices.Equal(text.Sources, want) {
		t.Errorf("%v, want %v", text.Sources, want)
	}
	// the question changes nothing while everything fits: rows that were computed are those that are sent
	p := plan(100)
	p.Question = "ccc?"
	if again, err := l.View(nil, 0).Segment(t.Context(), p); err != nil || !slices.Equal(again.Tokens, text.Tokens) {
		t.Errorf("%v, %v", again, err)
	}
}

func TestAQuestionFindsItsPassages(t *testing.T) {
	files := tree{
		"tools.md":   filler(300, "w") + "\n\nThe torque wrench hangs behind the compressor.\n\n" + filler(300, "v"),
		"garden.txt": filler(300, "g") + "\n\nBeans were sown on the ninth of May.\n\n" + filler(300, "h"),
	}
	l := open(t, Config{Folders: []string{files.in(t, t.TempDir())}})
	say := spoken(files["tools.md"], files["garden.txt"])
	for question, want := range map[string]string{
		"Where is the torque wrench?": "torque wrench hangs", "When did I sow beans?": "Beans were sown", "sown": "Beans were sown",
	} {
		p := plan(250)
		p.Question = question
		text, err := l.View(nil, 0).Segment(t.Context(), p)
		if err != nil || !strings.Contains(say(text.Tokens), want) || len(text.Tokens) > 250 || len(names(text)) != 1 {
			t.Errorf("%s: %v of %d tokens, %v", question, names(text), len(text.Tokens), err)
		}
	}
	// a question of which nothing is found, or none, gets the newest
	for i, name := range []string{"tools.md", "garden.txt"} {
		then := time.Now().Add(time.Duration(-i) * time.Hour)
		if err := os.Chtimes(filepath.Join(l.folders[0].path, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, question := range []string{"", "xyzzy"} {
		p := plan(250)
		p.Question = question
		text, err := l.View(nil, 0).Segment(t.Context(), p)
		if err != nil || !slices.Equal(names(text), []string{"tools"}) {
			t.Errorf("%q: %v, %v", question, names(text), err)
		}
	}
}

func TestRulesDecide(t *testing.T) {
	pin := true
	l := open(t, Config{
		Folders: []string{tree{
			"diary/monday.txt": "rain", "wages.txt": "secret rain", "house.md": "rules rain", "big.txt": strings.Repeat("rain word. ", 400), "old.log": "rain\nsun",
		}.in(t, t.TempDir())},
		Rules: Rules{Rules: []Rule{
			{Match: "diary/", Policy: Home}, {Match: "wages", Policy: Refuse}, {Match: "*.md", Pin: &pin}, {Match: "big.txt", Tokens: 100},
		}},
	})
	p := plan(1000)
	text, err := l.View(nil, 0).Segment(t.Context(), p)
	if err != nil || !slices.Equal(names(text), []string{"big", "house", "old.log"}) {
		t.Errorf("rows: %v, %v", names(text), err)
	}
	for _, s := range text.Sources {
		if s.Name == "big" && s.Tokens > 100+5 {
			t.Errorf("big has %d tokens", s.Tokens)
		}
	}
	p.Home = fedkv.F16
	if text, err = l.View(nil, 0).Segment(t.Context(), p); err != nil || !slices.Equal(names(text), []string{"big", "diary/monday", "house", "old.log"}) {
		t.Errorf("home: %v, %v", names(text), err)
	}
	p.Home = 0
	if _, err = l.View(func(name string) bool { return name == "wages" }, 0).Segment(t.Context(), p); !errors.Is(err, fedkv.ErrForbidden) {
		t.Errorf("refused: %v", err)
	}
	if _, err = l.View(func(name string) bool { return name == "diary/monday" }, 0).Segment(t.Context(), p); fedkv.CodeOf(err) != fedkv.CodeHome {
		t.Errorf("home only: %v", err)
	}
	p.Question, p.Budget = "rain", 60
	if text, err = l.View(nil, 0).Segment(t.Context(), p); err != nil || !slices.Contains(names(text), "house") || len(text.Tokens) > 60 {
		t.Errorf("pinned: %v, %v", names(text), err)
	}
	if _, err = l.View(nil, 6).Segment(t.Context(), plan(1000)); !errors.Is(err, fedkv.ErrTooLong) {
		t.Errorf("no room: %v", err)
	}
	for bad, text := range map[string]string{
		"an unknown key": "rule: []", "an unknown policy": "rules: [{match: x, policy: secret}]", "no pattern": "rules: [{policy: home}]",
		"tokens below 0": "rules: [{match: x, tokens: -1}]", "no command": "commands: [{name: x}]", "no YAML": "{{",
	} {
		if _, err := ParseRules([]byte(text)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestRulesAreKept(t *testing.T) {
	dir := t.TempDir()
	var r Rules
	r.Set(Rule{Match: "x", Policy: Home})
	r.Set(Rule{Match: "y", Tokens: 7})
	r.Set(Rule{Match: "x", Policy: Refuse})
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRules(dir)
	if err != nil || len(got.Rules) != 2 || got.Rules[1].Policy != Refuse {
		t.Errorf("%+v, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, RulesFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// Whatever is asked of whatever documents: the segment keeps to every limit, its sources are its tokens, passages stand in
// the order of their texts, and the same again gives the same.
func TestLawsOfChoice(t *testing.T) {
	vocabulary := strings.Fields("rain bean key pump valve rose soil seed wrench May June the is in a of")
	rapid.Check(t, func(r *rapid.T) {
		texts, rules := map[string]string{}, Rules{}
		for i := range rapid.IntRange(1, 6).Draw(r, "documents") {
			var b strings.Builder
			for range rapid.IntRange(1, 400).Draw(r, "words") {
				b.WriteString(rapid.SampledFrom(vocabulary).Draw(r, "word"))
				b.WriteString(rapid.SampledFrom([]string{" ", " ", " ", ". ", "\n", "\n\n"}).Draw(r, "then"))
			}
			name := fmt.Sprint("d", i)
			texts[name] = b.String() + "."
			pin := rapid.Bool().Draw(r, "pin")
			rules.Rules = append(rules.Rules, Rule{
				Match: name, Policy: rapid.SampledFrom([]Policy{Rows, Rows, Home, Refuse}).Draw(r, "policy"),
				Tokens: rapid.SampledFrom([]int{0, 0, 20, 100}).Draw(r, "most"), Pin: &pin,
			})
		}
		l, err := Open(t.Context(), Config{Device: "shed", Tokenize: words, Texts: texts, Rules: rules})
		if err != nil {
			r.Fatal(err)
		}
		defer l.Close()
		p := fedkv.Plan{MaxTokens: rapid.IntRange(1, 600).Draw(r, "room")}
		p.Budget = rapid.IntRange(0, p.MaxTokens).Draw(r, "budget")
		p.Question = rapid.SampledFrom([]string{"", "Where is the wrench?", "bean in June", "xyzzy"}).Draw(r, "question")
		text, err := l.View(nil, 0).Segment(t.Context(), p)
		if err != nil {
			return
		}
		limit := p.MaxTokens
		if p.Budget > 0 {
			limit = p.Budget
		}
		sum, last := 0, ""
		for _, s := range text.Sources {
			sum += s.Tokens
			if s.Name < last {
				r.Errorf("%s stands behind %s", s.Name, last)
			}
			last = s.Name
			d := l.docs[s.Name]
			if d != nil && d.Policy != Rows {
				r.Errorf("%s is for %s", s.Name, d.Policy)
			}
		}
		if sum != len(text.Tokens) || sum > limit {
			r.Errorf("%d tokens of sources, %d tokens, limit %d", sum, len(text.Tokens), limit)
		}
		again, err := l.View(nil, 0).Segment(t.Context(), p)
		if err != nil || !slices.Equal(again.Tokens, text.Tokens) {
			r.Errorf("another segment the second time: %v", err)
		}
		if !l.Holds(func(tokens []fedkv.Token) bool { return slices.Equal(tokens, text.Tokens) }) {
			r.Errorf("the segment is not remembered")
		}
	})
}

// Passages are the text, whole characters, and none much too long.
func TestPassagesAreTheText(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune("ab. \n#é漢")), 0, 5000, -1).Draw(r, "text")
		whole := ""
		for _, p := range cut(text) {
			if len(p.text) == 0 || len(p.text) > passageBytes*3/2 || strings.ToValidUTF8(p.text, "") != p.text {
				r.Errorf("a passage of %d bytes", len(p.text))
			}
			whole += p.text
		}
		if whole != text {
			r.Errorf("the passages are not the text")
		}
	})
}

// What is withdrawn, changed or refused is not held any more.
func TestWhatIsHeld(t *testing.T) {
	dir := tree{"a.txt": "a", "b.txt": "b"}.in(t, t.TempDir())
	var changes []Change
	l := open(t, Config{Folders: []string{dir}, Changed: func(c Change) { changes = append(changes, c) }})
	text, err := l.View(nil, 0).Segment(t.Context(), plan(100))
	if err != nil {
		t.Fatal(err)
	}
	held := func() bool {
		return l.Holds(func(tokens []fedkv.Token) bool { return slices.Equal(tokens, text.Tokens) })
	}
	if !held() {
		t.Error("it is not held")
	}
	if err := l.SetRules(t.Context(), Rules{Rules: []Rule{{Match: "a", Policy: Refuse}}}); err != nil || held() {
		t.Errorf("it is held though a is refused: %v", err)
	}
	if last := changes[len(changes)-1]; !slices.Equal(last.Gone, []string{"a"}) {
		t.Errorf("%+v", last)
	}
	if err := l.SetRules(t.Context(), Rules{}); err != nil || !held() {
		t.Errorf("it is not held again: %v", err)
	}
	tree{"b.txt": "another b"}.in(t, dir)
	if err := l.Look(t.Context()); err != nil || held() {
		t.Errorf("it is held though b is another: %v", err)
	}
}
