// Package nodetest holds what tests of participants need: an Engine that is slow, readable and pure Go (engine.go,
// cache.go, rows.go), what a session's logits must be (oracle.go), and links that misbehave (links.go).
//
// The engine computes with fedkvtest.Tiny and keeps its rows as float16, as the real one does. It sums in the order of
// positions, so that two runs which are the same mathematics are the same bits: tests compare with ==.
package nodetest
