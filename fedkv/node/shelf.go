package node

import (
	"errors"
	"slices"
	"sync"
)

// shelf keeps rows that answer queries from one session to the next, so that an unchanged segment is not evaluated again.
// Who uses rows takes them off; two sessions at the same time have rows of their own, of which one comes back.
type shelf struct {
	most int64 // bytes

	mu     sync.Mutex
	rows   []shelved // the most recently used last
	bytes  int64
	valid  func(RowKey) bool // nil: all are
	closed bool
}

type shelved struct {
	key  RowKey
	rows KeptRows
}

// take returns the rows of a segment, or nil; they are the caller's until it puts them back or closes them.
func (s *shelf) take(key RowKey) KeptRows {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.rows, func(r shelved) bool { return r.key == key })
	if i < 0 {
		return nil
	}
	return s.remove(i)
}

// put keeps rows for the sessions to come, or closes them if they are not wanted any more, or there.
func (s *shelf) put(key RowKey, rows KeptRows) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := rows.Bytes()
	if s.closed || size > s.most || s.valid != nil && !s.valid(key) ||
		slices.ContainsFunc(s.rows, func(r shelved) bool { return r.key == key }) {
		return rows.Close()
	}
	var err error
	for s.bytes+size > s.most {
		err = errors.Join(err, s.remove(0).Close())
	}
	s.rows = append(s.rows, shelved{key, rows})
	s.bytes += size
	return err
}

// remove takes rows off; the lock is held.
func (s *shelf) remove(i int) KeptRows {
	rows := s.rows[i].rows
	s.rows = slices.Delete(s.rows, i, i+1)
	s.bytes -= rows.Bytes()
	return rows
}

// retain closes the rows that are not valid, now and when they come back.
func (s *shelf) retain(valid func(RowKey) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid = valid
	var err error
	for i := len(s.rows) - 1; i >= 0; i-- {
		if !valid(s.rows[i].key) {
			err = errors.Join(err, s.remove(i).Close())
		}
	}
	return err
}

// close frees everything, and what comes back later.
func (s *shelf) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var err error
	for len(s.rows) > 0 {
		err = errors.Join(err, s.remove(0).Close())
	}
	return err
}
