package receipt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

const (
	logFile     = "receipts.jsonl"
	logMode     = 0o600
	maxLine     = 1 << 20 // bytes of one receipt
	maxLatest   = 1 << 18 // bytes of the log that Latest looks at
	lockTimeout = 5 * time.Second
)

// Log is the file of a device's receipts. Several processes may append to it.
type Log struct {
	path   string
	signer Signer
}

// NewLog is the log in a directory, of the device that signer is.
func NewLog(dir string, signer Signer) *Log { return &Log{filepath.Join(dir, logFile), signer} }

// Append numbers, chains, signs and keeps a receipt. It is on disk when Append returns.
func (l *Log) Append(r Receipt) (err error) {
	lock := flock.New(l.path + ".lock")
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	if held, err := lock.TryLockContext(ctx, 10*time.Millisecond); err != nil || !held {
		return fmt.Errorf("another process keeps %s locked", l.path)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, logMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	last, end, err := lastLine(file)
	if err != nil {
		return err
	}
	r.Number, r.Device, r.Time = 1, l.signer.Device(), r.Time.UTC()
	if last != nil {
		before, _, err := open(last)
		if err != nil {
			return fmt.Errorf("the last line of %s: %w; move the file away, and a new one is begun", l.path, err)
		}
		r.Number, r.Previous = before.Number+1, link(last)
	}
	sealed, err := r.seal(l.signer)
	if err != nil {
		return err
	}
	if len(sealed) > maxLine {
		return fmt.Errorf("a receipt of %d bytes, at most %d are kept", len(sealed), maxLine)
	}
	// half a line is what a crash or a full disk left of a receipt that was never kept
	if err := file.Truncate(end); err != nil {
		return err
	}
	if _, err := file.WriteAt(sealed, end); err != nil {
		return err
	}
	return file.Sync()
}

// lastLine is the last whole line and the position behind it; nil and 0 if there is none.
func lastLine(file *os.File) (last []byte, end int64, err error) {
	tail, from, err := tailOf(file, 2*maxLine)
	if err != nil {
		return nil, 0, err
	}
	cut := bytes.LastIndexByte(tail, '\n') + 1
	if cut == 0 {
		if from > 0 {
			return nil, 0, fmt.Errorf("%s has a line that is too long for a receipt", file.Name())
		}
		return nil, 0, nil
	}
	begin := bytes.LastIndexByte(tail[:cut-1], '\n') + 1
	return tail[begin:cut], from + int64(cut), nil
}

// tailOf reads the end of a file, at most so many bytes, and says where that begins.
func tailOf(file *os.File, most int64) (tail []byte, from int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	from = max(0, info.Size()-most)
	tail = make([]byte, info.Size()-from)
	n, err := file.ReadAt(tail, from)
	if err != nil && err != io.EOF {
		return nil, 0, err
	}
	return tail[:n], from, nil
}

// Latest are the last n receipts of the log in a directory, newest first, as they stand there: they are held to nothing,
// and lines that are no receipts are left out. However long the log is, only its last 256 KiB are read, so that it may
// be asked for again and again; receipts that begin before them are not found.
func Latest(dir string, n int) ([]Receipt, error) {
	file, err := os.Open(filepath.Join(dir, logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer file.Close()
	tail, from, err := tailOf(file, maxLatest)
	if err != nil {
		return nil, err
	}
	var list []Receipt
	end := bytes.LastIndexByte(tail, '\n') // behind it is half a line
	for end > 0 && len(list) < n {
		begin := bytes.LastIndexByte(tail[:end], '\n') + 1
		if begin == 0 && from > 0 {
			break // its beginning is not here
		}
		if r, _, err := open(tail[begin:end]); err == nil {
			list = append(list, r)
		}
		end = begin - 1
	}
	return list, nil
}

// Entry is one line of a log as it was found.
type Entry struct {
	Line int
	Receipt
	Err error // why it does not hold, with Verify
}

// Read gives every line of the log in a directory to each, in order. With a device function, which turns a public key
// into an identity, lines are held to signature and chain; without, they are only read.
func Read(dir string, device func(ed25519.PublicKey) string, each func(Entry) error) error {
	file, err := os.Open(filepath.Join(dir, logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	var before []byte
	for n := 1; lines.Scan(); n++ {
		e := Entry{Line: n}
		if device != nil {
			e.Receipt, e.Err = check(lines.Bytes(), before, n, device)
		} else {
			e.Receipt, _, e.Err = open(lines.Bytes())
		}
		if err := each(e); err != nil {
			return err
		}
		before = bytes.Clone(lines.Bytes())
	}
	return lines.Err()
}
