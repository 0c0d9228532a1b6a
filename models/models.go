// Package models finds, brings, verifies and identifies model files, and says what they take in memory.
//
// Start reading at Source.Find (source.go): a model is a file, a name of the catalogue (catalogue.go), or user/repo on a
// hub (package hub, which downloads and caches). Digest identifies a file; memory.go holds what a header says (package
// gguf) against what the device has.
package models
