package assistant

import (
	"strings"

	"fedattn/fedkv/node"
)

// stopper passes an answer on up to the first stop text, which may come in pieces.
type stopper struct {
	stop  []string
	emit  func([]byte) error
	text  strings.Builder // passed on
	rest  string          // may be the beginning of a stop text
	found bool
}

func (s *stopper) write(piece []byte) error {
	if s.found {
		return node.ErrEnough
	}
	s.rest += string(piece)
	end, keep := -1, 0
	for _, stop := range s.stop {
		if stop == "" {
			continue
		}
		if i := strings.Index(s.rest, stop); i >= 0 && (end < 0 || i < end) {
			end = i
		}
		for n := min(len(stop)-1, len(s.rest)); n > keep; n-- {
			if strings.HasSuffix(s.rest, stop[:n]) {
				keep = n
			}
		}
	}
	if end >= 0 {
		s.found = true
		if err := s.pass(s.rest[:end]); err != nil {
			return err
		}
		s.rest = ""
		return node.ErrEnough
	}
	now := s.rest[:len(s.rest)-keep]
	s.rest = s.rest[len(now):]
	return s.pass(now)
}

// flush passes on what waited.
func (s *stopper) flush() error {
	rest := s.rest
	s.rest = ""
	return s.pass(rest)
}

func (s *stopper) pass(text string) error {
	if text == "" {
		return nil
	}
	s.text.WriteString(text)
	if s.emit == nil {
		return nil
	}
	return s.emit([]byte(text))
}
