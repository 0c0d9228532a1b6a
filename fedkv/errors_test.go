package fedkv

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCodesAndSentinelsAreOneTable(t *testing.T) {
	names, texts := map[string]bool{}, map[string]bool{}
	for c := Code(1); int(c) < len(codes); c++ {
		if c.Err() == nil {
			t.Errorf("code %d has no sentinel", uint16(c))
			continue
		}
		if CodeOf(c.Err()) != c {
			t.Errorf("%v: the sentinel's code is %v", c, CodeOf(c.Err()))
		}
		if CodeOf(fmt.Errorf("wrapped: %w", c.Err())) != c || CodeOf(fmt.Errorf("wrapped: %w", Errorf(c, "x"))) != c {
			t.Errorf("%v is lost in a wrapped error", c)
		}
		if !errors.Is(Errorf(c, "x"), c.Err()) {
			t.Errorf("%v: an error of it is not its sentinel", c)
		}
		for d := Code(1); int(d) < len(codes); d++ {
			if d != c && d != codes[c].parent && errors.Is(Errorf(c, "x"), d.Err()) {
				t.Errorf("an error of code %v is one of %v too", c, d)
			}
		}
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(c.String()) || names[c.String()] {
			t.Errorf("code %d has the name %q", uint16(c), c)
		}
		if checkName("text", c.Text(), 20, MaxText) != nil || strings.HasSuffix(c.Text(), ".") || texts[c.Text()] {
			t.Errorf("%v: the text %q is no sentence of its own", c, c.Text())
		}
		names[c.String()], texts[c.Text()] = true, true
	}
}

func TestModelErrorsAreErrModelToo(t *testing.T) {
	for _, c := range []Code{CodeArchitecture, CodeShape, CodeRope, CodeTokenizer, CodeTemplate} {
		if !errors.Is(Errorf(c, "x"), ErrModel) {
			t.Errorf("%v is not ErrModel", c)
		}
	}
}

func TestCodeOfOtherErrors(t *testing.T) {
	if CodeOf(nil) != 0 {
		t.Error("nil has a code")
	}
	if CodeOf(errors.New("disk full")) != CodeInternal {
		t.Error("an unknown error is not internal")
	}
}

// Codes of later versions come over the wire: they must show and must not match anything.
func TestUnknownCodes(t *testing.T) {
	err := Abort{sampleSession, 999, ""}.Err()
	if !strings.Contains(err.Error(), "999") || Code(999).String() != "code 999" || Code(999).Err() != nil {
		t.Errorf("%v, %v", err, Code(999))
	}
	if CodeOf(err) != 999 || errors.Is(err, ErrInternal) {
		t.Errorf("%v turned into %v", err, CodeOf(err))
	}
}

func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{
		"plain, wörld":             "plain, wörld",
		"two\nlines\t\ttabs":       "two lines tabs",
		"\x1b[31mred\x1b[0m":       "[31mred [0m",
		"bad \xff\xfe utf8":        "bad utf8",
		"  around  ":               "around",
		"right\u202eto left":       "right to left",
		"":                         "",
		strings.Repeat("ü", 300):   strings.Repeat("ü", MaxText/2),
		strings.Repeat("€", 300):   strings.Repeat("€", MaxText/3),
		strings.Repeat("x\x00", 9): strings.TrimSpace(strings.Repeat("x ", 9)),
	} {
		got := CleanText(in)
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
		if checkName("text", got, 0, MaxText) != nil || !utf8.ValidString(got) {
			t.Errorf("%q: %q cannot be sent", in, got)
		}
	}
}
