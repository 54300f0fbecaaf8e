package boltstore

import (
	"context"
	"log/slog"
	"math"
	"time"
)

// limits bound what is in memory and what is done in the background.
type limits struct {
	window int64 // bytes of memory, about, after which a window is full
	step   int   // rows that are folded or merged at a time
	runs   int   // so many runs are not merged
	sweep  time.Duration

	issuers int // so many of message IDs get numbers
}

const (
	// windowBytes bounds each of the two windows in memory. A larger one has more changes of the same account to fold at
	// once; this one is a good 200,000 accounts.
	windowBytes = 64 << 20
	// windowShare is what part of a small file a window may be, so that the room that is kept back is enough to fold it.
	windowShare = 32
	// stepRows takes about as long as a commit to a good disk.
	stepRows = 512
	// idleRuns is what a reader may have to look into at any time. It is less work to merge many runs at once.
	idleRuns = 8
	// mergeShare has a commit merge as many rows as it writes for so many runs beyond those that are left alone. A row is
	// merged two or three times in all, so that a flood comes to about two dozen runs.
	mergeShare = 4
	// mostSteps bounds what one commit merges.
	mostSteps = 8
	// While others use the store the background rests for so many times as long as a slice took, else for as long.
	restBusy, restIdle = 4, 1
	// numberedIssuers bounds what is kept in memory for good: a hundred bytes for each time that somebody began to issue
	// message IDs; each start of an engine makes two. Messages of later ones cost a row more. In a file that has so many a
	// larger number would lose sight of messages of an issuer that goes on.
	numberedIssuers = 1 << 16
)

func newLimits(cfg *Config) limits {
	if cfg.limits != nil {
		return *cfg.limits
	}
	l := limits{window: windowBytes, step: stepRows, runs: idleRuns, sweep: sweepEvery, issuers: numberedIssuers}
	if cfg.MaxSize > 0 {
		l.window = min(l.window, cfg.MaxSize/windowShare)
	}
	return l
}

// signal has the background look for work.
func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// maintain folds full windows and merges runs, in slices that are commits of their own or parts of others' commits. It
// leaves most of the time to others; what has to keep up with them is done by their own commits, see background.
func (s *Store) maintain() {
	defer s.leave()
	again := time.NewTicker(s.limits.sweep) // for a sweep that could not be done at once
	defer again.Stop()
	var prepared *layer
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.wake:
		case <-again.C:
		}
		for more := true; more; {
			began, calls := time.Now(), s.callsSoFar()
			var err error
			if more, err = s.maintainOnce(s.life, &prepared, 0); err != nil {
				if s.life.Err() == nil {
					s.cfg.Logger.Error("boltstore: journal is not folded", slog.Any("error", err))
				}
				return
			}
			rest := time.Since(began) * restIdle
			if s.callsSoFar()-calls > 1 { // not ours alone
				rest *= restBusy
			}
			if more && !s.rest(rest) {
				return
			}
		}
	}
}

// rest waits, and reports false if the store is closed meanwhile.
func (s *Store) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.life.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Store) callsSoFar() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// maintainOnce has one slice done, and reports whether there are more. A fold is prepared beforehand, once for each window,
// so that no commit waits for that. The window last is begun to be folded even if it is not full.
func (s *Store) maintainOnce(ctx context.Context, prepared **layer, last uint64) (more bool, err error) {
	s.state.RLock()
	frozen := s.frozen
	s.state.RUnlock()
	var next *folding
	if frozen != nil && frozen != *prepared {
		next, *prepared = newFolding(frozen), frozen
	}
	err = s.submit(ctx, 0, func(w *writer) error {
		w.idle = true
		if next != nil && next.layer == s.frozen && s.fold == nil {
			s.fold = next
		}
		w.rotate = s.active.number <= last && !s.active.empty()
		w.dirty = w.rotate
		more = w.rotate || s.fold != nil || s.merge != nil || s.mergeable() || s.sweepDue() // the last slice may turn out to be none
		return nil
	})
	return more, err
}

// Compact folds the journal and merges runs until that is done, without the pauses that are made in between otherwise: after
// a large import, or before a stop, so that the next Open has nothing to replay. Other calls go on, slower. If ctx ends
// first, what was done stays done, and the rest is done in time.
func (s *Store) Compact(ctx context.Context) error {
	s.state.RLock()
	last := s.active.number
	s.state.RUnlock()
	var prepared *layer
	for {
		if more, err := s.maintainOnce(ctx, &prepared, last); err != nil || !more {
			return err
		}
	}
}

// background does a slice of what is to be done: the fold of a full window, which is done before half of the next one is
// full, and the merge of runs. Should the next window be full before that, the fold is done at once. Commits of others do
// it only as far as it would not keep up with them.
func (s *Store) background(w *writer) error {
	if !w.dirty && !w.idle {
		return nil
	}
	s.owed += w.rows * max(0, len(s.windows)-s.limits.runs) / mergeShare
	fill := float64(s.active.bytes) / float64(s.limits.window)
	if fill >= 1 && s.frozen != nil && s.fold == nil {
		s.fold = newFolding(s.frozen)
	}
	if f := s.fold; f != nil {
		n := int(float64(f.total())*min(1, 2*fill)) - f.done
		switch {
		case fill >= 1:
			n = math.MaxInt
		case w.idle:
			n = max(n, s.limits.step)
		}
		if n < s.limits.step {
			return nil
		}
		return f.slice(w, s, n)
	}
	n := min(s.owed, mostSteps*s.limits.step)
	if w.idle {
		n = max(n, s.limits.step)
	}
	if n < s.limits.step {
		return nil
	}
	if s.merge == nil {
		var err error
		switch {
		case s.sweepDue():
			err = s.sweepOn(w)
		case s.mergeable():
			err = s.startMerge(w)
		}
		if err != nil || s.merge == nil {
			s.owed = 0
			return err
		}
	}
	s.owed -= min(n, s.owed)
	return s.merge.slice(w, s, n)
}
