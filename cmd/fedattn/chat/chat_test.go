package chat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// echo answers with what was said, word by word, and remembers.
type echo struct {
	said    []string
	cleared int
	read    []string
	set     map[string]string
	fails   error
	words   func(n int) error // before each word of an answer
}

func (e *echo) Say(ctx context.Context, text string, emit func([]byte) error) (Answer, error) {
	e.said = append(e.said, text)
	return e.Again(ctx, emit)
}

func (e *echo) Again(ctx context.Context, emit func([]byte) error) (a Answer, err error) {
	if e.fails != nil {
		return a, e.fails
	}
	for i, word := range strings.SplitAfter("you said "+e.said[len(e.said)-1], " ") {
		if e.words != nil {
			if err := e.words(i); err != nil {
				return a, err
			}
		}
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		a.Text += word
		if err := emit([]byte(word)); err != nil {
			return a, err
		}
	}
	a.Footer = "[ footer ]"
	return a, nil
}

func (e *echo) Clear(context.Context) error { e.cleared++; e.said = nil; return nil }
func (e *echo) Recall(turns []Turn) error {
	for _, t := range turns {
		e.said = append(e.said, t.User)
	}
	return nil
}
func (e *echo) Read(_ context.Context, path string) (string, error) {
	e.read = append(e.read, path)
	return "took " + path, nil
}
func (e *echo) Withdraw(_ context.Context, name string) (string, error) {
	return "", errors.New("no " + name)
}
func (e *echo) Set(name, value string) error { e.set[name] = value; return nil }
func (e *echo) Settings() [][2]string        { return [][2]string{{"temp", e.set["temp"]}} }
func (e *echo) Tell(w io.Writer, t Topic)    { fmt.Fprintf(w, "about %s\n", t) }

// typed is a user: each line is what is typed; a line that begins with ^ is a key, with < a line of a paste.
type typed struct{ lines, remembered []string }

func (t *typed) Line(string) (string, bool, error) {
	if len(t.lines) == 0 {
		return "", false, io.EOF
	}
	line := t.lines[0]
	t.lines = t.lines[1:]
	if line == "^C" {
		return "", false, ErrInterrupted
	}
	rest, pasted := strings.CutPrefix(line, "<")
	return rest, pasted, nil
}

func (t *typed) Remember(entry string) { t.remembered = append(t.remembered, entry) }

func talk(t *testing.T, e *echo, lines ...string) (out, told string, user *typed, err error) {
	t.Helper()
	if e.set == nil {
		e.set = map[string]string{"temp": "0.5"}
	}
	var o, w bytes.Buffer
	user = &typed{lines: lines}
	var keys Interrupts
	l := Loop{Partner: e, Lines: user, Out: &o, Err: &w, Think: &Think{Out: &o, Mode: ThinkDim}, Answering: keys.Answering}
	err = l.Run(context.Background())
	return o.String(), w.String(), user, err
}

func TestLinesPastesAndFencesAreOneEntryEach(t *testing.T) {
	e := &echo{}
	var paste []string
	for i := range 50 {
		paste = append(paste, fmt.Sprintf("<line %d", i))
	}
	_, _, user, err := talk(t, e, append(append([]string{"one", "", "  "}, paste...), "the end", `"""first`, "", "second", `third"""`, `"""short"""`, "//help", `"""`, "/bye")...)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"one", strings.ReplaceAll(strings.Join(paste, "\n"), "<", "") + "\nthe end", "first\n\nsecond\nthird", "short", "//help"}
	if fmt.Sprint(e.said) != fmt.Sprint(want) || len(e.said) != len(want) || fmt.Sprint(user.remembered) != fmt.Sprint(want) {
		t.Errorf("said %q\nwant %q\nkept %q", e.said, want, user.remembered)
	}
}

func TestAnswersGoToOneWriterAndEverythingElseToTheOther(t *testing.T) {
	out, told, _, err := talk(t, &echo{}, "one", "/peers", "/nothing", "/read 'a b.txt'", "/set temp", "/set temp 1", "/show", "/set x 1", "/drop y")
	if err != nil || out != "you said one\n" {
		t.Errorf("%q, %v", out, err)
	}
	for _, want := range []string{"[ footer ]\n", "about peers\n", "there is no command /nothing;", "took a b.txt\n", "\n0.5\n", "temp            1\n", `no setting "x"`, "no y\n"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q lacks %q", told, want)
		}
	}
}

func TestEveryCommandIsKnown(t *testing.T) {
	for _, name := range Commands() {
		if _, told, _, err := talk(t, &echo{}, "/"+name); err != nil || strings.Contains(told, "there is no command") {
			t.Errorf("/%s: %q, %v", name, told, err)
		}
	}
	if len(Commands()) < 14 {
		t.Errorf("%q", Commands())
	}
}

func TestCtrlCDropsWhatIsTypedAndThenQuits(t *testing.T) {
	e := &echo{}
	_, _, _, err := talk(t, e, "<half", "^C", "one", "^C", "two")
	if !errors.Is(err, ErrInterrupted) || fmt.Sprint(e.said) != "[one]" {
		t.Errorf("%v, said %q", err, e.said)
	}
}

