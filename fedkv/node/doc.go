// Package node runs participants: it drives the session machines of package fedkv with an Engine, which holds the
// model, and Links, which reach other participants. It is the only package with goroutines, deadlines and policy.
//
// The publisher's side starts at Ask (publisher.go), which is one question, or at Open (conversation.go), which is several
// turns over the same rows; the contributor's at Contributor.Serve (contributor.go). Data flows through both in this order,
// and so do the functions of these files:
//
//  1. segment: the contributor tokenises its text (documents.go), the publisher its question; the publisher commits
//     the layout
//  2. prefill: each evaluates prefix and segment (evaluate.go); a Hook runs at the layers that matter
//  3. rows: inside the hook the contributor takes the rows of a layer that are selected out of its cache, quantised
//  4. block: the machine hands out a header that the plan allows; header and rows wait in a queue (sender.go)
//  5. wire: a Link carries it while later layers compute; the receiver checks it and holds it (staging.go)
//  6. remote cells: inside the hook the receiver places the layer's rows, rotated in gather (remote.go)
//  7. decode: the publisher generates alone (Session.Generate, Conversation.Turn)
//
// gathering.go is the publisher's part of 1 to 5, for those who are asked together: a session of the machine. shares.go
// is who takes part in a conversation, talk.go what stands in its cache.
//
// In gather the publisher's own segment is evaluated when all rows are here, so that a lost contributor leaves no
// trace: the stream is laid out as if it had never joined. In lockstep participants wait inside the layer, and a lost
// one is hidden from the first layer on of which not all its rows came.
//
// exchange.go is what both sides share: links and clock in, messages out (outbox.go), one event at a time. pipe.go is
// the twin of a network in memory, nodetest that of an engine.
//
// # Conversations
//
//	c, err := node.Open(ctx, node.Chat{…})       // asks the contributors in the background
//	reply, err := c.Turn(ctx, node.Turn{Text: "Where is the key?", Sampler: s, Limit: 256, Emit: show})
//	reply, err = c.Turn(ctx, node.Turn{Text: "And who has the other one?", Sampler: s})  // receives and repeats nothing
//	err = c.Add(contact)                         // joins with the next turn
//	err = c.Withdraw(0)                          // share 0 counts no more, as if it had never been there
//	reply, err = c.Regenerate(ctx, node.Turn{Sampler: s})
//	err = c.Rewind(0)                            // forgets what was said, keeps the contributors
//	err = c.Recall("…", "…")                     // takes up a turn that was said elsewhere
//	err = c.Close()
//
// A failed turn leaves no trace and can be repeated; ContextFull says with numbers that there is no room for one. A
// cancelled answer keeps what was shown. The reply's Report has tokens, bytes, times and who is missing.
//
// # Deadlines
//
// Every wait ends. A contributor's session: hello within helloTimeout, the plan within planTimeout, and everything else by the plan's deadline, which is the publisher's GatherBy. The publisher: its
// contributors are fixed at SetupBy at the latest, their rows are here at GatherBy or missing; after that it computes
// alone. A turn ends with its context. Where a machine has the deadline it is the machine's to judge. Evaluations are interrupted when the session
// ends.
//
// # Memory
//
// What a peer can make this side hold is bounded: messages by outbox's limit, rows that come by the plan (each row
// once, and MaxStaging), rows that go by the own segment. A contributor frees its cache when its rows are out of it, but
// keeps it until the session's end where more of them may be asked for (fedkv.Work.Owes).
package node
