package fedkv

// ModelSize is what decides, besides its attention, about the memory that a model takes.
type ModelSize struct {
	Weights            int64 // bytes of all its files
	Width, FeedForward int   // elements of a token's hidden state, and inside a feed-forward layer
	Vocabulary         int   // tokens
}

// Memory is what one participant takes, in bytes of resident memory.
type Memory struct {
	Program int64 // the process, and the model's vocabulary
	Weights int64 // the files are mapped, and every page of them is read
	Cells   int64 // K and V rows of the caches
	Scratch int64 // of one evaluation
	Rows    int64 // rows in wire types on their way
}

const (
	programBytes    = 24 << 20 // code, libraries, the Go runtime: measured
	vocabularyBytes = 160      // of a token's text and its place in the tables: measured
	bytesF32        = 4
	bytesF16        = 2
)

// MemoryOf is the one formula for what a participant takes: a contributor its own segment's cells and rows, the publisher
// what its plan says. waiting is how many tokens' rows are held in wire types at a time: those that a contributor has
// computed and not sent, or that a publisher has received and not placed.
//
// It is within a tenth of what is measured (TestMemoryIsAsPlanned in package llama).
func MemoryOf(model ModelSize, shape Shape, spec CacheSpec, wire Wire, waiting int) Memory {
	m := Memory{
		Program: programBytes + vocabularyBytes*int64(model.Vocabulary),
		Weights: model.Weights,
		Cells:   spec.Bytes(shape),
	}
	batch := int64(spec.MicroBatch)
	// the hidden state, its norm, queries, keys, values and outputs; gate, up and their product
	m.Scratch = bytesF32 * batch * int64(6*model.Width+3*model.FeedForward)
	m.Scratch += bytesF32 * int64(spec.Outputs) * int64(model.Vocabulary)
	// each cache has a mask, and one more for layers with a window
	masks := int64(1)
	for _, layer := range shape.Layers {
		if layer.Window > 0 {
			masks = 2
		}
	}
	m.Scratch += bytesF16 * masks * batch * (padded(spec.LocalCells) + padded(spec.SyncCells))
	if waiting > 0 {
		for l, layer := range shape.Layers {
			if k, v, err := layer.BlockSize(wire.At(l), waiting); err == nil {
				m.Rows += int64(k) + int64(v)
			}
		}
	}
	return m
}

// Session is what comes and goes with a session; the rest is there as long as the process is.
func (m Memory) Session() int64 { return m.Cells + m.Scratch + m.Rows }

// Total is all of it.
func (m Memory) Total() int64 { return m.Program + m.Weights + m.Session() }
