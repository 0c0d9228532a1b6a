package node

import (
	"context"
	"fmt"
	"strings"

	"fedattn/fedkv"
)

// Document is a text that a device contributes.
type Document struct {
	Name string
	Text string
}

// Documents is a Source that holds all of a device's texts, one after another under the device's name.
type Documents struct{ tokens []fedkv.Token }

// NewDocuments tokenises a device's texts as they will stand in the user's turn. They are plain text: what looks like a
// special token in them stays text.
func NewDocuments(e Engine, device string, docs []Document) (*Documents, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "Notes of %s:\n", device)
	for _, d := range docs {
		fmt.Fprintf(&text, "%s\n\n", strings.TrimSpace(d.Text))
	}
	tokens, err := e.Tokenize(text.String())
	return &Documents{tokens}, err
}

// Tokens is the length of the segment.
func (d *Documents) Tokens() int { return len(d.tokens) }

// Has reports whether rows are of these documents, as they are now.
func (d *Documents) Has(rows RowKey) bool { return rows.IsOf(d.tokens) }

// Segment gives the whole text, or says how much too long it is.
func (d *Documents) Segment(_ context.Context, plan fedkv.Plan) (fedkv.Text, error) {
	if len(d.tokens) > plan.MaxTokens {
		return fedkv.Text{}, fedkv.Errorf(fedkv.CodeTooLong, "this device's documents have %d tokens and %d fit; share fewer of them, or ask with a larger --context", len(d.tokens), plan.MaxTokens)
	}
	return fedkv.Text{Tokens: d.tokens}, nil
}
