package documents

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"fedattn/fedkv"
)

// Config says what a library holds.
type Config struct {
	Device    string // whose documents they are, for the line above each passage
	Folders   []string
	Texts     map[string]string // by name: texts that are given, and never change
	Commands  []Command
	Stdin     io.Reader // nil: standard input is no document
	Rules     Rules     // its folders and commands count beside those above
	TailLines int       // of logs, commands and standard input; 0: TailLines
	Converter []string  // command that turns a PDF on its standard input into text; nil: PDF files are left out
	Tokenize  func(text string) ([]fedkv.Token, error)
	// Changed is told what has changed since the library was last looked at, from one goroutine at a time. It may be nil.
	Changed func(Change)
}

// Change is by names of documents. Logs and live documents are never among the changed: they change all the time.
type Change struct {
	Added, Changed []string
	Gone           []string // and those whose policy is another now
	Skipped        []Skipped
}

// Document is a document as its owner is told about it.
type Document struct {
	Name     string    `json:"name"`
	Path     string    `json:"path"`
	Bytes    int       `json:"bytes"` // of text
	Modified time.Time `json:"modified"`
	Live     bool      `json:"live,omitempty"`
	Policy   Policy    `json:"policy"`
	Tokens   int       `json:"tokens,omitempty"` // most of them in one segment; 0: no limit
	Pinned   bool      `json:"pinned,omitempty"`
}

// document is one as the library holds it.
type document struct {
	Document
	below   string // its path below its folder, for rules
	grows   bool   // it changes at its end all the time
	text    string
	digest  [32]byte
	heading []fedkv.Token // of the line above its passages
	parts   []passage
	stamp   stamp
}

// Library is all documents of a device as they are now. Its methods may be called from several goroutines.
type Library struct {
	cfg     Config
	folders []*folder
	input   *stream

	looking sync.Mutex // one look at a time

	mu       sync.Mutex
	rules    Rules
	docs     map[string]*document // by name
	files    map[string]*document // by folder and path
	bad      map[string]Skipped   // files that could not be read, by folder and path, with their stamps
	stamps   map[string]stamp     // of the bad ones
	live     []*document
	ran      time.Time // when commands did
	skipped  []Skipped
	watched  []string // folders
	index    *index
	composed []composed
	frame    map[string][]fedkv.Token // tokens of what stands around passages
}

// Open looks at everything once. A folder that cannot be opened is an error: it was named.
func Open(ctx context.Context, cfg Config) (*Library, error) {
	cfg.TailLines = cmp.Or(cfg.TailLines, TailLines)
	l := &Library{
		cfg: cfg, rules: cfg.Rules, docs: map[string]*document{}, files: map[string]*document{}, bad: map[string]Skipped{},
		stamps: map[string]stamp{}, frame: map[string][]fedkv.Token{},
	}
	var err error
	if l.index, err = newIndex(); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Texts)) {
		d := &document{below: name, text: cfg.Texts[name]}
		d.Path = name
		l.files["text:"+name] = d
	}
	if cfg.Stdin != nil {
		l.input = &stream{most: cfg.TailLines}
		go l.input.follow(cfg.Stdin)
		d := &document{below: "standard input", grows: true}
		d.Path, d.Live = "-", true
		l.live = append(l.live, d)
	}
	if err := l.SetRules(ctx, cfg.Rules); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close gives the folders back.
func (l *Library) Close() error {
	var errs []error
	for _, f := range l.folders {
		errs = append(errs, f.root.Close())
	}
	if l.index != nil {
		errs = append(errs, l.index.close())
	}
	return errors.Join(errs...)
}

// Documents lists everything that is held, whatever its policy, by name.
func (l *Library) Documents() (list []Document) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.docs {
		list = append(list, d.Document)
	}
	slices.SortFunc(list, func(a, b Document) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Skipped lists what was found and is no document.
func (l *Library) Skipped() []Skipped {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.skipped)
}

