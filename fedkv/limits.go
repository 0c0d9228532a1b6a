package fedkv

import "time"

// Every limit of the core, one sentence each. A length that arrives from a peer meets its limit here before
// anything is allocated for it; what the transport limits besides (streams, windows, timeouts) is its own.
const (
	// MaxControlMessage bounds, in bytes, what the length field of a control frame may say: type and body.
	MaxControlMessage = 32 << 10

	// MaxBlock bounds the payload of one block in bytes; a layer with more rows goes as several blocks.
	MaxBlock = 64 << 20

	// MaxParticipants bounds the participants of a session, the publisher included.
	MaxParticipants = 64

	// MaxLayers bounds the Transformer layers of a model.
	MaxLayers = 512

	// MaxRowElements bounds the elements of one K or V row: kv heads × head dim.
	MaxRowElements = 65536

	// MaxPrefix bounds the tokens of the public prefix, which travels inside the Plan.
	MaxPrefix = 4096

	// MaxTokens bounds the tokens of one segment and of a whole session.
	MaxTokens = 1 << 20

	// MaxName bounds, in bytes, a device's name, a model's architecture and the engine's commit.
	MaxName = 64

	// MaxID bounds, in bytes, a peer's identity as text.
	MaxID = 80

	// MaxAddr bounds, in bytes, host:port: the longest DNS name, a colon and five digits.
	MaxAddr = 259

	// MaxText bounds, in bytes, the sentence in a Refuse, an Abort or the note of a Welcome.
	MaxText = 512

	// MaxTypes bounds how many row types a Hello may offer, those unknown to this version included.
	MaxTypes = 32

	// MaxRowShares bounds the shares of rows in a Plan: one for each layer.
	MaxRowShares = MaxLayers

	// MaxQueryVectors bounds the pooled queries of one layer.
	MaxQueryVectors = 4

	// MaxQueryLayers bounds the layers of one Queries.
	MaxQueryLayers = 64

	// MaxQueryBytes bounds the vectors of one Queries in bytes, so that it fits into a control message.
	MaxQueryBytes = 30 << 10

	// joinGrace bounds how long after the commit an earlier contributor may take to open its direct link, which it does at
	// its own commit, before it computes anything.
	joinGrace = 5 * time.Second

	// relayGrace bounds how long after the commit a path through the publisher may take to open: what a direct link is
	// given first, and then as long as others wait for a join.
	relayGrace = 2 * joinGrace

	// MaxRelayQueue bounds the blocks that the publisher holds for one contributor on their way to it; who sends more waits.
	MaxRelayQueue = 8

	// maxPieces bounds the pieces of one segment at one layer that the book keeps apart: twice what the longest segment
	// makes in micro-batches of 512 tokens. Rows that meet count as one piece.
	maxPieces = 2 * MaxTokens / 512

	// MaxRoundTokens bounds the tokens of one Query: those that the publisher evaluates together.
	MaxRoundTokens = 8192

	// MaxRound bounds the payload of one Query or Partial in bytes.
	MaxRound = 64 << 20

	// MaxQuestion bounds, in bytes, the question that a Plan may share.
	MaxQuestion = 2048

	// MaxSources bounds the stretches of a segment that are told apart, and MaxSourceName the bytes of a document's name.
	MaxSources    = 64
	MaxSourceName = 128

	// MaxQueue bounds the sessions that may wait for their turn at a contributor.
	MaxQueue = 1024

	// MaxKeptPrefixes bounds the prefixes whose rows an engine keeps for the sessions to come, and MaxKeptPrefixBytes
	// their bytes: a publisher chooses the prefix.
	MaxKeptPrefixes    = 4
	MaxKeptPrefixBytes = 64 << 20

	// MaxDeadlineMS bounds a session's deadline in milliseconds: one day.
	MaxDeadlineMS = 24 * 60 * 60 * 1000
)
