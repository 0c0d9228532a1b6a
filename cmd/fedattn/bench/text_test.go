package bench

import (
	"strings"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// words is an engine in which every word is so many tokens.
type words struct {
	node.Engine
	each int
}

func (w words) Tokenize(text string) ([]fedkv.Token, error) {
	return make([]fedkv.Token, w.each*len(strings.Fields(text))), nil
}

func TestDivide(t *testing.T) {
	for _, c := range []struct{ each, prompt, devices int }{{1, 512, 2}, {1, 100, 1}, {1, 8192, 3}, {2, 2048, 2}, {3, 2048, 5}} {
		p, err := divide(words{each: c.each}, c.prompt, c.devices, 40)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if p.tokens > c.prompt || p.tokens < c.prompt-c.each*c.devices {
			t.Errorf("%+v: %d tokens", c, p.tokens)
		}
		seen := map[string]bool{}
		total := 40
		for i, d := range p.documents {
			source, err := node.NewDocuments(words{each: c.each}, d.Name, []node.Document{d})
			if err != nil || seen[d.Text] || d.Name != deviceName(c.devices, i) {
				t.Fatalf("%+v: document %d: %q, %v", c, i, d.Name, err)
			}
			seen[d.Text], total = true, total+source.Tokens()
			if fair := (c.prompt - 40) / c.devices; source.Tokens() < fair-2*c.each || source.Tokens() > fair+2*c.each*c.devices {
				t.Errorf("%+v: device %d has %d of %d tokens", c, i, source.Tokens(), c.prompt)
			}
		}
		if total != p.tokens {
			t.Errorf("%+v: %d tokens are said, %d are there", c, p.tokens, total)
		}
	}
	for _, c := range []struct{ prompt, devices int }{{40, 2}, {30, 2}, {50, 5}} {
		if p, err := divide(words{each: 1}, c.prompt, c.devices, 40); err == nil {
			t.Errorf("%+v: %d documents of %d tokens", c, len(p.documents), p.tokens)
		}
	}
}

// No two questions have a prefix in common, so that nobody has rows behind it.
func TestPrefixes(t *testing.T) {
	if system(1) == system(2) || len(system(1)) != len(system(999)) || questions[0] == questions[1] {
		t.Errorf("%q, %q", system(1), system(999))
	}
}
