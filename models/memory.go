package models

import (
	"errors"
	"fmt"
	"io"
	"os"

	"fedattn/models/gguf"
)

// ErrMemory is the error of a model that does not fit into this device's memory.
var ErrMemory = errors.New("not enough memory")

// Need is what a model takes in memory, in bytes. It is an estimate from the file's header.
type Need struct {
	Weights int64
	Scratch int64 // of one evaluation
	KVToken int64 // of one token in an f16 cache
}

// NeedOf estimates a model whose files have weights bytes together.
func NeedOf(m gguf.Model, weights int64) Need {
	return Need{Weights: weights, Scratch: m.ScratchBytes(), KVToken: m.KVBytes()}
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
