package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func read(t *testing.T, text string) (File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

func TestReadKeepsWhatWasTyped(t *testing.T) {
	f, err := read(t, `# mine
model: /models/a.gguf   # small
threads: 2
temp: 0.10
no-mdns: true
name: "yes"
peer: [garden, shed]
timeout: 5m

chat:
  temp: 1
  file:
    - a,b.txt
    - 'c d.txt'
  system: |
    Be brief.
    Be kind.
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Setting{
		{"", "model", []string{"/models/a.gguf"}, false, 2},
		{"", "threads", []string{"2"}, false, 3},
		{"", "temp", []string{"0.10"}, false, 4},
		{"", "no-mdns", []string{"true"}, false, 5},
		{"", "name", []string{"yes"}, false, 6},
		{"", "peer", []string{"garden", "shed"}, true, 7},
		{"", "timeout", []string{"5m"}, false, 8},
		{"chat", "temp", []string{"1"}, false, 11},
		{"chat", "file", []string{"a,b.txt", "c d.txt"}, true, 12},
		{"chat", "system", []string{"Be brief.\nBe kind.\n"}, false, 15},
	}
	if diff := cmp.Diff(want, f.Settings); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ command, flag, everywhere, want string }{
		{"chat", "temp", "temp", "1"}, {"ask", "temp", "temp", "0.10"}, {"invite", "node", "name", "yes"}, {"invite", "threads", "invite-threads", ""},
	} {
		s, found := f.Find(c.command, c.flag, c.everywhere)
		if got := strings.Join(s.Texts, "|"); got != c.want || found != (c.want != "") {
			t.Errorf("%s --%s: %q, want %q", c.command, c.flag, got, c.want)
		}
	}
}

func TestReadNothing(t *testing.T) {
	for _, text := range []string{"", "# nothing yet\n", "---\n", "\n\n"} {
		if f, err := read(t, text); err != nil || len(f.Settings) > 0 {
			t.Errorf("%q: %v, %v", text, f.Settings, err)
		}
	}
	if f, err := Read(filepath.Join(t.TempDir(), "none.yaml")); err != nil || len(f.Settings) > 0 {
		t.Errorf("%v, %v", f, err)
	}
}

func TestReadSaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		"model: a\nmodel: b\n":                         `config.yaml:2: `,
		"chat:\n  temp: 1\nask: {temp: 2}\nname:\n":    `config.yaml:4: name has no value`,
		"model: a\n- b\n":                              `config.yaml:`,
		"only words":                                   `config.yaml:1: settings are lines such as model: `,
		"peer: [[a]]":                                  `config.yaml:1: peer has to be one value, or a list of values`,
		"chat:\n  think: {deep: x}\n":                  `config.yaml:2: think has to be one value, or a list of values`,
		"model: 'open\n":                               `config.yaml:1: `,
		"a: &x 1\nb: *x\n":                             `config.yaml:`,
		"name: " + strings.Repeat("x", maxFile) + "\n": `has more than 1024 KiB`,
	} {
		_, err := read(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: several lines: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"model: a\nchat:\n  temp: 1\n", "peer: [a, b]", "a: |\n  b\n", "a: &x 1\nb: *x", "<<: {a: 1}", "? a\n: b"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = parse(text) })
}
