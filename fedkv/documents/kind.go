package documents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// logName matches files that grow at their end: only that is read of them.
var logName = regexp.MustCompile(`(?i)(\.log(\.\d+)?|^syslog|^messages|^dmesg)$`)

func isLog(name string) bool { return logName.MatchString(path.Base(name)) }

// read is the text of a file, by its kind. Its error is why the file is no document.
func (l *Library) read(ctx context.Context, f found) (text string, err error) {
	file, info, err := f.open()
	if err != nil {
		return "", errors.New(reason(err))
	}
	defer file.Close()
	if isLog(f.path) {
		return tail(file, info.Size(), l.cfg.TailLines)
	}
	head := make([]byte, 512)
	n, err := io.ReadFull(file, head)
	if err != nil && !isEnd(err) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", errors.New(reason(err))
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("%PDF-")) {
		if info.Size() > maxPDF {
			return "", fmt.Errorf("it has %s, a PDF at most %s", sizeText(info.Size()), sizeText(maxPDF))
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return "", errors.New(reason(err))
		}
		text, err = l.convert(ctx, file)
	} else {
		text, err = plain(f.path, head, file, info.Size())
	}
	if err == nil && strings.TrimSpace(text) == "" {
		err = errors.New("there is no text in it")
	}
	if err == nil && len(text) > maxText {
		err = fmt.Errorf("it has %s of text, a document at most %s: cut it, or call it .log to share its end only", sizeText(int64(len(text))), sizeText(maxText))
	}
	return text, err
}

// plain reads what is text already, or becomes text by dropping what is not.
func plain(name string, head []byte, rest io.Reader, size int64) (string, error) {
	if bytes.IndexByte(head, 0) >= 0 {
		return "", errors.New("it is binary")
	}
	if size > maxFile {
		return "", fmt.Errorf("it has %s, at most %s are read: cut it, or call it .log to share its end only", sizeText(size), sizeText(maxFile))
	}
	body, err := io.ReadAll(io.LimitReader(rest, maxFile+1-int64(len(head))))
	if err != nil {
		return "", errors.New(reason(err))
	}
	body = bytes.TrimPrefix(append(head, body...), []byte("\xef\xbb\xbf"))
	switch {
	case len(body) > maxFile:
		return "", errors.New("it grows while it is read")
	case bytes.IndexByte(body, 0) >= 0:
		return "", errors.New("it is binary")
	case !utf8.Valid(body):
		return "", errors.New("it is not UTF-8 text: convert it first")
	}
	switch strings.ToLower(path.Ext(name)) {
	case ".html", ".htm", ".xhtml":
		return markup(body)
	case ".csv", ".tsv":
		return table(body, strings.ToLower(path.Ext(name)) == ".tsv"), nil
	}
	return strings.ReplaceAll(string(body), "\r\n", "\n"), nil
}

// sizeText is a number of bytes as people read it.
func sizeText(bytes int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if bytes >= u.size {
			return fmt.Sprintf("%.4g %s", float64(bytes)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}
