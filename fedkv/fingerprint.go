package fedkv

import "encoding/hex"

// Digest is a SHA-256.
type Digest [32]byte

// String is 64 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// short is enough of a digest for a person to compare two.
func (d Digest) short() string { return hex.EncodeToString(d[:4]) }

// Fingerprint pins a model: two devices may exchange rows only if everything but the weights is equal.
// What each digest covers is the engine's business (docs/wire.md lists it); here they are only compared.
type Fingerprint struct {
	Architecture string `cbor:"1,keyasint"` // llama.cpp's name, such as "llama"
	Shape        Digest `cbor:"2,keyasint"` // layers, heads, row sizes, windows
	Rope         Digest `cbor:"3,keyasint"` // everything that turns a position into a rotation
	Tokenizer    Digest `cbor:"4,keyasint"` // vocabulary with scores and attributes, special tokens, pre-tokenizer
	Template     Digest `cbor:"5,keyasint"` // chat template
	Weights      Digest `cbor:"6,keyasint"` // the model file; may differ, which is said aloud
	Layers       int    `cbor:"7,keyasint"` // 1..MaxLayers
	ContextTrain int    `cbor:"8,keyasint"` // tokens the model was trained for; 0: not said
}

// Compatible is nil if rows of one model mean the same to the other. Otherwise it is one sentence that names
// both sides, f as ours and o as theirs; its code says what differs. Other weights alone (the same model,
// quantised otherwise) are compatible: see SameWeights.
func (f Fingerprint) Compatible(o Fingerprint) error {
	if f.Architecture != o.Architecture {
		return Errorf(CodeArchitecture, "the models' architectures differ: ours is %q and theirs is %q", f.Architecture, o.Architecture)
	}
	if f.Layers != o.Layers {
		return Errorf(CodeShape, "the models' layers differ: ours has %d and theirs has %d", f.Layers, o.Layers)
	}
	for _, part := range []struct {
		code         Code
		what         string
		ours, theirs Digest
	}{
		{CodeShape, "layer shapes", f.Shape, o.Shape},
		{CodeRope, "RoPE parameters", f.Rope, o.Rope},
		{CodeTokenizer, "tokenizers", f.Tokenizer, o.Tokenizer},
		{CodeTemplate, "chat templates", f.Template, o.Template},
	} {
		if part.ours != part.theirs {
			return Errorf(part.code, "the models' %s differ: ours is %s and theirs is %s", part.what, part.ours.short(), part.theirs.short())
		}
	}
	return nil
}

// SameWeights reports whether the files hold the same weights.
func (f Fingerprint) SameWeights(o Fingerprint) bool { return f.Weights == o.Weights }
