// Package bench measures how long prompts and answers take: on one device alone, split over several, and in other programs
// beside. It speaks llama-bench's language: pp512 is a prompt of 512 tokens, tg128 is 128 tokens of an answer, @ d2048 is
// behind 2048 others. Federated tests have an f before: fpp2048 is the time to the first token of a prompt of which each
// device holds a part, ftg32 @ d2048 are the tokens that follow it.
//
// Contributors are processes of their own, reached over QUIC, each on cores of its own where there are enough; the asker is
// this process. What is compared runs in turn, A B A B, and ratios are taken within turns. In the order in which things
// happen:
//
//  1. matrix.go   what is asked for becomes tests, and each federated one gets the same test on one device beside it
//  2. cores.go    devices get their cores
//  3. text.go     a prompt's tokens become a document for each device
//  4. fleet.go    nodes are started, and links between them and here
//  5. turns.go    all tests run, turn by turn: alone.go, session.go and programs.go know how
//  6. row.go      what was measured, and ratios
//  7. format.go   as llama-bench prints it, and markdown.go as people read it
package bench
