package node_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/nodetest"
)

func TestDocumentsAreOneSegment(t *testing.T) {
	e := nodetest.NewEngine()
	d, err := node.NewDocuments(e, "desk", []node.Document{{Name: "a.txt", Text: "\n first text \n"}, {Name: "b.txt", Text: "second"}})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := e.Tokenize("Notes of desk:\nfirst text\n\nsecond\n\n")
	got, err := d.Segment(t.Context(), fedkv.Plan{MaxTokens: len(want)})
	if err != nil || !slices.Equal(got.Tokens, want) || d.Tokens() != len(want) {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
	_, err = d.Segment(t.Context(), fedkv.Plan{MaxTokens: len(want) - 1})
	if !errors.Is(err, fedkv.ErrTooLong) || !strings.Contains(err.Error(), "35 tokens and 34 fit") {
		t.Errorf("one token too long: %v", err)
	}
}
