package documents

import "time"

// Every limit of the package, one sentence each.
const (
	// maxDepth bounds how deep folders are looked into.
	maxDepth = 32
	// maxEntries bounds the entries of all folders that are looked at.
	maxEntries = 100_000
	// maxDocuments bounds the documents of a library.
	maxDocuments = 10_000
	// maxSkipped bounds the entries that are named as left out.
	maxSkipped = 1000
	// maxFile bounds, in bytes, a file that is read whole.
	maxFile = 4 << 20
	// maxPDF bounds, in bytes, a PDF file.
	maxPDF = 32 << 20
	// maxText bounds, in bytes, the text of one document.
	maxText = 1 << 20
	// maxTexts bounds, in bytes, the text of all documents.
	maxTexts = 128 << 20
	// maxIgnore bounds, in bytes, a file of patterns.
	maxIgnore = 64 << 10
	// maxRules bounds, in bytes, the file of rules.
	maxRules = 256 << 10
	// tailBytes is how much of a log's end is read.
	tailBytes = 256 << 10
	// TailLines is how many lines of a log count, unless the owner says otherwise.
	TailLines = 200
	// converterTime and converterMemory bound, with maxText, what turning a PDF into text may take.
	converterTime   = 10 * time.Second
	converterMemory = 512 << 20
	// commandTime bounds how long a command may run whose output is a document, and commandEvery how often it runs.
	commandTime  = 10 * time.Second
	commandEvery = 10 * time.Second
	// maxCommands bounds the commands.
	maxCommands = 32
	// maxWatched bounds the folders that the system watches for changes; further ones are looked at every rescan.
	maxWatched = 4096
	// settle is how long changes may keep coming before they are looked at, rescan how often everything is looked at anyway.
	settle = 300 * time.Millisecond
	rescan = 30 * time.Second
	// rulesEvery is how often the file of rules is looked at.
	rulesEvery = time.Second
	// passageBytes is how long a passage should be, in bytes.
	passageBytes = 400
	// maxHits bounds the passages that a question finds.
	maxHits = 256
	// weakHit is the score, as a part of the best one's, below which a passage is not given away.
	weakHit = 0.15
	// maxRemembered bounds the segments that Holds knows.
	maxRemembered = 64
)
