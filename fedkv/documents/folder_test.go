package documents

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fedattn/fedkv"
)

// TestMain lets the test binary be the process that converts PDF files, and one that never ends.
func TestMain(m *testing.M) {
	switch os.Getenv(converterVar) {
	case "pdf":
		if err := ConvertPDF(os.Stdin, os.Stdout, os.Exit); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case "loop":
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

const converterVar = "FEDATTN_TEST_CONVERTER"

// self is a converter that is this test binary: through a shell, since a converter gets no environment.
func self(t *testing.T, how string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/bin/sh", "-c", converterVar + "=" + how + ` exec "$0"`, exe}
}

// words is a tokenizer: a token for every word and every line break.
func words(text string) (tokens []fedkv.Token, err error) {
	for _, w := range strings.Fields(strings.ReplaceAll(text, "\n", " \\n ")) {
		n := fedkv.Token(0)
		for _, b := range []byte(w) {
			n = n*31 + fedkv.Token(b)
		}
		tokens = append(tokens, n&0xffffff)
	}
	return tokens, nil
}

type tree map[string]string

func (files tree) in(t *testing.T, dir string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, cfg Config) *Library {
	t.Helper()
	cfg.Device, cfg.Tokenize = "shed", words
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// said is the text of a document, and of a skipped file the reason.
func (l *Library) said(name string) string {
	if d := l.docs[name]; d != nil {
		return d.text
	}
	for _, s := range l.skipped {
		if filepath.Base(s.Path) == name {
			return "skipped: " + s.Reason
		}
	}
	return ""
}

func TestKindsOfFiles(t *testing.T) {
	numbered := func(from, to int) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, "line %d\n", i)
		}
		return strings.TrimSpace(b.String())
	}
	dir := tree{
		"beans.txt":       "Sown in May.\r\nHoed in June.\n",
		"bom.md":          "\xef\xbb\xbf# Roses",
		"code.go":         "package shed\n",
		"page.html":       "<html><head><title>Soil</title><style>p{}</style><script>evil()</script></head><body><h1>Beds</h1><p>Bed <b>one</b> is wet.</p><ul><li>dig<li>rake</ul><table><tr><td>pH</td><td>6.5</td></tr></table></body>",
		"seeds.csv":       "seed;sown;row\nbean;May;3\nkale;June;\n",
		"notes.json":      `{"pump": "green valve"}`,
		"pump.log":        numbered(0, 1000),
		"sub/deep/it.txt": "deep",
		"manual.pdf":      samplePDF("The pump starts with the green valve."),
		"same.txt":        "text", "same.md": "markdown",
		"a[1]\tb.txt": "brackets",
	}.in(t, t.TempDir())
	l := open(t, Config{Folders: []string{dir}, TailLines: 3, Converter: self(t, "pdf")})
	for name, want := range map[string]string{
		"beans": "Sown in May.\nHoed in June.\n", "bom": "# Roses", "code.go": "package shed\n",
		"page":       "Soil\n\nBeds\n\nBed one is wet.\n\ndig\nrake\n\npH 6.5",
		"seeds.csv":  "seed: bean, sown: May, row: 3\nseed: kale, sown: June\n",
		"notes.json": `{"pump": "green valve"}`, "pump.log": numbered(997, 1000), "sub/deep/it": "deep",
		"same.txt": "text", "same.md": "markdown", "a(1) b": "brackets",
	} {
		if got := l.said(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := l.said("manual"); !strings.Contains(got, "green valve") {
		t.Errorf("the PDF says %q; skipped %v", got, l.Skipped())
	}
	if len(l.Skipped()) > 0 {
		t.Error(l.Skipped())
	}
}

// samplePDF is a PDF of one page, in plain objects.
func samplePDF(text string) string {
	stream := fmt.Sprintf("BT /F1 12 Tf 72 720 Td (%s) Tj ET", text)
	return assemblePDF(
		"<< /Type /Catalog /Pages 2 0 R >>",
		"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
		"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
		fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(stream), stream),
		"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
	)
}

func assemblePDF(objects ...string) string {
	var b bytes.Buffer
	b.WriteString("%PDF-1.4\n")
	var at []int
	for i, o := range objects {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, n := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", n)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, xref)
	return b.String()
}

// What cannot be a document is named and left out, and nothing outside the folder is ever read.
func TestBadFilesAreNamedAndSkipped(t *testing.T) {
	outside := tree{"secret.txt": "the canary", "more/secret.txt": "the canary"}.in(t, t.TempDir())
	dir := tree{
		"good.txt": "good", "zero.txt": "a\x00b", "latin.txt": "caf\xe9", "empty.txt": " \n", "broken.pdf": "%PDF-1.7 nothing",
		"locked.txt": "locked", "locked/in.txt": "locked", ".hidden": "hidden", ".ssh/key": "key", "up/up.txt": "up",
		"bomb.pdf": bombPDF(),
	}.in(t, t.TempDir())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(filepath.Join(dir, "locked.txt"), 0))
	must(os.Chmod(filepath.Join(dir, "locked"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "locked"), 0o700) })
	for name, to := range map[string]string{
		"out.txt": filepath.Join(outside, "secret.txt"), "up/rel.txt": "../../" + filepath.Base(outside) + "/secret.txt", "outdir": outside,
		"loop.txt": "loop2.txt", "loop2.txt": "loop.txt", "self": ".", "up/parent": "..", "nowhere.txt": "gone.txt",
		"inside.txt": "up/up.txt", "dev.txt": "/dev/zero", "root.txt": "/etc/passwd",
	} {
		must(os.Symlink(to, filepath.Join(dir, name)))
	}
	must(syscall.Mkfifo(filepath.Join(dir, "pipe.txt"), 0o600))
	big, err := os.Create(filepath.Join(dir, "big.txt"))
	must(err)
	must(big.Truncate(10 << 30))
	must(big.Close())
	grown, err := os.Create(filepath.Join(dir, "grown.log"))
	must(err)
	must(grown.Truncate(10 << 30))
	_, err = grown.WriteAt([]byte("the last line\n"), 10<<30)
	must(err)
	must(grown.Close())

	began := time.Now()
	l := open(t, Config{Folders: []string{dir}, Converter: self(t, "pdf")})
	t.Logf("looked at in %v", time.Since(began))
	var names []string
	for _, d := range l.Documents() {
		names = append(names, d.Name)
		if text := l.said(d.Name); strings.Contains(text, "canary") || strings.Contains(text, "root:") {
			t.Errorf("%s is from outside: %q", d.Name, text)
		}
	}
	want := []string{"good", "grown.log", "inside", "up/up"}
	if os.Getuid() == 0 { // whom no permission stops
		want = append(want, "locked", "locked/in")
		slices.Sort(want)
	}
	if !slices.Equal(names, want) {
		t.Errorf("documents %q, want %q", names, want)
	}
	if got := l.said("grown.log"); got != "the last line" {
		t.Errorf("the end of the log is %q", got)
	}
	for name, why := range map[string]string{
		"zero.txt": "binary", "latin.txt": "UTF-8", "empty.txt": "no text", "broken.pdf": "damaged", "out.txt": "out of the folder",
		"rel.txt": "out of the folder", "outdir": "out of the folder", "loop.txt": "circle", "self": "link to a folder", "parent": "link to a folder",
		"nowhere.txt": "gone", "dev.txt": "out of the folder", "pipe.txt": "no regular file", "big.txt": "binary", "bomb.pdf": "of text",
	} {
		if got := l.said(name); !strings.Contains(got, "skipped: ") || !strings.Contains(got, why) {
			t.Errorf("%s: %q, should tell of %q", name, got, why)
		}
	}
}

