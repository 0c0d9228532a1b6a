// Package fedkv is Federated Attention (FedAttn, Deng et al., arXiv 2511.02647) without a model and without a
// network: who owns which token, who attends to whom at which layer, what has to be sent for it, in which
// bytes, and in which order. One prompt lies on several devices; each computes its own segment, and at the
// sync layers they exchange KV rows instead of text.
//
// # Where to start
//
// The semantics are in five small files, best read in this order:
//
//	segment.go   Segment, Layout: the token stream prefix ‖ segment 1 ‖ … ‖ segment N and its owners
//	schedule.go  Schedule, Schedules: at which layers who attends to everybody, and what follows for sending
//	mask.go      Visible: FedAttn in one predicate
//	collect.go   Collector: the receiver's book of rows
//	session.go   what the two machines Publisher (publisher.go) and Contributor (contributor.go) are driven by
//
// What is sent of it is in rows.go (which rows of a segment), wiretype.go and wirelayers.go (in which types);
// what travels is in wire.go (its bytes, drawn), message.go, block.go and quant.go; what may go wrong is in
// limits.go and errors.go; what must agree between two devices is in fingerprint.go.
//
// Package fedkvtest has Tiny, a Transformer to read, and runs whole sessions on it; paper_test.go holds this
// package to the paper, a test per claim. Package node drives the machines with a real model and real links.
//
// # What it promises
//
//   - No network, clock, goroutine, lock, logger, file or cgo, here or in what it depends on; deps_test.go
//     checks it. Time is an argument.
//   - Determinism: the same events give the same outputs, and in gather the order in which blocks arrive gives
//     the same session.
//   - No panic for anything that came from a peer; a typed error with a Code instead. Every length meets a
//     limit before memory is spent on it.
//   - What leaves a contributor is bounded by its plan, and what a publisher accepts by the same plan: Blocks
//     and Collector are two sides of one rule.
//   - Whoever is missing is named, with the reason and how far they came. In gather with canonical positions
//     the answer is bit for bit the one without them, unless they go missing so late that windows cannot be
//     filled any more, or rows of windowed layers are centred (docs/rfc/0003).
//
// # Words
//
// A participant is a device in a session: the publisher, which asks, is last in token order and decodes, or a
// contributor. Origin is a participant's number in token order, kept for the whole session. A row is one
// token's K or V vector of one layer over all KV heads; a block is rows of one segment at one layer. All ranges
// are half-open: [first, end).
package fedkv