// SetRules puts other rules in place, from now on, their folders and commands among them. If one of the folders cannot be
// opened, nothing changes.
func (l *Library) SetRules(ctx context.Context, r Rules) error {
	if err := r.validate(); err != nil {
		return err
	}
	if err := l.reopen(r); err != nil {
		return err
	}
	l.mu.Lock()
	live := slices.DeleteFunc(slices.Clone(l.live), func(d *document) bool { return d.Path != "-" })
	for _, c := range slices.Concat(l.cfg.Commands, r.Commands) {
		if i := slices.IndexFunc(l.live, func(d *document) bool { return d.Path == c.Run && d.below == c.name() }); i >= 0 {
			live = append(live, l.live[i])
			continue
		}
		d := &document{below: c.name(), grows: true}
		d.Path, d.Live = c.Run, true
		live = append(live, d)
		l.ran = time.Time{} // it has not run
	}
	l.rules, l.live = r, live
	l.mu.Unlock()
	return l.Look(ctx)
}

// reopen opens the folders that rules name, and closes those that nobody names any more.
func (l *Library) reopen(r Rules) error {
	l.looking.Lock()
	defer l.looking.Unlock()
	var now, opened []*folder
	for _, dir := range slices.Concat(l.cfg.Folders, r.Folders) {
		dir = filepath.Clean(dir)
		called := func(f *folder) bool { return f.path == dir }
		if slices.ContainsFunc(now, called) {
			continue
		}
		if i := slices.IndexFunc(l.folders, called); i >= 0 {
			now = append(now, l.folders[i])
			continue
		}
		f, err := openFolder(dir)
		if err != nil {
			for _, f := range opened {
				_ = f.root.Close()
			}
			return err
		}
		now, opened = append(now, f), append(opened, f)
	}
	for _, f := range l.folders {
		if !slices.Contains(now, f) {
			_ = f.root.Close()
		}
	}
	l.folders = now
	return nil
}

// Look finds out what is in the folders now, and says what has changed. Only files that may have changed are read. Its
// error is about the context or the library, never about a file.
func (l *Library) Look(ctx context.Context) error {
	l.looking.Lock()
	defer l.looking.Unlock()
	var w walk
	for _, f := range l.folders {
		w.look(f, ".", 0, ignore{})
	}
	now := map[string]*document{}
	bytes := 0
	for _, f := range w.files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key := f.in.path + "\x00" + f.path
		l.mu.Lock()
		known, bad, stamped := l.files[key], l.bad[key], l.stamps[key]
		l.mu.Unlock()
		switch {
		case len(now) == maxDocuments:
			w.skip(f.in, f.path, fmt.Sprintf("there are %d documents already", maxDocuments))
			continue
		case known != nil && known.stamp == f.stamp:
		case bad.Reason != "" && stamped == f.stamp:
			w.skipped = append(w.skipped, bad)
			continue
		default:
			text, err := l.read(ctx, f)
			if err != nil {
				w.skip(f.in, f.path, err.Error())
				l.mu.Lock()
				l.bad[key], l.stamps[key] = Skipped{path.Join(f.in.path, f.path), err.Error()}, f.stamp
				l.mu.Unlock()
				continue
			}
			known = &document{below: f.path, grows: isLog(f.path), text: text, stamp: f.stamp}
			known.Path, known.Modified = path.Join(f.in.path, f.path), f.stamp.time
		}
		if bytes += len(known.text); bytes > maxTexts {
			w.skip(f.in, f.path, fmt.Sprintf("all documents together have %s of text already", sizeText(maxTexts)))
			continue
		}
		now[key] = known
	}
	live, liveBad := l.runAll(ctx)
	return l.take(now, live, append(w.skipped, liveBad...), w.folders)
}

// runAll gets what commands print and what came on standard input, unless that was a moment ago.
func (l *Library) runAll(ctx context.Context) (texts map[*document]string, bad []Skipped) {
	l.mu.Lock()
	live, fresh := slices.Clone(l.live), time.Since(l.ran) < commandEvery
	if !fresh {
		l.ran = time.Now()
	}
	l.mu.Unlock()
	texts = map[*document]string{}
	var mu sync.Mutex
	var running sync.WaitGroup
	for _, d := range live {
		if d.Path == "-" {
			texts[d] = l.input.text()
			continue
		}
		if fresh {
			l.mu.Lock()
			texts[d] = d.text
			l.mu.Unlock()
			continue
		}
		running.Go(func() {
			text, err := Command{Run: d.Path}.output(ctx, l.cfg.TailLines)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				bad = append(bad, Skipped{d.Path, err.Error()})
			}
			texts[d] = text
		})
	}
	running.Wait()
	return texts, bad
}

