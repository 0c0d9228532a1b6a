//go:build cgo

package llama

import (
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// narrow evaluates one token at a time, with the kernels for vectors instead of those for matrices.
type narrow struct{ *Engine }

func (e narrow) Open(spec fedkv.CacheSpec) (node.Cache, error) {
	spec.MicroBatch = 1
	return e.Engine.Open(spec)
}

// A build that turns positions by another base is found out, and one that only computes in another order is not.
func TestCanaryOfAWrongBuild(t *testing.T) {
	right := model(t)
	began := time.Now()
	want, err := (&Engine{Model: right}).Canary()
	must(t, err)
	t.Logf("%d bytes, %v", len(want), time.Since(began))
	hello := fedkv.Hello{
		Protocol: fedkv.Protocol, Name: "laptop", Engine: Commit(), Types: []fedkv.Type{fedkv.F16}, Role: fedkv.RolePublisher,
		Model: fedkv.Fingerprint{Architecture: "llama", Layers: right.Layers()}, Canary: want,
	}
	with := func(base float32, threads int) (float64, error) {
		before := right.params
		defer func() { right.params = before }()
		right.params.ropeBase, right.params.Threads = base, threads
		peer := hello
		var err error
		peer.Canary, err = node.Canary(&Engine{Model: right})
		must(t, err)
		d, where := hello.Canary.Distance(peer.Canary, right.Layers())
		t.Logf("base %g, %d threads: %.4f at %s", base, threads, d, where)
		return d, hello.Compatible(peer)
	}
	if _, err := with(0, 2); err != nil {
		t.Errorf("with two threads: %v", err)
	}
	peer := hello
	peer.Canary, err = node.Canary(narrow{&Engine{Model: right}})
	must(t, err)
	d, where := hello.Canary.Distance(peer.Canary, right.Layers())
	t.Logf("one token at a time: %.4f at %s", d, where)
	if err := hello.Compatible(peer); err != nil {
		t.Errorf("one token at a time: %v", err)
	}
	for _, base := range []float32{10000, 90000} {
		if _, err := with(base, 1); fedkv.CodeOf(err) != fedkv.CodeCanary {
			t.Errorf("base %g: %v", base, err)
		}
	}
}
