// Package fedkv is the core of Federated Attention (FedAttn, Deng et al., arXiv 2511.02647) as a protocol
// between devices: who owns which tokens, at which layers participants attend to each other, what rows look
// like on the wire, and how a session runs. It is pure: no cgo, no network, no clock, no goroutine, no
// logger. Engines, links and time are the business of package fedkv/node.
//
// Start reading at mask.go, where the whole algorithm is one predicate, and follow the data:
//
//	segment.go    the token stream and its owners
//	schedule.go   sync layers: H, gather, lockstep and the rest
//	mask.go       who sees whom
//	shape.go, wiretype.go, quant.go, finite.go
//	              rows: sizes, types, the reference codec, the check that they are finite
//	block.go, wire.go
//	              rows of one layer as bytes
//	message.go, cbor.go, fingerprint.go, errors.go
//	              everything else that is said, and what may go wrong
//	collect.go    the receiver's book of rows
//	session.go, publisher.go, contributor.go
//	              the two machines that run a session: Step, Ready, Advance
//	hexdump.go    the wire, explained byte by byte
//
// What it promises: decoders never panic and allocate at most a small multiple of what they are given; every
// length meets its limit in limits.go first; the same events give the same outputs; rows are bit-equal with
// ggml's. docs/wire.md is the normative description of the bytes.
package fedkv
