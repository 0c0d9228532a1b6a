package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"fedattn/fedkv"
)

// PrefixKeeper is an Engine that keeps what its caches evaluated of prefixes, so that the prefix that all sessions of a
// model have in common goes through its layers once. Only the prefixes of Restorable caches are kept.
type PrefixKeeper interface {
	Prefixes() *Prefixes
}

// Restorable is a Cache whose cells can be copied into another one of the same engine, with the same sync layers. That one
// goes on as if it had evaluated them itself, bit for bit, and its CanShift answers at once.
type Restorable interface {
	// State is a copy of the cells.
	State() ([]byte, error)
	// SetState puts a copy into a cache without cells; after an error it still has none.
	SetState(state []byte) error
}

// Prefixes keeps the cells of prefixes, the most recently used ones, within fedkv.MaxKeptPrefixes and
// fedkv.MaxKeptPrefixBytes. Prefixes are public, and are kept in memory only. The zero value is ready; its methods may be
// called from several goroutines.
type Prefixes struct {
	mu    sync.Mutex
	kept  []keptPrefix // the most recently used last
	bytes int
}

type prefixKey [sha256.Size]byte

type keptPrefix struct {
	key   prefixKey
	state []byte
}

// keyOfPrefix is the digest of what decides a prefix's cells: its tokens, the micro-batches that it is evaluated in, and
// which of the two caches each layer is in. It sees nothing but itself, so that nothing else does.
func keyOfPrefix(spec fedkv.CacheSpec, prefix []fedkv.Token) (key prefixKey) {
	h := sha256.New()
	fmt.Fprintf(h, "%d layers, sync %v, micro-batches of %d\n", spec.Sync.Len(), spec.Sync.Layers(), min(spec.MicroBatch, len(prefix)))
	_ = binary.Write(h, binary.LittleEndian, prefix) // a hash takes everything
	h.Sum(key[:0])
	return key
}

func (p *Prefixes) get(key prefixKey) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.kept, func(k keptPrefix) bool { return k.key == key })
	if i < 0 {
		return nil
	}
	found := p.kept[i]
	p.kept = append(slices.Delete(p.kept, i, i+1), found)
	return found.state
}

func (p *Prefixes) put(key prefixKey, state []byte) {
	if len(state) > fedkv.MaxKeptPrefixBytes {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, k := range p.kept {
		if k.key == key { // another session evaluated it at the same time
			p.drop(i)
			break
		}
	}
	p.kept = append(p.kept, keptPrefix{key, state})
	p.bytes += len(state)
	for len(p.kept) > fedkv.MaxKeptPrefixes || p.bytes > fedkv.MaxKeptPrefixBytes {
		p.drop(0)
	}
}

// drop forgets one; the lock is held.
func (p *Prefixes) drop(i int) {
	p.bytes -= len(p.kept[i].state)
	p.kept = slices.Delete(p.kept, i, i+1)
}

// evalPrefix gives a cache without cells those of a prefix: a copy of what another cache of the engine evaluated, if there
// is one, or its own evaluation's.
func evalPrefix(ctx context.Context, engine Engine, cache Cache, spec fedkv.CacheSpec, prefix []fedkv.Token) (kept bool, err error) {
	if len(prefix) == 0 {
		return false, nil
	}
	keeper, keeps := engine.(PrefixKeeper)
	cells, restores := cache.(Restorable)
	keeps = keeps && restores
	var key prefixKey
	if keeps {
		key = keyOfPrefix(spec, prefix)
		if state := keeper.Prefixes().get(key); state != nil && cells.SetState(state) == nil {
			return true, nil
		}
	}
	release := interruptAfter(ctx, cache)
	err = cache.Eval(prefix, 0, 0, nil)
	release()
	if err != nil {
		return false, evalError(ctx, "the prefix", err)
	}
	if !keeps {
		return false, nil
	}
	if state, err := cells.State(); err == nil { // what cannot be copied is evaluated again
		keeper.Prefixes().put(key, state)
	}
	return false, nil
}
