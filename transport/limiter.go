package transport

import (
	"sync"
	"time"
)

// limiter is a token bucket: perSecond on average, and as many at once after a quiet second.
type limiter struct {
	perSecond float64

	mu      sync.Mutex
	tokens  float64
	updated time.Time
}

// allow takes a token if there is one.
func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.updated.IsZero() {
		l.tokens = l.perSecond
	} else {
		l.tokens = min(l.perSecond, l.tokens+l.perSecond*now.Sub(l.updated).Seconds())
	}
	l.updated = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
