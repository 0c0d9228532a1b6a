package fedkv

import (
	"errors"
	"strings"
	"testing"
)

func TestFingerprintsThatDiffer(t *testing.T) {
	for name, c := range map[string]struct {
		change       func(*Fingerprint)
		want         error
		ours, theirs string
	}{
		"architecture": {func(f *Fingerprint) { f.Architecture = "gemma3" }, ErrArchitecture, `"llama"`, `"gemma3"`},
		"layers":       {func(f *Fingerprint) { f.Layers = 32 }, ErrShape, "30", "32"},
		"shape":        {func(f *Fingerprint) { f.Shape = Digest{0xaa} }, ErrShape, "01000000", "aa000000"},
		"rope":         {func(f *Fingerprint) { f.Rope = Digest{0xbb} }, ErrRope, "02000000", "bb000000"},
		"tokenizer":    {func(f *Fingerprint) { f.Tokenizer = Digest{0xcc} }, ErrTokenizer, "03000000", "cc000000"},
		"template":     {func(f *Fingerprint) { f.Template = Digest{0xdd} }, ErrTemplate, "04000000", "dd000000"},
	} {
		theirs := sampleFingerprint
		c.change(&theirs)
		err := sampleFingerprint.Compatible(theirs)
		if !errors.Is(err, c.want) || !errors.Is(err, ErrModel) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
			continue
		}
		if text := err.Error(); !strings.Contains(text, c.ours) || !strings.Contains(text, c.theirs) || checkName("", text, 1, MaxText) != nil {
			t.Errorf("%s: %q does not name %s and %s in one sentence", name, text, c.ours, c.theirs)
		}
		if turned := theirs.Compatible(sampleFingerprint); CodeOf(turned) != CodeOf(err) {
			t.Errorf("%s: the other side says %v", name, turned)
		}
	}
}

func TestFingerprintsThatDoNotMatter(t *testing.T) {
	theirs := sampleFingerprint
	if err := sampleFingerprint.Compatible(theirs); err != nil || !sampleFingerprint.SameWeights(theirs) {
		t.Errorf("a model is not compatible with itself: %v", err)
	}
	theirs.Weights, theirs.ContextTrain = Digest{99}, 1
	if err := sampleFingerprint.Compatible(theirs); err != nil || sampleFingerprint.SameWeights(theirs) {
		t.Errorf("other weights: got %v, same %v", err, sampleFingerprint.SameWeights(theirs))
	}
}
