package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

type signer struct{ key ed25519.PrivateKey }

func newSigner(t *testing.T) signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key}
}

func deviceOf(key ed25519.PublicKey) string   { return hex.EncodeToString(key) }
func (s signer) PublicKey() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }
func (s signer) Device() string               { return deviceOf(s.PublicKey()) }
func (s signer) Sign(message []byte) []byte   { return ed25519.Sign(s.key, message) }
func (s signer) keep(dir string, tokens ...int) error {
	for _, n := range tokens {
		if err := NewLog(dir, s).Append(Receipt{Time: time.Now(), Peer: "P", Tokens: n, Outcome: Sent}); err != nil {
			return err
		}
	}
	return nil
}

func read(t *testing.T, dir string) (tokens []int, faults []int) {
	t.Helper()
	err := Read(dir, deviceOf, func(e Entry) error {
		if e.Err != nil {
			faults = append(faults, e.Line)
			return nil
		}
		tokens = append(tokens, e.Tokens)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tokens, faults
}

func TestLog(t *testing.T) {
	dir, s := t.TempDir(), newSigner(t)
	if tokens, faults := read(t, dir); len(tokens)+len(faults) > 0 {
		t.Errorf("without a file: %v, %v", tokens, faults)
	}
	if err := s.keep(dir, 5, 6, 7); err != nil {
		t.Fatal(err)
	}
	if tokens, faults := read(t, dir); !slices.Equal(tokens, []int{5, 6, 7}) || len(faults) > 0 {
		t.Errorf("%v, faults %v", tokens, faults)
	}
	if info, err := os.Stat(filepath.Join(dir, logFile)); err != nil || info.Mode().Perm() != logMode {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Every change but a cut at the end is found, at the line where it is or the one behind it.
func TestTampering(t *testing.T) {
	dir, s := t.TempDir(), newSigner(t)
	if err := s.keep(dir, 5, 6, 7, 8); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, logFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))[:4]
	other := t.TempDir()
	if err := newSigner(t).keep(other, 5, 9); err != nil {
		t.Fatal(err)
	}
	foreign, _ := os.ReadFile(filepath.Join(other, logFile))
	// somebody else's key, and this device's name: the chain is right
	forged, err := Receipt{Number: 2, Previous: link(lines[0]), Device: s.Device(), Tokens: 6}.seal(newSigner(t))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		text  []byte
		fault int
	}{
		"a number":           {bytes.Replace(good, []byte(`"tokens":6`), []byte(`"tokens":60`), 1), 2},
		"a line taken out":   {bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil), 2},
		"the first one":      {bytes.Join(lines[1:], nil), 1},
		"two swapped":        {bytes.Join([][]byte{lines[0], lines[2], lines[1], lines[3]}, nil), 2},
		"one twice":          {bytes.Join([][]byte{lines[0], lines[0], lines[1]}, nil), 2},
		"another device's":   {bytes.Join([][]byte{lines[0], bytes.SplitAfter(foreign, []byte("\n"))[1], lines[2]}, nil), 2},
		"another key":        {slices.Concat(lines[0], forged), 2},
		"nonsense":           {append([]byte("{}\n"), good...), 1},
		"a key of one's own": {bytes.Replace(good, []byte(`"key":"`), []byte(`"key":"AAAA`), 1), 1},
	} {
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, faults := read(t, dir); len(faults) == 0 || faults[0] != c.fault {
			t.Errorf("%s: faults %v, want the first in line %d", what, faults, c.fault)
		}
	}
}

// The latest receipts are found at the end of a log of any length without reading the rest of it.
func TestLatest(t *testing.T) {
	dir, s := t.TempDir(), newSigner(t)
	path := filepath.Join(dir, logFile)
	expect := func(what string, n int, want ...int) {
		t.Helper()
		list, err := Latest(dir, n)
		var got []int
		for _, r := range list {
			got = append(got, r.Tokens)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	expect("no log", 3)
	if err := s.keep(dir, 5, 6, 7, 8); err != nil {
		t.Fatal(err)
	}
	expect("some", 3, 8, 7, 6)
	expect("all", 9, 8, 7, 6, 5)
	expect("none", 0)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	write := func(parts ...[]byte) {
		t.Helper()
		if err := os.WriteFile(path, slices.Concat(parts...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(lines[0], []byte("nonsense\n\n"), lines[1], lines[2][:9])
	expect("with lines that are none", 3, 6, 5)
	write()
	expect("an empty log", 3)

	// behind a terabyte that nobody could read in time, and whose line nobody could keep
	write()
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Skip("no files with holes: ", err)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(slices.Concat([]byte("\n"), lines[0], lines[1]))
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	expect("at the end of a long log", 3, 6, 5)
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	expect("in a line without an end", 3)
}

// What a crash left of a line does not spoil the next one.
func TestHalfALine(t *testing.T) {
	dir, s := t.TempDir(), newSigner(t)
	if err := s.keep(dir, 5); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, logFile)
	good, _ := os.ReadFile(path)
	for _, half := range [][]byte{good[:len(good)/2], good[:len(good)-1]} {
		if err := os.WriteFile(path, slices.Concat(good, half), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.keep(dir, 6); err != nil {
			t.Fatal(err)
		}
		if tokens, faults := read(t, dir); !slices.Equal(tokens, []int{5, 6}) || len(faults) > 0 {
			t.Errorf("%v, faults %v", tokens, faults)
		}
	}
}

func TestAppendersTakeTurns(t *testing.T) {
	dir, s := t.TempDir(), newSigner(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if err := s.keep(dir, i); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if tokens, faults := read(t, dir); len(tokens) != 8 || len(faults) > 0 {
		t.Errorf("%v, faults %v", tokens, faults)
	}
}

func ExampleRead() {
	err := Read("no-such-directory", nil, func(e Entry) error { fmt.Println(e.Tokens); return nil })
	fmt.Println(err)
	// Output: <nil>
}