// take makes what was found what the library holds.
func (l *Library) take(now map[string]*document, live map[*document]string, skipped []Skipped, folders []string) error {
	l.mu.Lock()
	for key, d := range l.files {
		if strings.HasPrefix(key, "text:") {
			now[key] = d
		}
	}
	l.files, l.skipped, l.watched = now, skipped, folders
	for key := range l.bad {
		if now[key] != nil {
			delete(l.bad, key)
		}
	}
	all := slices.Collect(maps.Values(now))
	for _, d := range l.live {
		text, have := live[d]
		if !have || text == "" {
			continue
		}
		if text != d.text {
			fresh := *d // segments under way go on with what they have
			fresh.text, fresh.parts, fresh.digest, fresh.Modified = text, nil, [32]byte{}, time.Now()
			l.live[slices.Index(l.live, d)] = &fresh
			d = &fresh
		}
		all = append(all, d)
	}
	change, reindex := l.name(all)
	change.Skipped = skipped
	err := l.index.update(reindex, l.docs)
	l.mu.Unlock()
	if l.cfg.Changed != nil && len(change.Added)+len(change.Changed)+len(change.Gone) > 0 {
		l.cfg.Changed(change)
	}
	return err
}

// name gives documents their names and terms, and says what is new. The lock is held.
func (l *Library) name(all []*document) (c Change, reindex []string) {
	slices.SortFunc(all, func(a, b *document) int { return strings.Compare(a.below+"\x00"+a.Path, b.below+"\x00"+b.Path) })
	count := map[string]int{}
	for _, d := range all {
		count[short(d)]++
	}
	before := l.docs
	l.docs = map[string]*document{}
	for _, d := range all {
		name := short(d)
		if count[name] > 1 {
			name = clean(d.below)
		}
		if l.docs[name] != nil {
			name = clean(d.Path)
		}
		for n := 2; l.docs[name] != nil; n++ {
			name = fmt.Sprintf("%s (%d)", clean(short(d)), n)
		}
		terms := l.rules.terms(name, d.below)
		next := d
		if d.Name != name || d.Policy != terms.Policy || d.Document.Tokens != terms.Tokens || d.Pinned != terms.Pin || d.parts == nil {
			fresh := *d
			next = &fresh
			next.Name, next.Policy, next.Document.Tokens, next.Pinned = name, terms.Policy, terms.Tokens, terms.Pin
			next.Bytes, next.digest, next.heading = len(d.text), sha256.Sum256([]byte(d.text)), nil
			next.parts = cut(d.text)
			l.replace(d, next)
		}
		l.docs[name] = next
	}
	for name, d := range l.docs {
		old := before[name]
		switch {
		case old == nil:
			c.Added = append(c.Added, name)
			reindex = append(reindex, name)
		case old.digest != d.digest:
			if !d.grows {
				c.Changed = append(c.Changed, name)
			}
			reindex = append(reindex, name)
		case old.Policy != d.Policy:
			c.Gone = append(c.Gone, name)
		}
	}
	for name := range before {
		if l.docs[name] == nil {
			c.Gone = append(c.Gone, name)
			reindex = append(reindex, name)
		}
	}
	slices.Sort(c.Added)
	slices.Sort(c.Changed)
	slices.Sort(c.Gone)
	return c, reindex
}

// replace puts a document where another one is held.
func (l *Library) replace(old, next *document) {
	for key, d := range l.files {
		if d == old {
			l.files[key] = next
			return
		}
	}
	if i := slices.Index(l.live, old); i >= 0 {
		l.live[i] = next
	}
}

// short is a document's name if no other has it: its path without the ending that says that it is text.
func short(d *document) string {
	name := d.below
	if d.Live {
		return clean(name)
	}
	switch ext := path.Ext(name); strings.ToLower(ext) {
	case ".txt", ".md", ".markdown", ".html", ".htm", ".pdf":
		name = strings.TrimSuffix(name, ext)
	}
	return clean(name)
}

// clean makes a name one that can be shown, and stand in brackets above a passage.
func clean(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r == '[':
			return '('
		case r == ']':
			return ')'
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, name)
	name = strings.Join(strings.Fields(name), " ")
	for len(name) > fedkv.MaxSourceName-8 {
		_, cut, _ := strings.Cut(name[1:], "/")
		if cut == "" {
			runes := []rune(name)
			cut = string(runes[1:])
		}
		name = cut
	}
	return cmp.Or(name, "unnamed")
}
