package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"

	"fedattn/fedkv/node"
)

// readText reads a file that has to be text; flag is the one that named it.
func readText(flag, path string) (string, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("no such text: %s; give an existing file with --%s", path, flag)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%s may not be read: change its permissions, or give another file with --%s", path, flag)
	case err != nil:
		return "", fmt.Errorf("%w; give a text file with --%s", err, flag)
	case !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0:
		return "", fmt.Errorf("%s is not UTF-8 text: convert it first", path)
	case len(bytes.TrimSpace(b)) == 0:
		return "", fmt.Errorf("%s is empty: give a file with text in it with --%s", path, flag)
	}
	return string(b), nil
}

// readDocuments reads the texts that --doc names.
func readDocuments(paths []string) ([]node.Document, error) {
	var docs []node.Document
	for _, path := range paths {
		text, err := readText("doc", path)
		if err != nil {
			return nil, err
		}
		docs = append(docs, node.Document{Name: filepath.Base(path), Text: text})
	}
	return docs, nil
}
