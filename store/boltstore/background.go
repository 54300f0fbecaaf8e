package boltstore

import (
	"log/slog"
	"math"
	"time"
)

// limits bound what is in memory and what one commit does in the background.
type limits struct {
	window int64 // bytes of memory, about, after which a window is full
	step   int   // rows that a commit folds or merges at least
	runs   int   // so many runs are not merged
	most   int   // so many runs are never exceeded for long
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
	// idleRuns and mostRuns bound the runs that a reader may have to look into. Between them runs are merged when there
	// is time.
	idleRuns = 8
	mostRuns = 24
	// hurry is how many steps of a merge a commit does if there are too many runs.
	hurry = 8
	// numberedIssuers bounds what is kept in memory for good: a hundred bytes for each time that somebody began to issue
	// message IDs; each start of an engine makes two. Messages of later ones cost a row more. In a file that has so many a
	// larger number would lose sight of messages of an issuer that goes on.
	numberedIssuers = 1 << 16
)

func newLimits(cfg *Config) limits {
	if cfg.limits != nil {
		return *cfg.limits
	}
	l := limits{window: windowBytes, step: stepRows, runs: idleRuns, most: mostRuns, sweep: sweepEvery, issuers: numberedIssuers}
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

// maintain sees to it that full windows are folded and runs merged, also if nobody commits. The work itself is done in
// slices, by whoever commits: see background.
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
			s.state.RLock()
			frozen := s.frozen
			s.state.RUnlock()
			var next *folding
			if frozen != nil && frozen != prepared {
				next, prepared = newFolding(frozen), frozen
			}
			var err error
			if more, err = s.maintainOnce(next); err != nil {
				if s.life.Err() == nil {
					s.cfg.Logger.Error("boltstore: journal is not folded", slog.Any("error", err))
				}
				return
			}
		}
	}
}

// maintainOnce has one slice done, and reports whether there are more.
func (s *Store) maintainOnce(next *folding) (more bool, err error) {
	err = s.submit(s.life, 0, func(w *writer) error {
		w.idle = true
		if next != nil && next.layer == s.frozen && s.fold == nil {
			s.fold = next
		}
		more = s.fold != nil || s.merge != nil || s.mergeable() || s.sweepDue() // the last slice may turn out to be none
		return nil
	})
	return more, err
}

// background does a slice of what is to be done: the fold of a full window, which is done before half of the next one is
// full, and the merge of runs. Should the next window be full before that, the fold is done at once.
func (s *Store) background(w *writer) error {
	if !w.dirty && !w.idle {
		return nil
	}
	fill := float64(s.active.bytes) / float64(s.limits.window)
	if fill >= 1 && s.frozen != nil && s.fold == nil {
		s.fold = newFolding(s.frozen)
	}
	if f := s.fold; f != nil {
		n := max(s.limits.step, int(float64(f.total())*min(1, 2*fill))-f.done)
		if fill >= 1 {
			n = math.MaxInt
		}
		return f.slice(w, s, n)
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
			return err
		}
	}
	n := s.limits.step
	if len(s.windows) > s.limits.most {
		n *= hurry
	}
	return s.merge.slice(w, s, n)
}
