// Package node runs participants: it drives the session machines of package fedkv with an Engine, which holds the
// model, and Links, which reach other participants. It is the only package with goroutines, deadlines and policy.
//
// The publisher's side starts at Ask (publisher.go), the contributor's at Contributor.Serve (contributor.go). Data
// flows through both in this order, and so do the functions of these files:
//
//  1. segment: the contributor tokenises its text, the publisher its question; the publisher commits the layout
//  2. prefill: each evaluates prefix and segment; a Hook runs at the layers that matter
//  3. rows:    inside the hook the contributor takes a layer's rows out of its cache, quantised
//  4. block:   the machine hands out a header that the plan allows (sender.go queues header and rows)
//  5. wire:    a Link carries it while later layers compute
//  6. remote cells: the receiver checks, stages (staging.go) and places rows (remote.go), rotated in gather
//  7. decode:  the publisher generates alone (Session.Generate)
//
// In gather, rows are placed when all are here, so that a lost contributor leaves no trace: the stream is laid out as
// if it had never joined. In lockstep they are placed inside the layer, and a lost one is masked from then on.
//
// exchange.go is what both sides share: links and clock in, messages out, one event at a time. pipe.go is the twin of
// a network in memory.
package node
