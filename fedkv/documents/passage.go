package documents

import (
	"strings"
	"unicode/utf8"

	"fedattn/fedkv"
)

// passage is a part of a document that is shared as a whole. All passages of a document one after another are its text.
type passage struct {
	text   string
	tokens []fedkv.Token // nil until they are asked for
}

// cut divides a text where a reader would: between paragraphs, else lines, else sentences, else words, so that every
// passage is about passageBytes long. A heading stays with what is under it.
func cut(text string) (passages []passage) {
	for len(text) > 0 {
		n := len(text)
		if n > passageBytes*3/2 {
			n = end(text)
		}
		passages = append(passages, passage{text: text[:n]})
		text = text[n:]
	}
	return passages
}

// end is where the first passage of a long text ends.
func end(text string) int {
	window := text[:passageBytes*3/2]
	best := func(separator string) int {
		at := -1
		for from := 0; ; {
			i := strings.Index(window[from:], separator)
			if i < 0 || from+i+len(separator) > passageBytes && at > 0 {
				return at
			}
			from += i + len(separator)
			if from >= passageBytes/4 && !heading(window[:from]) {
				at = from
			}
		}
	}
	for _, separator := range []string{"\n\n", "\n", ". ", "? ", "! ", " "} {
		if at := best(separator); at > 0 {
			return at
		}
	}
	n := passageBytes
	for n > 1 && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// heading reports whether a text ends with a heading of Markdown.
func heading(text string) bool {
	text = strings.TrimRight(text, "\n")
	return strings.HasPrefix(text[strings.LastIndexByte(text, '\n')+1:], "#")
}
