package documents

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch keeps to what is in the folders until the context ends: it looks again soon after the system says that something
// has changed, and now and then anyway, since not every file system says so.
func (l *Library) Watch(ctx context.Context) {
	var events chan fsnotify.Event
	var failed chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		events, failed = watcher.Events, watcher.Errors
	}
	watched := map[string]bool{}
	again := func() {
		if watcher == nil {
			return
		}
		l.mu.Lock()
		folders := l.watched
		l.mu.Unlock()
		now := map[string]bool{}
		for _, dir := range folders {
			if len(now) == maxWatched {
				break
			}
			if now[dir] = true; !watched[dir] {
				_ = watcher.Add(dir) // otherwise the next rescan sees it
			}
		}
		for dir := range watched {
			if !now[dir] {
				_ = watcher.Remove(dir)
			}
		}
		watched = now
	}
	again()
	// what changed between the first look and now
	soon, regular := time.NewTimer(0), time.NewTicker(rescan)
	defer soon.Stop()
	defer regular.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-events:
			if !open {
				events = nil
				continue
			}
			soon.Reset(settle)
			continue
		case _, open := <-failed:
			if !open {
				failed = nil
			}
			continue
		case <-soon.C:
		case <-regular.C:
		}
		if l.Look(ctx) != nil && ctx.Err() != nil {
			return
		}
		again()
	}
}

// WatchRules tells of other rules in a folder until the context ends. Rules that cannot be read are an error, and those
// before them stay in place.
func WatchRules(ctx context.Context, dir string, changed func(Rules, error)) {
	stamped := func() stamp {
		info, err := os.Stat(filepath.Join(dir, RulesFile))
		if err != nil {
			return stamp{}
		}
		return stamp{info.Size(), info.ModTime()}
	}
	last := stamped()
	ticker := time.NewTicker(rulesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := stamped(); now != last {
			last = now
			changed(ReadRules(dir))
		}
	}
}
