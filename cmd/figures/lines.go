package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// evalLine is what the figures need of a line of `fedattn eval --format jsonl`.
type evalLine struct {
	Name          string  `json:"name"`
	Participants  int     `json:"participants"`
	Contributors  string  `json:"contributors"`
	Publisher     string  `json:"publisher"`
	KL            float64 `json:"kld_mean"`
	BytesPerToken float64 `json:"kv_bytes_received_per_token"`
	Barriers      int     `json:"barriers"`
}

// centralised and localOnly are the lines between which all others lie.
func (l evalLine) centralised() bool { return l.Name == "centralised" }
func (l evalLine) localOnly() bool   { return l.Publisher == "none" && !l.centralised() }

// decodeLines reads JSON objects, one a line.
func decodeLines[T any](content []byte) ([]T, error) {
	var out []T
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, 1<<24)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, v)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, errors.New("no lines")
	}
	return out, nil
}

// localOnlyReference is the line of a publisher to whom nobody sends anything, if it was measured.
func localOnlyReference(lines []evalLine) []reference {
	for _, l := range lines {
		if l.localOnly() {
			return []reference{{"local only", l.KL}}
		}
	}
	return nil
}
