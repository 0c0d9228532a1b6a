package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxInput bounds, in bytes, a question or prompt from stdin.
const maxInput = 1 << 20

// readInput reads all of stdin as a question or a prompt, which what names.
func readInput(stdin io.Reader, what string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	if err != nil {
		return "", fmt.Errorf("reading the %s from stdin: %w", what, err)
	}
	if len(b) > maxInput {
		return "", fmt.Errorf("stdin has more than the %d KiB that a %s may have: give long texts with --doc", maxInput>>10, what)
	}
	return string(b), nil
}

// checkText is for what was typed or read.
func checkText(text, what string) error {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return usagef("the %s is not UTF-8 text: convert it first", what)
	}
	return nil
}