func TestTheFirstInterruptStopsTheAnswerAndTheSecondTheProgram(t *testing.T) {
	var keys Interrupts
	if keys.Reading(true); keys.Interrupt() {
		t.Error("at the prompt an interrupt is not the program's end")
	}
	stopped := false
	if keys.Reading(false); !keys.Interrupt() {
		t.Error("an interrupt right before the answer ends the program")
	}
	keys.Answering(func() { stopped = true })()
	if !stopped {
		t.Error("an interrupt right before the answer does not stop it")
	}
	e := &echo{said: []string{}}
	second := true
	e.words = func(n int) error {
		if n == 2 && len(e.said) == 1 {
			if !keys.Interrupt() {
				t.Error("the first interrupt of an answer ends the program")
			}
			second = keys.Interrupt()
		}
		return nil
	}
	var o, w bytes.Buffer
	l := Loop{Partner: e, Lines: &typed{lines: []string{"one two", "three"}}, Out: &o, Err: &w, Think: &Think{Out: &o, Mode: ThinkDim}, Answering: keys.Answering}
	if err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if second || o.String() != "you said \nyou said three\n" || !strings.Contains(w.String(), "stopped\n") {
		t.Errorf("%q, %q, second %v", o.String(), w.String(), second)
	}
	if len(l.turns) != 2 || l.turns[0].Answer != "you said " {
		t.Errorf("%+v", l.turns)
	}
}

func TestATurnThatFailsIsToldAndTheTalkGoesOn(t *testing.T) {
	e := &echo{fails: errors.New("the context is full")}
	out, told, _, err := talk(t, e, "one", "/regen", "/save "+filepath.Join(t.TempDir(), "x"))
	if err != nil || out != "" || !strings.Contains(told, "the context is full\n") || !strings.Contains(told, "nothing was said yet") || !strings.Contains(told, "0 turns") {
		t.Errorf("%q %q %v", out, told, err)
	}
}

func TestConversationsAreSavedForTheirOwnerAndTakenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "talk.json")
	if _, told, _, err := talk(t, &echo{}, "one", "two", "/regen", "/save "+path); err != nil || !strings.Contains(told, "2 turns are in") {
		t.Fatalf("%q, %v", told, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	e := &echo{}
	out, told, _, err := talk(t, e, "zero", "/load "+path, "/regen", "/load nothing", "/load "+os.Args[0], "/save", "/load", "/save /nowhere/x")
	if err != nil || fmt.Sprint(e.said) != "[one two]" || e.cleared != 1 || out != "you said zero\nyou said two\n" {
		t.Errorf("%q, said %q, %v", out, e.said, err)
	}
	for _, want := range []string{"there is no file nothing", "is no conversation", "which file? /save", "which file? /load", "not saved"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q lacks %q", told, want)
		}
	}
}

func TestThoughts(t *testing.T) {
	const answer = "<think>\nwell,\n</think>\n\nYes <b> <thin"
	for mode, want := range map[ThinkMode]string{ThinkShow: answer, ThinkHide: "Yes <b> <thin", ThinkDim: "[\nwell,\n]\n\nYes <b> <thin"} {
		for size := 1; size <= len(answer); size++ { // tags are cut anywhere
			var b strings.Builder
			think := Think{Out: &b, Mode: mode, Style: func(dim bool) { b.WriteString(map[bool]string{true: "[", false: "]"}[dim]) }}
			for rest := answer; rest != ""; {
				n := min(size, len(rest))
				if err := think.Write([]byte(rest[:n])); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := think.End(); err != nil || b.String() != want {
				t.Fatalf("%s in pieces of %d: %q, want %q", mode, size, b.String(), want)
			}
		}
	}
	var b strings.Builder
	think := Think{Out: &b, Mode: ThinkDim}
	if err := errors.Join(think.Write([]byte("<think>a</think>b")), think.End()); err != nil || b.String() != "<think>a</think>b" {
		t.Errorf("without colours: %q, %v", b.String(), err)
	}
}

func TestHistoryIsKeptForItsOwnerAndBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "history")
	h := OpenHistory(path)
	for i := range maxHistory + 10 {
		h.Remember(fmt.Sprintf("entry %d", i))
	}
	h.Remember("two\nlines \x1b")
	h.Remember("two\nlines \x1b")
	h = OpenHistory(path)
	if h.Len() != maxHistory || h.At(0) != "two lines \x1b" || h.At(1) != fmt.Sprintf("entry %d", maxHistory+9) {
		t.Errorf("%d entries, %q, %q", h.Len(), h.At(0), h.At(1))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestCompletion(t *testing.T) {
	for line, want := range map[string]string{"/he": "/help ", "/re": "", "/rea": "/read ", "x": "", "/read f": ""} {
		got, _, ok := complete(line, len(line), '\t')
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q", line, got)
		}
	}
}
