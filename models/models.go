// Package models finds, verifies and identifies model files. Start reading at Digest.
package models
