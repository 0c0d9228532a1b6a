package node

import (
	"context"

	"fedattn/fedkv"
)

// Beside starts a contributor in this process, which is reached without a network, and returns how. cfg has no Peers: it
// reaches nobody but the publisher, which passes rows of lockstep on between it and others if cfg has Signer and Device.
// It runs until stop is called, which waits for its end, or the context ends.
func Beside(ctx context.Context, name string, cfg ContributorConfig) (contact Contact, stop func()) {
	memory := NewMemory()
	cfg.Peers = besides{memory.Join(cfg.ID)}
	asker := memory.Join("publisher")
	contributor := NewContributor(cfg)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = contributor.Serve(ctx)
	}()
	dial := func(ctx context.Context) (Link, error) { return asker.Dial(ctx, Address{ID: cfg.ID}) }
	return Contact{Name: name, Dial: dial}, func() { cancel(); <-done }
}

// besides are the Peers of a contributor beside the publisher. Others there may have its ID, which is the device's, so
// that an ID does not say which one is meant.
type besides struct{ Peers }

func (besides) Dial(context.Context, Address) (Link, error) {
	return nil, fedkv.Errorf(fedkv.CodeLost, "it is reached through the publisher")
}
