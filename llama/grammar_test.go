//go:build cgo

package llama

import (
	"strings"
	"testing"
)

func TestGrammarOfASchema(t *testing.T) {
	g, err := GrammarOf(`{"type":"object","properties":{"place":{"type":"string"},"n":{"type":"integer"}},"required":["place"]}`)
	if err != nil || !strings.Contains(g, "root ::=") || !strings.Contains(g, "place") {
		t.Errorf("%q, %v", g, err)
	}
	for _, bad := range []string{"", "{", `{"type":"nothing"}`, `{"$ref":"#/x"}`, `{"pattern":"["}`} {
		if g, err := GrammarOf(bad); err == nil && bad != `{"pattern":"["}` {
			t.Errorf("%q: %q", bad, g)
		}
	}
	long := `{"enum":["` + strings.Repeat("x", 10_000) + `"]}`
	if g, err := GrammarOf(long); err != nil || len(g) < 10_000 {
		t.Errorf("%d bytes, %v", len(g), err)
	}
}
