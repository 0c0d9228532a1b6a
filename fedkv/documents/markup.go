package documents

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// silent are elements whose text nobody reads.
var silent = map[atom.Atom]bool{
	atom.Script: true, atom.Style: true, atom.Noscript: true, atom.Template: true, atom.Iframe: true, atom.Svg: true, atom.Object: true,
}

// inline are elements that do not begin a line.
var inline = map[atom.Atom]bool{
	atom.A: true, atom.Abbr: true, atom.B: true, atom.Bdi: true, atom.Bdo: true, atom.Cite: true, atom.Code: true, atom.Em: true,
	atom.Font: true, atom.I: true, atom.Kbd: true, atom.Mark: true, atom.Q: true, atom.S: true, atom.Samp: true, atom.Small: true,
	atom.Span: true, atom.Strong: true, atom.Sub: true, atom.Sup: true, atom.Time: true, atom.U: true, atom.Var: true, atom.Wbr: true,
}

// markup is the text of an HTML page. It goes through tokens, not through a tree: depth costs nothing.
func markup(body []byte) (string, error) {
	z := html.NewTokenizer(bytes.NewReader(body))
	z.SetMaxBuf(maxFile)
	var out strings.Builder
	mute := atom.Atom(0) // inside such an element
	space := false
	for {
		switch kind := z.Next(); kind {
		case html.ErrorToken:
			if err := z.Err(); !isEnd(err) {
				return "", fmt.Errorf("its HTML cannot be read: %w", err)
			}
			return lines(out.String()), nil
		case html.StartTagToken, html.EndTagToken, html.SelfClosingTagToken:
			name, _ := z.TagName()
			tag := atom.Lookup(name)
			switch {
			case mute != 0:
				if kind == html.EndTagToken && tag == mute {
					mute = 0
				}
			case kind == html.StartTagToken && silent[tag]:
				mute = tag
			case tag == atom.Td || tag == atom.Th:
				space = true
			case !inline[tag]:
				out.WriteByte('\n')
				if tag == atom.P || tag == atom.H1 || tag == atom.H2 || tag == atom.H3 || tag == atom.Table || tag == atom.Ul || tag == atom.Ol {
					out.WriteByte('\n')
				}
				space = false
			}
		case html.TextToken:
			if mute != 0 {
				continue
			}
			text := string(z.Text())
			words := strings.Join(strings.Fields(text), " ")
			if words == "" {
				space = space || text != ""
				continue
			}
			if (space || text[0] == ' ' || text[0] == '\n' || text[0] == '\t') && out.Len() > 0 {
				out.WriteByte(' ')
			}
			out.WriteString(words)
			last := text[len(text)-1]
			space = last == ' ' || last == '\n' || last == '\t'
		}
	}
}

// lines trims every line and leaves no more than one empty line between two.
func lines(text string) string {
	var out strings.Builder
	empty := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			empty++
			continue
		}
		switch {
		case out.Len() == 0:
		case empty > 1:
			out.WriteString("\n\n")
		default:
			out.WriteString("\n")
		}
		empty = 0
		out.WriteString(line)
	}
	return out.String()
}
