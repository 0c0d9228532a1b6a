// Package documents holds what a device contributes: texts in folders, what commands print and what comes on standard
// input, and chooses for each question what of it goes into the segment. No text leaves this package but as tokens of a
// segment that its owner's rules allow.
//
// Data flows through its files in this order:
//
//  1. folder: files below the given folders, and nothing outside them (folder.go, ignore.go)
//  2. text: what a file says, by its kind (kind.go, table.go, markup.go, pdf.go, tail.go), with a cap for each
//  3. live documents: commands and standard input (live.go)
//  4. library: all documents as they are now, their names and rules (library.go, rules.go, watch.go)
//  5. passages: documents cut where they may be cut (passage.go)
//  6. choice: which passages fit, by the question or by the owner's fixed order (choose.go, index.go)
//  7. segment: tokens, and of which document they are (segment.go)
//
// Nothing that is found in a folder is fatal: what cannot be read is named with its reason (Skipped) and left out.
// limits.go has every cap.
package documents
