package documents

import (
	"errors"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// ignoreFile names what is not to be shared, in any folder, with the rules of gitignore.
const ignoreFile = ".fedattnignore"

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// ignore is the patterns that hold in a folder: those of all folders above, the nearest last.
type ignore struct{ patterns []gitignore.Pattern }

// with adds the patterns of a folder. Those that cannot be read hide everything in it: they may be there to protect.
func (i ignore) with(f *folder, dir string) ignore {
	domain := split(dir)
	file, err := f.root.Open(joined(dir, ignoreFile))
	if err != nil {
		if _, gone := f.root.Lstat(joined(dir, ignoreFile)); gone != nil {
			return i
		}
		return ignore{append(i.patterns[:len(i.patterns):len(i.patterns)], gitignore.ParsePattern("*", domain))}
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxIgnore+1))
	if err != nil || len(text) > maxIgnore {
		text = []byte("*")
	}
	next := ignore{i.patterns[:len(i.patterns):len(i.patterns)]}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		next.patterns = append(next.patterns, gitignore.ParsePattern(line, domain))
	}
	return next
}

func (i ignore) matches(name string, dir bool) bool {
	return len(i.patterns) > 0 && gitignore.NewMatcher(i.patterns).Match(split(name), dir)
}

// split is a path below a folder as a list of names; the folder itself is none.
func split(name string) []string {
	if name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

func joined(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}