// bombPDF is a page that shows another one again and again: a kilobyte that stands for gigabytes.
func bombPDF() string {
	big := strings.Repeat("(x) Tj ", 2000)
	var forms []string
	for n := range 200 {
		_ = n
		forms = append(forms, big)
	}
	stream := "BT /F1 12 Tf 72 720 Td " + strings.Join(forms, "") + " ET"
	for len(stream) < 3<<20 {
		stream += "BT (" + strings.Repeat("y", 1<<20) + ") Tj ET "
	}
	return assemblePDF(
		"<< /Type /Catalog /Pages 2 0 R >>",
		"<< /Type /Pages /Kids ["+strings.Repeat("3 0 R ", 500)+"] /Count 500 >>",
		"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
		fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(stream), stream),
		"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
	)
}

// A converter that does not end is ended.
func TestAConverterHasADeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	l := &Library{cfg: Config{Converter: self(t, "loop")}}
	if _, err := l.convert(ctx, strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "within") {
		t.Errorf("%v", err)
	}
}

func TestIgnored(t *testing.T) {
	dir := tree{
		".fedattnignore":      "# private\n*.key.txt\n/diary/\n!diary-of-the-garden.txt\ndrafts/**\n",
		"a.key.txt":           "no",
		"diary/monday.txt":    "no",
		"deep/diary/it.txt":   "yes",
		"drafts/x/y.txt":      "no",
		"deep/b.key.txt":      "no",
		"deep/.fedattnignore": "*.md\n",
		"deep/c.md":           "no",
		"d.md":                "yes",
		"x/.fedattnignore/f":  "a folder of that name protects all",
		"x/y.txt":             "no",
	}.in(t, t.TempDir())
	l := open(t, Config{Folders: []string{dir}})
	for _, d := range l.Documents() {
		if text := l.said(d.Name); text != "yes" {
			t.Errorf("%s: %q", d.Name, text)
		}
	}
	if n := len(l.Documents()); n != 2 {
		t.Errorf("%d documents, want 2: %v", n, l.Documents())
	}
}

