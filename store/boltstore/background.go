package boltstore

import (
	"context"
	"fmt"
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
	// mergeShare has a commit merge as many rows as it writes for so many runs beyond those that are left alone, mostRows at
	// most. A row is merged once or twice in all, so that even a flood comes to rest at one or two dozen runs.
	mergeShare = 4
	mostRows   = 32 * stepRows
	// While others use the store the background rests for so many times as long as a slice took, else for as long.
	restBusy, restIdle = 4, 1
	mostRest           = time.Second
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

// maintain folds full windows and merges runs, in slices for which it waits in line with others. It leaves most of the time
// to them; what has to keep up with them is done by their own commits, see background.
func (s *Store) maintain() {
	defer s.leave()
	again := time.NewTicker(s.limits.sweep) // for a sweep that could not be done at once
	defer again.Stop()
	var m maintenance
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.wake:
		case <-again.C:
		}
		for more := true; more; {
			began := time.Now()
			var err error
			if more, err = s.maintainOnce(s.life, &m, s.unfinished); err != nil {
				s.workFailed(fmt.Errorf("fold and merge: %w", err))
				return
			}
			rest := time.Since(began) * restIdle
			if s.busy(&m) {
				rest *= restBusy
			}
			if more && !s.rest(min(rest, mostRest)) {
				return
			}
		}
	}
}

// maintenance is what is known from one slice to the next.
type maintenance struct {
	prepared *layer // whose fold was prepared
	calls    uint64
}

// busy reports whether there were calls of others since it was called last.
func (s *Store) busy(m *maintenance) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.calls - m.calls
	m.calls = s.calls
	return n > 1 // the slice itself is one
}

// rest waits, unless a window is full, and reports false if the store is closed meanwhile.
func (s *Store) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.life.Done():
		return false
	case <-s.wake:
	case <-t.C:
	}
	return true
}

// maintainOnce has one slice done if there is something left, and reports whether there was. A fold is prepared beforehand,
// once for each window, so that no commit waits for that.
func (s *Store) maintainOnce(ctx context.Context, m *maintenance, left func(*writer) bool) (more bool, err error) {
	s.state.RLock()
	frozen := s.frozen
	s.state.RUnlock()
	var next *folding
	if frozen != nil && frozen != m.prepared {
		next, m.prepared = newFolding(frozen), frozen
	}
	err = s.submit(ctx, 0, func(w *writer) error {
		w.idle = true
		if next != nil && next.layer == s.frozen && s.fold == nil {
			s.fold = next
		}
		more = left(w)
		return nil
	})
	return more, err
}

// unfinished reports whether there is anything to do in the background. The last slice may turn out to be none.
func (s *Store) unfinished(*writer) bool {
	return s.frozen != nil || s.merge != nil || s.mergeable() || s.sweepDue()
}

// Compact folds the journal and merges runs, as far as they were there when it was called, without the rests that are made in
// between otherwise: after a large import, or before a stop, so that the next Open has little to replay. Other calls go on,
// slower. If ctx ends first Compact returns its error; what was done stays done, and the rest is done in time.
func (s *Store) Compact(ctx context.Context) error {
	s.state.RLock()
	last := s.active.number
	s.state.RUnlock()
	var m maintenance
	for {
		more, err := s.maintainOnce(ctx, &m, func(w *writer) bool { return s.uncompacted(w, last) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || !more {
			return err
		}
	}
}

// uncompacted reports whether windows up to last are still to be folded, or the runs with them to be merged. The window that
// is written to need not be full for that.
func (s *Store) uncompacted(w *writer, last uint64) bool {
	if s.active.number <= last && !s.active.empty() {
		w.rotate, w.dirty = true, true
		return true
	}
	old := 0
	for _, run := range s.windows {
		if run.first <= last {
			old++
		}
	}
	return s.frozen != nil && s.frozen.number <= last || s.merge != nil && s.merge.out.first <= last || old > s.limits.runs
}

// background does what is to be done beside the operations of a group: a slice if the group has one that asks for it, and what
// must keep up with the others. A full window is folded before half of the next one is full. Should that be full before, the
// rest is folded at once.
func (s *Store) background(w *writer) error {
	if !w.dirty && !w.idle {
		return nil
	}
	more := max(0, len(s.windows)-s.limits.runs)
	s.owed = min(s.owed+w.rows*more, mostRows*mergeShare)
	fill := float64(s.active.bytes) / float64(s.limits.window)
	if fill >= 1 && s.frozen != nil && s.fold == nil {
		s.fold = newFolding(s.frozen)
	}
	idle := 0
	if w.idle {
		idle = s.limits.step
	}
	if f := s.fold; f != nil {
		n := max(idle, int(float64(f.total())*min(1, 2*fill))-f.done)
		if fill >= 1 {
			n = math.MaxInt
		}
		if n >= s.limits.step {
			began := time.Now()
			err := f.slice(w, s, n)
			timed(&s.meters.foldTime, began)
			if err != nil {
				return err
			}
		}
		idle = 0
	}
	if n := max(idle, s.owed/mergeShare); n >= s.limits.step {
		s.owed -= min(s.owed, n*mergeShare)
		return s.mergeSome(w, n)
	}
	return nil
}

// mergeSome merges n rows, if there is anything to merge.
func (s *Store) mergeSome(w *writer, n int) error {
	defer timed(&s.meters.mergeTime, time.Now())
	if s.merge == nil {
		var err error
		switch {
		case s.sweepDue():
			err = s.sweepOn(w)
		case s.mergeable():
			err = s.startMerge(w)
		}
		if err != nil || s.merge == nil {
			return err
		}
	}
	return s.merge.slice(w, s, n)
}
