package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// attempts that bring nothing new may follow each other so often.
const attempts = 5

// errRetry marks what a later attempt may mend.
type errRetry struct{ error }

func (e errRetry) Unwrap() error { return e.error }

// part is a file on its way: its bytes so far are on disk, and hashed.
type part struct {
	file *os.File
	hash hash.Hash
	size int64
	want File
	tell func(done int64)
}

// openPart opens a file that may have begun to come before, and hashes what is there.
func openPart(ctx context.Context, path string, want File, progress Progress) (*part, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	p := &part{file: f, hash: sha256.New(), want: want, tell: func(int64) {}}
	if progress != nil {
		p.tell = func(done int64) { progress(want.Path, done, want.Size) }
	}
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		p.hash.Write(buf[:n])
		p.size += int64(n)
		if p.size > want.Size { // it was another file's
			return p, p.restart()
		}
		if errors.Is(err, io.EOF) {
			p.tell(p.size)
			return p, nil
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	f.Close()
	return nil, ctx.Err()
}

// restart forgets what came.
func (p *part) restart() error {
	p.hash.Reset()
	p.size = 0
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

func (p *part) Write(b []byte) (int, error) {
	if p.size+int64(len(b)) > p.want.Size {
		return 0, fmt.Errorf("%w: more bytes came than the hub announced", ErrCorrupt)
	}
	n, err := p.file.Write(b)
	p.hash.Write(b[:n])
	p.size += int64(n)
	p.tell(p.size)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: free %s and run the same command again, it goes on where it stopped", ErrNoSpace, bytesText(p.want.Size-p.size))
	}
	return n, err
}

// download brings a file into blobs/SHA256. What a broken attempt brought stays for the next.
func (c *client) download(ctx context.Context, cache Cache, m Model, f File, progress Progress) (err error) {
	blob := cache.blob(m.Repo, f)
	if err := os.MkdirAll(parent(blob), 0o755); err != nil {
		return err
	}
	lock := flock.New(cache.lock(m.Repo, f))
	if err := os.MkdirAll(parent(lock.Path()), 0o755); err != nil {
		return err
	}
	if locked, err := lock.TryLock(); err != nil {
		return err
	} else if !locked {
		return fmt.Errorf("another process downloads it: wait for that one to end")
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if info, err := os.Stat(blob); err == nil && info.Size() == f.Size {
		return nil // the other process brought it
	}
	p, err := openPart(ctx, blob+".incomplete", f, progress)
	if err != nil {
		return err
	}
	defer p.file.Close()
	if err := c.fill(ctx, m, p); err != nil {
		return err
	}
	if got := hex.EncodeToString(p.hash.Sum(nil)); got != f.SHA256 {
		_ = p.restart() // nothing of it can be trusted
		return fmt.Errorf("%w: its SHA-256 is %s… and should be %s…; run the same command again", ErrCorrupt, got[:12], f.SHA256[:12])
	}
	if err := errors.Join(p.file.Sync(), p.file.Close()); err != nil {
		return err
	}
	return os.Rename(p.file.Name(), blob)
}

// fill asks until all bytes are here, or until several attempts in a row brought nothing new.
func (c *client) fill(ctx context.Context, m Model, p *part) error {
	pause := c.pause
	for vain, most := 0, p.size; p.size < p.want.Size; {
		err := c.attempt(ctx, m, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var retry errRetry
		if err != nil && !errors.As(err, &retry) {
			return err
		}
		if p.size > most { // more than ever: a hub that begins anew each time is not progress
			vain, most, pause = 0, p.size, c.pause
		} else {
			vain++
		}
		if p.size >= p.want.Size {
			break
		}
		if vain >= attempts {
			if err == nil {
				err = fmt.Errorf("%w: it ends after %s of %s", ErrCorrupt, bytesText(p.size), bytesText(p.want.Size))
			}
			return fmt.Errorf("%w; run the same command again, it goes on where it stopped", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, time.Minute)
	}
	return nil
}

// attempt asks once for what is missing.
func (c *client) attempt(ctx context.Context, m Model, p *part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{}
	if p.size > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.size))
	}
	resp, err := c.get(ctx, c.address(m, p.want), header)
	if err != nil {
		return errRetry{c.unreachable(err)}
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK: // it knows no ranges, or the file was changed
		if p.size > 0 {
			if err := p.restart(); err != nil {
				return err
			}
		}
	case http.StatusPartialContent:
		if first, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || first != p.size {
			return errors.Join(errRetry{fmt.Errorf("%w: the hub sent another part than it was asked for", ErrCorrupt)}, p.restart())
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return errors.Join(errRetry{fmt.Errorf("%w: the hub has a shorter file than it announced", ErrCorrupt)}, p.restart())
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return errRetry{c.refused(resp, m.Repo)}
	default:
		return c.refused(resp, m.Repo)
	}
	stalled := time.AfterFunc(c.stall, func() { cancel(errors.New("nothing came any more")) })
	defer stalled.Stop()
	_, err = io.Copy(p, &watched{resp.Body, func() { stalled.Reset(c.stall) }})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrCorrupt):
		return errors.Join(err, p.restart())
	case errors.Is(err, ErrNoSpace) || isFileError(err):
		return err
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	}
	return errRetry{c.unreachable(err)}
}

// isFileError tells errors of this side's disk from those of the network.
func isFileError(err error) bool {
	var file *os.PathError
	return errors.As(err, &file)
}

// watched tells of every byte that comes.
type watched struct {
	io.Reader
	came func()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.came()
	}
	return n, err
}

// rangeStart is the first byte that a Content-Range names.
func rangeStart(text string) (int64, bool) {
	text, ok := strings.CutPrefix(text, "bytes ")
	first, _, cut := strings.Cut(text, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, ok && cut && err == nil
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d bytes", n)
}
