package transport

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"fedattn/fedkv"
)

// Buffer holds the payload of a block until Release, after which its memory belongs to the next one.
type Buffer struct {
	data     []byte
	class    int
	staging  *staging
	released atomic.Bool
}

// Bytes is the payload. It must not be used after Release.
func (b *Buffer) Bytes() []byte {
	if b == nil || b.released.Load() {
		return nil
	}
	return b.data
}

// Release gives the memory back. It may be called more than once, and on nil.
func (b *Buffer) Release() {
	if b == nil || b.released.Swap(true) {
		return
	}
	b.staging.put(b)
}

// staging lends payload memory within a budget of bytes shared by all peers of an endpoint. Memory comes in
// powers of two, so that blocks of slightly different sizes reuse it; the budget counts what is really held.
type staging struct {
	most   int64
	budget *semaphore.Weighted
	lent   atomic.Int64 // bytes
	pools  [maxClass + 1]sync.Pool
}

const (
	minClass = 12 // 4 KiB
	maxClass = 26 // fedkv.MaxBlock
)

func newStaging(most int64) *staging {
	return &staging{most: most, budget: semaphore.NewWeighted(most)}
}

// get lends length bytes, 1 to fedkv.MaxBlock, and waits for other buffers to be released where the budget
// is spent. Their content is undefined.
func (s *staging) get(ctx context.Context, length int) (*Buffer, error) {
	class := max(minClass, bits.Len(uint(length-1)))
	size := int64(1) << class
	if size > s.most {
		return nil, fedkv.Errorf(fedkv.CodeMemory, "a block of %d bytes does not fit into the %d bytes reserved for incoming rows: start with more staging memory", length, s.most)
	}
	if err := s.budget.Acquire(ctx, size); err != nil {
		return nil, contextError(ctx, "waiting for memory to receive a block")
	}
	s.lent.Add(size)
	memory, _ := s.pools[class].Get().(*[]byte)
	if memory == nil {
		fresh := make([]byte, size)
		memory = &fresh
	}
	return &Buffer{data: (*memory)[:length], class: class, staging: s}, nil
}

func (s *staging) put(b *Buffer) {
	size := int64(1) << b.class
	memory := b.data[:size]
	b.data = nil
	s.pools[b.class].Put(&memory)
	s.lent.Add(-size)
	s.budget.Release(size)
}
