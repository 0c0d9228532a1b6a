package node

import (
	"context"
	"errors"
	"time"

	"fedattn/fedkv"
)

// stay gets the rows that stay home, those of an earlier session or those of an evaluation, and says that they are ready.
func (s *contribution) stay() error {
	if s.key, s.shelve = homeKey(&s.host.cfg, s.work, s.tokens); s.shelve {
		s.home = s.host.shelf.take(s.key)
		s.again = s.home != nil
	}
	if s.home == nil {
		if err := s.evaluate(); err != nil {
			return err
		}
		if err := errors.Join(s.takeHome(), s.free()); err != nil {
			return err
		}
	}
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	_ = s.x.stepLocked(fedkv.Tick{Now: time.Since(s.x.start)}) // Done says when the rows were computed
	return s.x.stepLocked(fedkv.Kept{})
}

// takeHome copies the rows that stay home out of the cache.
func (s *contribution) takeHome() (err error) {
	home, ok := s.cache.(HomeCache)
	if !ok {
		return fedkv.Errorf(fedkv.CodePlan, "this device's engine cannot answer queries; ask for rows")
	}
	s.home, err = home.KeepRows(s.work.Sends, fedkv.Span(s.work.At, len(s.tokens)))
	return err
}

// answerQueries is a contributor's part from then on: it attends for the publisher until the session is over, or no
// query came for as long as the plan allows.
func (s *contribution) answerQueries() error {
	patience := time.Duration(s.plan.DeadlineMS) * time.Millisecond
	waiting, cancel := context.WithTimeoutCause(s.x.live, patience, errOver)
	defer cancel()
	stream, err := s.link.AcceptRounds(waiting)
	if err != nil {
		return s.quiet(err)
	}
	defer stream.Close()
	defer context.AfterFunc(s.x.live, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })()
	conn := roundConn{stream: stream}
	var queries []float32
	var partial fedkv.Partial
	var payload []byte
	for round := uint32(0); ; round++ {
		h, in, err := conn.read(func(h fedkv.RoundHeader) error { return s.checkQuery(h, round) }, patience)
		if err == nil && s.x.live.Err() != nil {
			err = context.Cause(s.x.live)
		}
		if err != nil {
			return s.quiet(err)
		}
		shape := s.x.shape.Layers[h.Layer]
		elements, _, _, _ := shape.HomeSizes()
		queries = append(queries[:0], make([]float32, h.Tokens*elements)...)
		if err := h.Values(queries, elements, in); err != nil {
			return err
		}
		partial = resized(partial, shape, h.Tokens)
		if err := s.home.Attend(h.Layer, h.Offset-s.work.At, h.First, h.Tokens, queries, partial); err != nil {
			s.shelve = false // nobody knows what is wrong with them
			return err
		}
		answer, err := h.Answers(shape)
		if err != nil {
			return err
		}
		if payload, err = answer.AppendPartial(payload[:0], partial, shape); err != nil {
			return err
		}
		s.x.mu.Lock()
		s.answered += h.Tokens
		s.answerBytes += int64(len(payload))
		s.x.mu.Unlock()
		if err := conn.write(answer, payload, roundTimeout); err != nil {
			return s.quiet(err)
		}
	}
}

// checkQuery holds a query to the plan: no more is computed, and no memory spent, for any other.
func (s *contribution) checkQuery(h fedkv.RoundHeader, round uint32) error {
	w := s.work
	if h.Partial || h.Round != round || h.Type != w.Home || !w.Sends.Sync(h.Layer) {
		return fedkv.Errorf(fedkv.CodeRange, "query %d is of round %d, %v, layer %d: the plan says %v, layers %v", round, h.Round, h.Type, h.Layer, w.Home, w.Sends)
	}
	sized, err := h.Sized(s.x.shape.Layers[h.Layer])
	if err != nil {
		return err
	}
	if sized != h || h.Offset < len(w.Prefix) || h.Offset+len(s.tokens) > h.First || w.Positions == fedkv.InPlace && h.Offset != w.At {
		return fedkv.Errorf(fedkv.CodeRange, "a query of %d bytes at position %d over a segment at %d", h.Length, h.First, h.Offset)
	}
	s.x.mu.Lock()
	answered := s.answered
	s.x.mu.Unlock()
	if most := s.host.cfg.MaxQueries; most > 0 && answered+h.Tokens > most {
		return fedkv.Errorf(fedkv.CodeLimit, "its owner answers at most %d queries in a session", most)
	}
	return nil
}

// quiet is the end of the stream of queries: the session is over, or the publisher is gone or silent.
func (s *contribution) quiet(err error) error {
	if s.x.live.Err() != nil {
		return context.Cause(s.x.live)
	}
	switch fedkv.CodeOf(err) {
	case fedkv.CodeLost, fedkv.CodeDeadline, fedkv.CodeInternal:
		// messages have a stream of their own: the publisher's last word may be on the way
		ctx, cancel := context.WithTimeout(s.x.live, flushTimeout)
		defer cancel()
		_ = s.x.await(ctx, func() bool { return false })
		if s.x.live.Err() == nil {
			_ = s.x.step(fedkv.PeerDown{Origin: fedkv.PublisherLink, Code: fedkv.CodeDeadline})
		}
		return errOver
	}
	return err
}
