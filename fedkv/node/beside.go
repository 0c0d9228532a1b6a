package node

import "context"

// Beside starts a contributor in this process, which is reached without a network, and returns how. cfg has no Peers: it
// meets nobody else. It runs until stop is called, which waits for its end, or the context ends.
func Beside(ctx context.Context, name string, cfg ContributorConfig) (contact Contact, stop func()) {
	memory := NewMemory()
	cfg.Peers = memory.Join(cfg.ID)
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
