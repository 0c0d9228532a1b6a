package documents

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

// tail is the last lines of a log of so many bytes, of which only the end is read. What is no text in it is dropped: the
// cut may go through a character, and a log may have holes.
func tail(file io.ReaderAt, size int64, lines int) (string, error) {
	from := max(0, size-tailBytes)
	b := make([]byte, size-from)
	n, err := file.ReadAt(b, from)
	if err != nil && !isEnd(err) {
		return "", errors.New(reason(err))
	}
	text := lastLines(b[:n], lines, from > 0)
	if text == "" {
		return "", errors.New("there is no text at its end")
	}
	return text, nil
}

// lastLines is the last of the lines that bytes end with; cut says that the first of them may not be whole.
func lastLines(b []byte, lines int, cut bool) string {
	if hole := bytes.LastIndexByte(b, 0); hole >= 0 {
		b, cut = b[hole+1:], false
	}
	b = bytes.TrimRight(b, "\r\n\t ")
	begin := len(b)
	for n := 0; begin > 0; n++ {
		if n == lines {
			begin++ // behind the line break
			cut = false
			break
		}
		begin = bytes.LastIndexByte(b[:begin], '\n')
		if begin < 0 {
			begin = 0
			break
		}
	}
	b = b[min(begin, len(b)):]
	if cut {
		if first := bytes.IndexByte(b, '\n'); first >= 0 {
			b = b[first+1:]
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}