func TestAFolderHasToBeThere(t *testing.T) {
	file := filepath.Join(tree{"f.txt": "x"}.in(t, t.TempDir()), "f.txt")
	for _, dir := range []string{file, filepath.Join(t.TempDir(), "nowhere")} {
		if l, err := Open(t.Context(), Config{Folders: []string{dir}}); err == nil {
			_ = l.Close()
			t.Errorf("%s was opened", dir)
		}
	}
}

// Changes are seen without anybody asking, told once, and a file may vanish at any time.
func TestChangesAreSeen(t *testing.T) {
	dir := tree{"a.txt": "a", "b.txt": "b", "c.log": "c"}.in(t, t.TempDir())
	changes := make(chan Change, 100)
	l := open(t, Config{Folders: []string{dir}, Changed: func(c Change) { changes <- c }})
	<-changes // the first look
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); l.Watch(ctx) }()
	tree{"sub/new.txt": "new"}.in(t, dir)
	// in one step, as editors save: a file that is written in place is empty for a moment, and an empty one is no document
	saved := tree{"a.txt": "a longer one", "c.log": "c\nd"}.in(t, t.TempDir())
	for _, name := range []string{"a.txt", "c.log"} {
		if err := os.Rename(filepath.Join(saved, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "b.txt")); err != nil {
		t.Fatal(err)
	}
	var all Change
	deadline := time.After(20 * time.Second)
	for len(all.Added) < 1 || len(all.Changed) < 1 || len(all.Gone) < 1 {
		select {
		case c := <-changes:
			all.Added, all.Changed, all.Gone = append(all.Added, c.Added...), append(all.Changed, c.Changed...), append(all.Gone, c.Gone...)
		case <-deadline:
			t.Fatalf("seen so far: %+v", all)
		}
	}
	if !slices.Equal(all.Added, []string{"sub/new"}) || !slices.Equal(all.Changed, []string{"a"}) || !slices.Equal(all.Gone, []string{"b"}) {
		t.Errorf("%+v", all)
	}
	cancel()
	<-done
}

func TestLiveDocuments(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{
		Commands: []Command{{Run: "echo one; echo two; echo three"}, {Name: "fails", Run: "exit 3"}, {Name: "noise", Run: "printf 'a\\377b'"}},
		Stdin:    strings.NewReader("first\nsecond\nthird\n"), TailLines: 2,
		Folders: []string{dir},
	})
	deadline := time.Now().Add(10 * time.Second)
	for l.said("standard input") != "second\nthird" && time.Now().Before(deadline) {
		if err := l.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"standard input": "second\nthird", "echo one; echo two; echo three": "two\nthree", "noise": "a?b",
	} {
		if got := l.said(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := (Command{Run: "sleep 60 & sleep 60"}).output(ctx, 10); err == nil || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
