package models

import (
	"errors"
	"fmt"
	"io"
	"os"

	"fedattn/fedkv"
	"fedattn/models/gguf"
)

// ErrMemory is the error of a model that does not fit into this device's memory.
var ErrMemory = errors.New("not enough memory")

// Need is what a model takes in memory, in bytes. It is an estimate from the file's header.
type Need struct {
	File    int64 // all its files
	Weights int64 // what is there without a session: the files, and the program
	Scratch int64 // of one evaluation
	KVToken int64 // of one token: its rows in an f16 cache, and its part of the masks
}

// microBatch is how many tokens are evaluated at once.
const microBatch = 512

// NeedOf estimates a model whose files have weights bytes together, by the formula of package fedkv.
func NeedOf(m gguf.Model, weights int64) Need {
	none := fedkv.MemoryOf(SizeOf(m, weights), shapeOf(m), fedkv.CacheSpec{MicroBatch: microBatch, Outputs: 4}, fedkv.Wire{}, 0)
	const tokens = 1 << 10
	some := fedkv.MemoryOf(SizeOf(m, weights), shapeOf(m),
		fedkv.CacheSpec{LocalCells: tokens, SyncCells: tokens, MicroBatch: microBatch, Outputs: 4}, fedkv.Wire{}, 0)
	return Need{File: weights, Weights: none.Weights + none.Program, Scratch: none.Scratch, KVToken: (some.Session() - none.Session()) / tokens}
}

// SizeOf is what a header says, besides attention, about the memory of a model whose files have weights bytes together.
func SizeOf(m gguf.Model, weights int64) fedkv.ModelSize {
	return fedkv.ModelSize{Weights: weights, Width: m.Width, FeedForward: m.FeedForward, Vocabulary: m.Vocabulary}
}

func shapeOf(m gguf.Model) (shape fedkv.Shape) {
	for _, l := range m.Layers {
		layer := fedkv.LayerShape{K: l.K, V: l.V}
		if l.Window {
			layer.Window = m.Window
		}
		shape.Layers = append(shape.Layers, layer)
	}
	return shape
}

// At is what it takes with a cache of so many tokens.
func (n Need) At(tokens int) int64 { return n.Weights + n.Scratch + int64(tokens)*n.KVToken }

// Check holds a model against free bytes of memory; free is 0 where nobody knows. It fails with ErrMemory if the model
// does not fit even with a short context, and returns the longest context that does if that is less than tokens.
func (n Need) Check(free int64, tokens int) (fits int, err error) {
	const least = 512 // tokens, below which nothing useful can be asked
	if free <= 0 || n.At(tokens) <= free {
		return tokens, nil
	}
	if need := n.At(min(least, tokens)); need > free {
		return 0, fmt.Errorf("%w: it takes %s and %s are free; end other programs, or choose a smaller model (fedattn models list)",
			ErrMemory, gigabytes(need), gigabytes(free))
	}
	return int((free - n.Weights - n.Scratch) / max(1, n.KVToken)), nil
}

func gigabytes(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }

// ReadHeader reads the header of a model file.
func ReadHeader(path string) (*gguf.Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return gguf.Read(f)
}

// NeedOfFile estimates the model at path, all shards of it.
func NeedOfFile(path string) (n Need, m gguf.Model, err error) {
	h, err := ReadHeader(path)
	if err != nil {
		return n, m, err
	}
	if m, err = h.Model(); err != nil {
		return n, m, err
	}
	var weights int64
	for _, shard := range Shards(path) {
		info, err := os.Stat(shard)
		if err != nil {
			return n, m, err
		}
		weights += info.Size()
	}
	return NeedOf(m, weights), m, nil
}

// need reads the header that comes from elsewhere.
func need(in io.Reader, weights int64) (Need, error) {
	h, err := gguf.Read(in)
	if err != nil {
		return Need{}, err
	}
	m, err := h.Model()
	return NeedOf(m, weights), err
}
